//! Regions: what is refused from a peer (design rule 1), what the mappings show, how pages are laid out.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::fcntl_get_seals;

use super::*;

fn memfd(length: u64, seals: SealFlags) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, length).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

fn contents(region: &Region, offset: usize, length: usize) -> Vec<u8> {
    let mut copy = vec![0xee; length];
    region.read(offset, &mut copy);
    copy
}

#[test]
fn rule_1_what_is_lent_is_sealed_and_seen_by_both_sides() {
    let (guest, fd) = Region::create_sealed("lent", 2 * PAGE_SIZE).unwrap();
    assert!(fcntl_get_seals(&fd).unwrap().contains(REQUIRED_SEALS));
    assert!(ftruncate(&fd, 0).is_err());
    let host = Region::map_sealed(fd.as_fd(), 2 * PAGE_SIZE as u64).unwrap();
    guest.write(PAGE_SIZE - 2, b"abcd");
    assert_eq!(contents(&host, PAGE_SIZE - 3, 6), b"\0abcd\0");
    host.fill_zero(PAGE_SIZE - 2, 3);
    host.atomic_u32(8).store(7, Ordering::Relaxed);
    assert_eq!(contents(&guest, PAGE_SIZE - 2, 4), b"\0\0\0d");
    assert_eq!((guest.load_u32(8), host.len()), (7, 2 * PAGE_SIZE));
}

#[test]
fn rule_1_any_other_kind_of_descriptor_is_refused() {
    let path = std::env::temp_dir().join(format!("vmbus-test-{}", std::process::id()));
    let file = File::create_new(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.set_len(4096).unwrap();
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let null = File::open("/dev/zero").unwrap();
    let refuse = |fd: BorrowedFd<'_>| Region::map_sealed(fd, 4096).unwrap_err();
    assert!(matches!(refuse(event.as_fd()), RegionError::NotSealable));
    assert!(matches!(refuse(null.as_fd()), RegionError::NotSealable));
    // A file on tmpfs answers F_GET_SEALS, but has no seal that helps and can get none.
    assert!(matches!(refuse(file.as_fd()), RegionError::NotSealable | RegionError::SealsMissing { .. }));
}

#[test]
fn rule_1_each_seal_is_required() {
    for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
        let seals = REQUIRED_SEALS - missing;
        let fd = memfd(4096, seals);
        let error = Region::map_sealed(fd.as_fd(), 4096).unwrap_err();
        assert!(matches!(error, RegionError::SealsMissing { found } if found == seals.bits()), "{error}");
        assert!(Region::map_read_only(fd.as_fd(), 4096).is_err());
    }
}

#[test]
fn rule_1_a_size_other_than_declared_is_refused() {
    let fd = memfd(8192, REQUIRED_SEALS);
    for declared in [4096, 12288] {
        let error = Region::map_sealed(fd.as_fd(), declared).unwrap_err();
        assert!(matches!(error, RegionError::Size { actual: 8192, declared: d } if d == declared), "{error}");
    }
    let odd = memfd(4097, REQUIRED_SEALS);
    for (fd, declared) in [(&fd, 0), (&odd, 4097), (&fd, u64::MAX), (&fd, u64::MAX - 4095)] {
        let error = Region::map_sealed(fd.as_fd(), declared).unwrap_err();
        assert!(matches!(error, RegionError::Length(d) if d == declared), "{error}");
    }
}

#[test]
fn rule_1_memory_that_the_guest_sealed_against_writing_is_refused() {
    let fd = memfd(4096, REQUIRED_SEALS | SealFlags::FUTURE_WRITE);
    assert!(matches!(Region::map_sealed(fd.as_fd(), 4096), Err(RegionError::System(_))));
}

#[test]
fn rule_1_huge_pages_are_refused() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let Ok(fd) = memfd_create("huge", flags) else { return }; // a kernel without huge pages cannot lend them either
    ftruncate(&fd, 2 << 20).unwrap();
    fcntl_add_seals(&fd, REQUIRED_SEALS).unwrap();
    assert!(matches!(Region::map_sealed(fd.as_fd(), 2 << 20), Err(RegionError::HugePages)));
}

#[test]
fn the_host_page_is_written_by_the_host_and_only_read_by_the_guest() {
    let (host, fd) = Region::create_host_page().unwrap();
    let guest = Region::map_read_only(fd.as_fd(), 4096).unwrap();
    host.atomic_u32(0).store(50, Ordering::Relaxed);
    assert_eq!(guest.load_u32(0), 50);
    assert!(!guest.is_writable());
    assert!(Region::map_sealed(fd.as_fd(), 4096).is_err(), "nobody maps it for writing any more");
    assert!(rustix::io::pwrite(&fd, &[1], 0).is_err(), "nor writes it through the descriptor");
}

#[test]
#[should_panic(expected = "read-only")]
fn a_write_to_a_read_only_region_is_a_defect_and_not_a_fault() {
    let (_host, fd) = Region::create_host_page().unwrap();
    Region::map_read_only(fd.as_fd(), 4096).unwrap().write(0, &[1]);
}

#[test]
#[should_panic(expected = "read-only")]
fn an_atomic_of_a_read_only_region_is_a_defect_and_not_a_fault() {
    let (_host, fd) = Region::create_host_page().unwrap();
    Region::map_read_only(fd.as_fd(), 4096).unwrap().atomic_u32(0);
}

#[test]
fn accesses_outside_a_region_are_defects_whatever_the_numbers() {
    let (region, _fd) = Region::create_sealed("bounds", PAGE_SIZE).unwrap();
    let region = Arc::new(region);
    for (offset, length) in [(4096, 1), (4095, 2), (usize::MAX, 1), (1, usize::MAX), (0, 4097)] {
        let region = Arc::clone(&region);
        assert!(std::panic::catch_unwind(move || region.address(offset, length)).is_err(), "{offset} {length}");
    }
    assert_eq!(region.address(4096, 0), region.address(0, 4096).wrapping_add(4096));
    let odd = Arc::clone(&region);
    assert!(std::panic::catch_unwind(move || odd.load_u32(2)).is_err());
    assert!(std::panic::catch_unwind(move || region.atomic_u32(4094).load(Ordering::Relaxed)).is_err());
}

#[test]
fn pages_in_any_order_become_one_linear_mapping() {
    let lent: Vec<_> = (0..2_u8)
        .map(|number| {
            let (guest, fd) = Region::create_sealed("scattered", 4 * PAGE_SIZE).unwrap();
            (0..4).for_each(|page| guest.write(page * PAGE_SIZE, &[number * 16 + page as u8]));
            (guest, Region::map_sealed(fd.as_fd(), 4 * PAGE_SIZE as u64).unwrap())
        })
        .collect();
    let run = |region: usize, first_page, pages| PageRun { region: &lent[region].1, first_page, pages };
    let linear = Region::map_pages(&[run(1, 3, 1), run(0, 1, 2), run(1, 0, 1)]).unwrap();
    let firsts: Vec<u8> = (0..4).map(|page| contents(&linear, page * PAGE_SIZE, 1)[0]).collect();
    assert_eq!((firsts, linear.len()), (vec![0x13, 0x01, 0x02, 0x10], 4 * PAGE_SIZE));
    linear.write(PAGE_SIZE - 1, &[7, 8]);
    assert_eq!(contents(&lent[1].0, 4 * PAGE_SIZE - 1, 1), [7]);
    assert_eq!(contents(&lent[0].0, PAGE_SIZE, 1), [8]);
}

#[test]
fn runs_that_are_empty_or_outside_or_of_our_own_memory_are_refused() {
    let (own, fd) = Region::create_sealed("runs", 2 * PAGE_SIZE).unwrap();
    let lent = Region::map_sealed(fd.as_fd(), 2 * PAGE_SIZE as u64).unwrap();
    assert!(Region::map_pages(&[]).is_err());
    for (region, first_page, pages) in
        [(&lent, 0, 0), (&lent, 0, 3), (&lent, 2, 1), (&lent, usize::MAX, 1), (&own, 0, 1)]
    {
        assert!(Region::map_pages(&[PageRun { region, first_page, pages }]).is_err(), "{first_page} {pages}");
    }
}

#[test]
fn dropping_a_region_unmaps_it_and_closes_its_descriptor() {
    let name = format!("vmbus-drop-{}", std::process::id());
    let lines = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let fds = std::fs::read_dir("/proc/self/fd").unwrap();
        let links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        let open = links.filter(|link| link.to_string_lossy().contains(&name)).count();
        (maps.lines().filter(|line| line.contains(&name)).count(), open)
    };
    let (guest, fd) = Region::create_sealed(&name, PAGE_SIZE).unwrap();
    let host = Region::map_sealed(fd.as_fd(), PAGE_SIZE as u64).unwrap();
    let (mappings, open) = lines();
    // The kernel may show adjacent mappings as one.
    assert!((1..=2).contains(&mappings) && open == 2, "{mappings} {open}");
    drop((guest, fd, host));
    assert_eq!(lines(), (0, 0));
}

fn scattered(pieces: usize, length: usize) -> (SpanList, Arc<Region>) {
    // Spans lie backwards in memory, so none continues the one before.
    let (region, _fd) = Region::create_sealed("spans", (pieces * 2 * length).next_multiple_of(PAGE_SIZE)).unwrap();
    let region = Arc::new(region);
    let mut list = SpanList::new();
    for piece in (0..pieces).rev() {
        list.push(Span::new(Arc::clone(&region), piece * 2 * length, length));
    }
    (list, region)
}

fn numbered_file(length: usize) -> (File, Vec<u8>) {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::current_exe().unwrap().with_file_name(format!("vmbus-file-{}-{count}", std::process::id()));
    let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + at / 256) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let file = File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    (file, bytes)
}

#[test]
fn adjacent_spans_become_one_and_empty_ones_vanish() {
    let (region, _fd) = Region::create_sealed("merge", 2 * PAGE_SIZE).unwrap();
    let region = Arc::new(region);
    let mut list = SpanList::new();
    for (offset, length) in [(0, 10), (10, 5), (15, 0), (20, 5), (25, 1), (0, 3)] {
        list.push(Span::new(Arc::clone(&region), offset, length));
    }
    let spans: Vec<_> = list.spans().map(|span| (span.offset(), span.len())).collect();
    assert_eq!((spans, list.len()), (vec![(0, 15), (20, 6), (0, 3)], 24));
    assert_eq!(list.slice(14, 3).spans().count(), 2);
    assert!(list.slice(24, 0).is_empty());
}

#[test]
fn bytes_cross_spans_in_order_in_short_and_long_lists() {
    for pieces in [1, 2, 4, 5, 9] {
        let (list, region) = scattered(pieces, 7);
        let bytes: Vec<u8> = (0..list.len() as u8).map(|byte| byte + 1).collect();
        list.write(0, &bytes).unwrap();
        assert_eq!(list.spans().count(), pieces);
        for (at, length) in [(0, bytes.len()), (3, bytes.len() - 4), (6, 1), (bytes.len(), 0)] {
            let (mut copy, mut sliced) = (vec![0; length], vec![0; length]);
            list.read(at, &mut copy).unwrap();
            list.slice(at, length).read(0, &mut sliced).unwrap();
            assert_eq!((&copy[..], &sliced[..]), (&bytes[at..at + length], &bytes[at..at + length]));
        }
        assert_eq!(
            contents(&region, (pieces - 1) * 14, 9),
            [1, 2, 3, 4, 5, 6, 7, 0, 0],
            "nothing beside a span is touched"
        );
    }
}

#[test]
fn a_file_is_read_straight_into_spans_with_any_number_of_them() {
    let (file, bytes) = numbered_file(6000);
    for (pieces, length) in [(1, 5000), (3, 1000), (PARTS_MAX * 2 + 3, 20)] {
        let (list, _region) = scattered(pieces, length);
        let wanted = list.len() - 10;
        assert_eq!(list.read_from_file(5, file.as_fd(), 100, wanted).unwrap(), wanted);
        let mut copy = vec![0; list.len()];
        list.read(0, &mut copy).unwrap();
        assert_eq!(copy[5..5 + wanted], bytes[100..100 + wanted]);
        assert_eq!(copy.iter().take(5).chain(&copy[5 + wanted..]).max(), Some(&0));
    }
}

#[test]
fn the_end_of_the_file_is_a_short_count_and_not_an_error() {
    let (file, bytes) = numbered_file(1000);
    let (list, _region) = scattered(3, 500);
    assert_eq!(list.read_from_file(0, file.as_fd(), 400, 1500).unwrap(), 600);
    let mut copy = vec![0; 601];
    list.read(0, &mut copy).unwrap();
    assert_eq!((&copy[..600], copy[600]), (&bytes[400..], 0));
    assert_eq!(list.read_from_file(0, file.as_fd(), 1000, 1).unwrap(), 0);
    assert_eq!(list.read_from_file(0, file.as_fd(), 1, 0).unwrap(), 0);
    assert!(list.read_from_file(0, file.as_fd(), u64::MAX, 1).is_err());
}

#[test]
fn design_6_a_file_system_that_cannot_tell_what_waits_is_told_apart() {
    let (list, _region) = scattered(2, 2048);
    let memory = memfd(8192, SealFlags::empty());
    let read = list.read_from_file_nowait(0, memory.as_fd(), 0, 4096).unwrap();
    let unsupported = FileRead { bytes: 0, end: ReadEnd::Unsupported };
    let filled = FileRead { bytes: 4096, end: ReadEnd::Filled };
    assert!(read == unsupported || read == filled, "{read:?}"); // newer kernels may learn to
    let (pipe, _writer) = std::io::pipe().unwrap();
    assert!(list.read_from_file_nowait(0, pipe.as_fd(), 0, 1).is_err(), "a pipe has no offsets");
}

#[test]
fn design_6_cached_bytes_are_read_at_once_and_the_file_end_is_seen() {
    let (file, bytes) = numbered_file(5000);
    let (list, _region) = scattered(4, 2048);
    let mut warm = vec![0; 5000];
    rustix::io::pread(&file, &mut warm[..], 0).unwrap();
    let read = list.read_from_file_nowait(0, file.as_fd(), 0, 8192).unwrap();
    if read.end == ReadEnd::Unsupported {
        return; // the build directory lies on a file system without RWF_NOWAIT; the test above covers that answer
    }
    assert_eq!(read, FileRead { bytes: 5000, end: ReadEnd::EndOfFile });
    let mut copy = vec![0; 5000];
    list.read(0, &mut copy).unwrap();
    assert_eq!(copy, bytes);
}
