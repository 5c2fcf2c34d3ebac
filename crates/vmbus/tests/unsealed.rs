//! Unsealed memory (design rule 1): data buffers only, system calls only, and no way of shrinking it does more than fail
//! the one call that meets the hole.
#![cfg(not(feature = "loom"))]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, fcntl_setfl, fstat, ftruncate, memfd_create, open,
};
use rustix::io::{pread, pwrite};
use vmbus::gpa::{GpaError, GuestMemory};
use vmbus::layout::PAGE_SIZE;
use vmbus::memory::{Region, RegionError, Span, SpanList, UnsealedRegion};

const PAGE: u64 = PAGE_SIZE as u64;

fn memfd(pages: u64) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, pages * PAGE).unwrap();
    fd
}

fn region(fd: impl AsFd, first_page: u64, pages: u64) -> Arc<UnsealedRegion> {
    Arc::new(UnsealedRegion::map(fd.as_fd(), first_page, pages * PAGE).unwrap())
}

fn spans(region: &Arc<UnsealedRegion>) -> SpanList {
    let mut list = SpanList::new();
    list.push(Span::new(Arc::clone(region), 0, region.len()));
    list
}

fn file_of(bytes: &[u8]) -> OwnedFd {
    let fd = memfd_create("source", MemfdFlags::CLOEXEC).unwrap();
    assert_eq!(pwrite(&fd, bytes, 0).unwrap(), bytes.len());
    fd
}

fn is_fault<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.raw_os_error() == Some(14))
}

#[test]
fn rule_1_only_writable_memory_of_ordinary_pages_is_accepted() {
    let refused = |fd: BorrowedFd<'_>| UnsealedRegion::map(fd, 0, PAGE).unwrap_err();
    let path = std::env::current_exe().unwrap().with_file_name(format!("vmbus-unsealed-{}", std::process::id()));
    let disk = File::create_new(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    disk.set_len(PAGE).unwrap();
    if rustix::fs::fstatfs(&disk).unwrap().f_type as u64 != 0x0102_1994 {
        assert!(matches!(refused(disk.as_fd()), RegionError::NotMemory), "a page fault there may wait for a disk");
    }
    assert!(matches!(refused(File::open("/dev/zero").unwrap().as_fd()), RegionError::NotMemory));
    let (reader, _writer) = std::io::pipe().unwrap();
    assert!(matches!(refused(reader.as_fd()), RegionError::NotMemory));
    let whole = memfd(1);
    let proc_path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&whole));
    for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::PATH] {
        let other = open(proc_path.as_str(), flags | OFlags::CLOEXEC, Mode::empty()).unwrap();
        assert!(matches!(refused(other.as_fd()), RegionError::NotWritable), "{flags:?}");
    }
    fcntl_add_seals(&whole, SealFlags::WRITE).unwrap();
    assert!(matches!(refused(whole.as_fd()), RegionError::System(_)), "nothing could be placed there");
}

#[test]
fn rule_1_a_range_must_lie_inside_now_and_count_whole_pages() {
    let fd = memfd(3);
    ftruncate(&fd, 2 * PAGE + 1).unwrap();
    let map = |first_page, length| UnsealedRegion::map(fd.as_fd(), first_page, length);
    assert_eq!(map(0, 3 * PAGE).unwrap().len(), 3 * PAGE_SIZE, "the last page may be used in part");
    assert!(map(2, PAGE).is_ok());
    for (first_page, length) in [(0, 4 * PAGE), (3, PAGE), (1 << 40, PAGE)] {
        assert!(matches!(map(first_page, length), Err(RegionError::Short { .. })), "{first_page} {length}");
    }
    for (first_page, length) in [(0, 0), (0, 100), (u64::MAX, PAGE), (u64::MAX / PAGE, PAGE), (0, u64::MAX)] {
        assert!(matches!(map(first_page, length), Err(RegionError::Length(_))), "{first_page} {length}");
    }
}

#[test]
fn bytes_cross_at_the_place_that_was_lent_and_nowhere_else() {
    let fd = memfd(4);
    let lent = region(&fd, 1, 2);
    let list = spans(&lent);
    let source: Vec<u8> = (0..2 * PAGE_SIZE).map(|at| (at % 251) as u8 + 1).collect();
    let read = list.read_from_file(10, file_of(&source).as_fd(), 5, 2 * PAGE_SIZE - 20).unwrap();
    assert_eq!(read, 2 * PAGE_SIZE - 20);
    list.write(0, b"0123456789").unwrap();
    let mut file = vec![0; 4 * PAGE_SIZE];
    assert_eq!(pread(&fd, &mut file, 0).unwrap(), file.len());
    assert_eq!(&file[PAGE_SIZE..PAGE_SIZE + 10], b"0123456789");
    assert_eq!(&file[PAGE_SIZE + 10..3 * PAGE_SIZE - 10], &source[5..2 * PAGE_SIZE - 15]);
    assert!(file[..PAGE_SIZE].iter().chain(&file[3 * PAGE_SIZE - 10..]).all(|byte| *byte == 0));
    let mut copy = vec![0; 100];
    list.slice(PAGE_SIZE - 50, 100).read(0, &mut copy).unwrap();
    assert_eq!(copy, &file[2 * PAGE_SIZE - 50..2 * PAGE_SIZE + 50]);
}

#[test]
fn rule_1_memory_that_was_cut_fails_every_call_with_efault_and_raises_nothing() {
    let fd = memfd(3);
    let lent = region(&fd, 0, 3);
    let list = spans(&lent);
    let source = file_of(&[7; 3 * PAGE_SIZE]);
    ftruncate(&fd, PAGE).unwrap();
    let mut copy = vec![0; 2 * PAGE_SIZE];
    assert!(is_fault(list.read(PAGE_SIZE, &mut copy[..1])));
    assert!(is_fault(list.read(0, &mut copy)), "also when it begins before the cut");
    assert!(is_fault(list.write(PAGE_SIZE, b"x")));
    assert!(is_fault(list.write(PAGE_SIZE - 1, b"xy")));
    assert!(is_fault(list.read_from_file(0, source.as_fd(), 0, 3 * PAGE_SIZE)));
    assert!(is_fault(list.read_from_file(2 * PAGE_SIZE, source.as_fd(), 0, 5)));
    assert!(list.read_from_file(0, source.as_fd(), 0, PAGE_SIZE).is_ok_and(|read| read == PAGE_SIZE));
    assert_eq!(fstat(&fd).unwrap().st_size as u64, PAGE, "nothing of ours makes it long again");
    ftruncate(&fd, 3 * PAGE).unwrap();
    list.write(2 * PAGE_SIZE, b"again").unwrap();
    list.read(2 * PAGE_SIZE, &mut copy[..5]).unwrap();
    assert_eq!(&copy[..5], b"again");
}

#[test]
fn rule_1_flags_that_the_peer_changes_on_the_shared_open_file_change_nothing() {
    let fd = memfd(2);
    let lent = region(&fd, 0, 2);
    let list = spans(&lent);
    for flags in [OFlags::APPEND, OFlags::NONBLOCK, OFlags::APPEND | OFlags::NONBLOCK | OFlags::NOATIME] {
        fcntl_setfl(&fd, flags).unwrap();
        list.write(PAGE_SIZE, b"here").unwrap();
        let mut copy = [0; 4];
        list.read(PAGE_SIZE, &mut copy).unwrap();
        assert_eq!((&copy, fstat(&fd).unwrap().st_size as u64), (b"here", 2 * PAGE), "{flags:?}");
        list.write(PAGE_SIZE, b"----").unwrap();
    }
}

#[test]
fn rule_1_a_peer_that_cuts_and_grows_its_memory_all_the_time_meets_efault_at_most() {
    const PAGES: usize = 64;
    let fd = memfd(PAGES as u64);
    let lent = region(&fd, 0, PAGES as u64);
    let source = file_of(&[7; PAGES * PAGE_SIZE]);
    let stop = AtomicBool::new(false);
    let (mut whole, mut cut) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                ftruncate(&fd, PAGE).unwrap();
                ftruncate(&fd, PAGES as u64 * PAGE).unwrap();
            }
        });
        let list = spans(&lent);
        let mut copy = vec![0; PAGES * PAGE_SIZE];
        for round in 0..1500 {
            let result = match round % 3 {
                0 => list.read_from_file(0, source.as_fd(), 0, copy.len()).map(|_| ()),
                1 => list.read(0, &mut copy),
                _ => list.write(0, &copy),
            };
            match result {
                Ok(()) => whole += 1,
                Err(error) if error.raw_os_error() == Some(14) => cut += 1,
                Err(other) => panic!("{other}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(whole + cut, 1500);
}

#[test]
fn rule_1_rings_never_lie_in_unsealed_memory_and_buffers_know_that_they_do() {
    let (_guest, sealed) = Region::create_sealed("sealed", 4 * PAGE_SIZE).unwrap();
    let mut memory = GuestMemory::new();
    memory.add(16, Arc::new(Region::map_sealed(sealed.as_fd(), 4 * PAGE).unwrap())).unwrap();
    memory.add(20, region(memfd(4), 0, 4)).unwrap();
    assert!(memory.map_linear(&[16, 17, 18, 19]).is_ok());
    assert!(matches!(memory.map_linear(&[18, 19, 20]).unwrap_err(), GpaError::Unsealed { .. }));
    assert!(matches!(memory.map_linear(&[16, 22]).unwrap_err(), GpaError::Unsealed { pfn: 22 }));
    let both = memory.resolve_pages([18, 19, 20, 21].into_iter(), 0, 4 * PAGE as u32).unwrap();
    assert!(!both.is_sealed(0, both.len()) && both.is_sealed(0, 2 * PAGE_SIZE));
    assert!(!both.is_sealed(2 * PAGE_SIZE - 1, 2) && both.is_sealed(3 * PAGE_SIZE, 0));
    assert_eq!(memory.lent_bytes(), 8 * PAGE);
    assert_eq!(memory.remove(20).unwrap().len(), 4 * PAGE_SIZE);
}
