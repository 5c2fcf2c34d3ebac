//! Memory shared with a peer: mappings of sealed memfds, and the only `unsafe` of this crate.
//!
//! The peer may write any byte at any moment. So this module never forms a reference to shared bytes: it copies them in
//! and out through raw pointers, hands them to system calls, or exposes single aligned words as atomics. Every offset is
//! checked against the mapping; a wrong one is our own bug, never a peer's doing, and panics.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap, mmap_anonymous, mremap_fixed, munmap};

use crate::layout::PAGE_SIZE;

/// The seals without which a peer could shrink a file under a mapping and kill us with SIGBUS (design rule 1).
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Buffers that one `preadv2` takes; the kernel's limit is 1024.
const IOV_MAX: usize = 512;

/// Why a peer's descriptor is not accepted as memory.
#[derive(Debug)]
pub enum RegionError {
    /// It is no memfd, or lacks seals.
    Unsealed(SealFlags),
    /// Its size is not what was announced.
    Size {
        /// Bytes announced.
        announced: u64,
        /// Bytes it has.
        actual: u64,
    },
    /// The announced length is 0, no multiple of a page, or too large for an address space.
    Length(u64),
    /// The system refused.
    System(io::Error),
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsealed(seals) => write!(f, "the descriptor is no memfd sealed with SHRINK, GROW and SEAL ({seals:?})"),
            Self::Size { announced, actual } => write!(f, "{announced} bytes were announced, the memfd has {actual}"),
            Self::Length(length) => write!(f, "{length} bytes are no whole number of pages"),
            Self::System(error) => write!(f, "the memory cannot be mapped: {error}"),
        }
    }
}

impl std::error::Error for RegionError {}

impl From<io::Error> for RegionError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<rustix::io::Errno> for RegionError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::System(error.into())
    }
}

/// A mapping of memory that a peer has mapped too. Unmapped when dropped.
pub struct Region {
    address: NonNull<c_void>,
    length: usize,
}

// SAFETY: a Region is an address range that lives until the drop. Access through `&Region` is by raw copies, atomics and
// system calls, which tolerate concurrent writers, in this process as in the peer's.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({} bytes)", self.length)
    }
}

impl Region {
    fn map(fd: BorrowedFd<'_>, length: usize, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let address = unsafe { mmap(ptr::null_mut(), length, protection, MapFlags::SHARED, fd, 0) }?;
        let address = NonNull::new(address).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { address, length })
    }

    /// Creates `length` zero bytes (whole pages) in a sealed memfd; returns the mapping and the descriptor to share.
    pub fn create_sealed(name: &str, length: usize) -> io::Result<(Self, OwnedFd)> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, length as u64)?;
        fcntl_add_seals(&fd, SEALS)?;
        Ok((Self::map(fd.as_fd(), length, ProtFlags::READ | ProtFlags::WRITE)?, fd))
    }

    /// Creates one page that we write and whoever gets the descriptor can only read.
    pub fn create_host_page(name: &str) -> io::Result<(Self, OwnedFd)> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, PAGE_SIZE as u64)?;
        let page = Self::map(fd.as_fd(), PAGE_SIZE, ProtFlags::READ | ProtFlags::WRITE)?;
        // After our own mapping: FUTURE_WRITE leaves existing ones writable.
        fcntl_add_seals(&fd, SEALS.union(SealFlags::FUTURE_WRITE))?;
        Ok((page, fd))
    }

    /// Maps memory that a peer lends. The descriptor must be a memfd sealed against shrinking, of exactly this length.
    pub fn map_sealed(fd: BorrowedFd<'_>, length: u64) -> Result<Self, RegionError> {
        let length = checked(fd, length)?;
        Ok(Self::map(fd, length, ProtFlags::READ | ProtFlags::WRITE)?)
    }

    /// Maps sealed memory for reading only; writing to it through this Region would fault.
    pub fn map_read_only(fd: BorrowedFd<'_>, length: u64) -> Result<Self, RegionError> {
        let length = checked(fd, length)?;
        Ok(Self::map(fd, length, ProtFlags::READ)?)
    }

    /// Maps scattered runs of other regions (region, offset, length; whole pages) once more, one behind the other.
    pub fn map_linear(runs: &[(Arc<Region>, usize, usize)]) -> io::Result<Self> {
        let length = runs.iter().map(|run| run.2).sum();
        // SAFETY: reserves fresh address space, touching no existing memory.
        let address = unsafe { mmap_anonymous(ptr::null_mut(), length, ProtFlags::empty(), MapFlags::PRIVATE) }?;
        let linear = Self { address: NonNull::new(address).ok_or(io::ErrorKind::OutOfMemory)?, length };
        let mut at = 0;
        for (region, offset, length) in runs {
            let from = region.address(*offset, *length).cast::<c_void>();
            let to = linear.address(at, *length).cast::<c_void>();
            // SAFETY: old length 0 duplicates a shared mapping's pages (mremap(2)); `from` lies in a live shared mapping,
            // and `to..to + length` lies in the reservation above, which nobody else knows.
            unsafe { mremap_fixed(from, 0, *length, MremapFlags::MAYMOVE, to) }?;
            at += length;
        }
        Ok(linear)
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Tells whether the region has no bytes; none is made so.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns where `length` bytes at `offset` lie. Panics when they do not lie in the region.
    ///
    /// The pointer is good as long as the Region lives; whoever follows it meets concurrent writers.
    pub fn address(&self, offset: usize, length: usize) -> *mut u8 {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.length);
        assert!(inside, "bytes {offset}+{length} lie outside a region of {}", self.length);
        // SAFETY: offset ≤ length of one mapping, checked above.
        unsafe { self.address.as_ptr().cast::<u8>().add(offset) }
    }

    /// Copies bytes out. The peer may be writing them: the copy is all that may be judged.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.address(offset, into.len());
        // SAFETY: `from` is valid for reads of that many bytes; `into` is private, so the two do not overlap. A peer that
        // writes meanwhile is another process, not a thread of this program: the copy then holds a mixture, which every
        // caller expects. Volatile byte accesses would promise no more and be far slower.
        unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
    }

    /// Copies bytes in.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.address(offset, bytes.len());
        // SAFETY: as in `read`, the other way round.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Exposes one word. Panics when it is not aligned to 4 bytes.
    pub fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "a word at {offset} is not aligned");
        let word = self.address(offset, 4).cast::<u32>();
        // SAFETY: aligned (mappings begin at pages), inside the mapping for as long as `self` is borrowed, and accessed by
        // us through atomics alone; AtomicU32 allows any concurrent modification.
        unsafe { AtomicU32::from_ptr(word) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours, and every borrow of it has ended. An error could only leave it mapped.
        let _ = unsafe { munmap(self.address.as_ptr(), self.length) };
    }
}

/// Checks a peer's descriptor: seals first, then the size, which the seals keep from changing.
fn checked(fd: BorrowedFd<'_>, announced: u64) -> Result<usize, RegionError> {
    let length = usize::try_from(announced).map_err(|_| RegionError::Length(announced))?;
    if length == 0 || !length.is_multiple_of(PAGE_SIZE) || isize::try_from(length).is_err() {
        return Err(RegionError::Length(announced));
    }
    let seals = fcntl_get_seals(fd).unwrap_or(SealFlags::empty()); // EINVAL: no memfd at all
    if !seals.contains(SEALS) {
        return Err(RegionError::Unsealed(seals));
    }
    let actual = fstat(fd)?.st_size as u64;
    if actual != announced {
        return Err(RegionError::Size { announced, actual });
    }
    Ok(length)
}

/// A run of bytes in one region.
#[derive(Clone, Debug)]
pub struct Span {
    /// The region; it stays mapped as long as any span of it lives.
    pub region: Arc<Region>,
    /// First byte.
    pub offset: usize,
    /// Length in bytes.
    pub length: usize,
}

/// Bytes scattered over regions, in order: a guest's buffer as the host sees it.
#[derive(Clone, Debug, Default)]
pub struct SpanList {
    spans: Vec<Span>,
    length: usize,
}

impl SpanList {
    /// Appends a run; one that continues the last is merged with it.
    pub fn push(&mut self, span: Span) {
        self.length += span.length;
        match self.spans.last_mut() {
            Some(last) if Arc::ptr_eq(&last.region, &span.region) && last.offset + last.length == span.offset => {
                last.length += span.length;
            }
            _ if span.length == 0 => {}
            _ => self.spans.push(span),
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Tells whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many runs there are.
    pub fn runs(&self) -> usize {
        self.spans.len()
    }

    /// Returns `length` bytes from `offset`. Panics when they do not lie in the list.
    pub fn slice(&self, offset: usize, length: usize) -> Self {
        let mut part = Self::default();
        self.each(offset, length, |span, at, run, _| {
            part.push(Span { region: Arc::clone(&span.region), offset: span.offset + at, length: run });
        });
        part
    }

    /// Calls `visit(span, offset in the span, length, offset from the beginning)` for each run of the given bytes.
    fn each(&self, offset: usize, length: usize, mut visit: impl FnMut(&Span, usize, usize, usize)) {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.length);
        assert!(inside, "bytes {offset}+{length} lie outside a list of {}", self.length);
        let (mut skip, mut done) = (offset, 0);
        for span in &self.spans {
            if done == length {
                break;
            }
            if skip >= span.length {
                skip -= span.length;
                continue;
            }
            let run = (span.length - skip).min(length - done);
            visit(span, skip, run, done);
            done += run;
            skip = 0;
        }
    }

    /// Copies bytes out.
    pub fn read(&self, at: usize, into: &mut [u8]) {
        self.each(at, into.len(), |span, skip, run, done| span.region.read(span.offset + skip, &mut into[done..done + run]));
    }

    /// Copies bytes in.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        self.each(at, bytes.len(), |span, skip, run, done| span.region.write(span.offset + skip, &bytes[done..done + run]));
    }

    /// Reads `length` bytes of a file, from byte `offset`, to byte `at` of the list; returns how many before its end.
    pub fn read_from_file(&self, at: usize, file: BorrowedFd<'_>, offset: u64, length: usize) -> io::Result<usize> {
        self.read_file(at, file, offset, length, 0)
    }

    /// The same, but only what is in the page cache: stops short, or fails with `WouldBlock`, where the disk is needed.
    /// Fails with EOPNOTSUPP on file systems that cannot tell (tmpfs).
    pub fn read_cached(&self, at: usize, file: BorrowedFd<'_>, offset: u64, length: usize) -> io::Result<usize> {
        self.read_file(at, file, offset, length, libc::RWF_NOWAIT)
    }

    fn read_file(&self, at: usize, file: BorrowedFd<'_>, offset: u64, length: usize, flags: i32) -> io::Result<usize> {
        let mut done = 0;
        while done < length {
            let mut vectors = Vec::new();
            self.each(at + done, length - done, |span, skip, run, _| {
                if vectors.len() < IOV_MAX {
                    let base = span.region.address(span.offset + skip, run).cast::<c_void>();
                    vectors.push(libc::iovec { iov_base: base, iov_len: run });
                }
            });
            let from = offset.checked_add(done as u64).and_then(|from| i64::try_from(from).ok());
            let from = from.ok_or(io::ErrorKind::InvalidInput)?;
            // SAFETY: each vector describes bytes of a mapping that `self` keeps alive for the call; the kernel writes them
            // as it would for any user memory, whoever else writes there.
            let count = unsafe {
                libc::preadv2(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32, from, flags)
            };
            match usize::try_from(count) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() == io::ErrorKind::WouldBlock && done > 0 {
                        break;
                    }
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(done)
    }
}
