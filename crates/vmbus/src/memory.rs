//! Memory shared with a peer that may change it at any moment; the only `unsafe` of this crate.
//!
//! Flow: a sealed memfd → [`Region`], a mapping → copies, atomic words, file reads that go straight into it. Invariant:
//! no `&[u8]` or `&mut [u8]` over shared memory ever exists, because a reference promises the compiler bytes that
//! nobody else changes. Bytes cross the border by copies between raw pointers; words by atomics; files by system calls.
//!
//! Why plain copies and not volatile ones: a racing write makes the *copied value* arbitrary, and callers treat it as
//! arbitrary anyway (they judge the copy). What must be excluded is that the compiler reads the source a second time in
//! place of the copy. The source is a mapping made by the kernel, its address has escaped, and a compiler fence follows
//! each copy: a load moved behind the fence would have to assume that nobody wrote in between, which the fence denies.
//! Volatile copies would give the same and cost the block-copy instructions on which large transfers depend.
//!
//! SIGBUS cannot be provoked: the seals keep the size, huge pages (whose pool can run dry) are refused. Memory without
//! seals is another type, [`UnsealedRegion`], which only system calls touch.
//! Must not know: rings, packets, who the peer is. Sources: design rule 1; spec/vmbus.md §5 (last paragraph).

#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering, compiler_fence};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::layout::PAGE_SIZE;

pub use self::judge::RegionError;
pub use self::unsealed::UnsealedRegion;
pub use crate::span::{FileRead, Lent, ReadEnd, Span, SpanList, WatchedLent};

use self::judge::{REQUIRED_SEALS, judge_sealed, judge_unsealed, mappable};

mod judge;
mod unsealed;

/// Most memory parts per system call; more are done in several.
pub(crate) const PARTS_MAX: usize = 128;

/// A mapping of shared memory. Unmapped when dropped; hold it in an `Arc` wherever a pointer into it is kept.
pub struct Region {
    base: NonNull<u8>,
    length: usize,
    writable: bool,
    /// Kept by regions that came from a peer, so that rings can be laid out from their pages later.
    fd: Option<OwnedFd>,
}

// SAFETY: `base` is a process-wide mapping, which does not belong to a thread; all access is by copies and atomics,
// which make no claim on exclusive use.
unsafe impl Send for Region {}
// SAFETY: as for Send; every method takes `&self` and tolerates that others, in this process or not, write at the same
// time.
unsafe impl Sync for Region {}

/// A run of adjacent pages of a region that came from a peer.
#[derive(Clone, Copy)]
pub struct PageRun<'a> {
    /// The region, made by [`Region::map_sealed`].
    pub region: &'a Region,
    /// First page, counted in the region.
    pub first_page: usize,
    /// Number of pages, > 0.
    pub pages: usize,
}

impl Region {
    /// Makes zeroed memory of `length` bytes (a positive multiple of 4096), sealed, mapped, ready to be lent.
    ///
    /// Returns the mapping and the descriptor to send to the host; `name` appears in /proc only.
    pub fn create_sealed(name: &str, length: usize) -> io::Result<(Self, OwnedFd)> {
        let fd = Self::create(name, length)?;
        fcntl_add_seals(&fd, REQUIRED_SEALS)?;
        let region = Self::map(fd.as_fd(), length, ProtFlags::READ | ProtFlags::WRITE)?;
        Ok((region, fd))
    }

    /// Makes one zeroed page that this process writes and others, given the descriptor, can only read.
    pub fn create_host_page() -> io::Result<(Self, OwnedFd)> {
        let fd = Self::create("pvblob-host-page", PAGE_SIZE)?;
        // FUTURE_WRITE leaves existing mappings writable, so ours comes first.
        let region = Self::map(fd.as_fd(), PAGE_SIZE, ProtFlags::READ | ProtFlags::WRITE)?;
        fcntl_add_seals(&fd, REQUIRED_SEALS | SealFlags::FUTURE_WRITE)?;
        Ok((region, fd))
    }

    fn create(name: &str, length: usize) -> io::Result<OwnedFd> {
        mappable(length as u64)?;
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, length as u64)?;
        Ok(fd)
    }

    /// Maps memory that a peer lends, for reading and writing; keeps a duplicate of the descriptor.
    ///
    /// Refuses whatever could change its size, fault, or is not `length` bytes long (design rule 1). `length`: as the
    /// peer declared.
    pub fn map_sealed(fd: BorrowedFd<'_>, length: u64) -> Result<Self, RegionError> {
        let length = judge_sealed(fd, length)?;
        let mut region = Self::map(fd, length, ProtFlags::READ | ProtFlags::WRITE)?;
        region.fd = Some(fd.try_clone_to_owned().map_err(RegionError::System)?);
        Ok(region)
    }

    /// Maps sealed memory for reading only; `length` as declared.
    ///
    /// Writing to the result, or asking for an atomic of it, panics: use [`load_u32`](Self::load_u32).
    pub fn map_read_only(fd: BorrowedFd<'_>, length: u64) -> Result<Self, RegionError> {
        let length = judge_sealed(fd, length)?;
        Ok(Self::map(fd, length, ProtFlags::READ)?)
    }

    /// Maps `length` bytes of memory of this very process's program, from page `first_page` of `fd` on: nobody else's
    /// memory, so whoever shrinks it gets the SIGBUS that it asked for.
    ///
    /// Refuses what [`UnsealedRegion::map`] would refuse at the host.
    pub fn map_own(fd: BorrowedFd<'_>, first_page: u64, length: u64) -> Result<Self, RegionError> {
        let length = judge_unsealed(fd, first_page, length)?;
        Ok(Self::map_at(fd, length, ProtFlags::READ | ProtFlags::WRITE, first_page)?)
    }

    fn map(fd: BorrowedFd<'_>, length: usize, access: ProtFlags) -> rustix::io::Result<Self> {
        Self::map_at(fd, length, access, 0)
    }

    fn map_at(fd: BorrowedFd<'_>, length: usize, access: ProtFlags, first_page: u64) -> rustix::io::Result<Self> {
        let offset = first_page.saturating_mul(PAGE_SIZE as u64);
        // SAFETY: no address is asked for, so the kernel picks one that overlaps nothing.
        let base = unsafe { mmap(ptr::null_mut(), length, access, MapFlags::SHARED, fd, offset) }?;
        Ok(Self::adopt(base.cast(), length, access.contains(ProtFlags::WRITE)))
    }

    /// Takes a mapping just made; the only place that constructs a region.
    fn adopt(base: *mut u8, length: usize, writable: bool) -> Self {
        let base = NonNull::new(base).expect("mmap never places a mapping at address 0 by itself");
        Self { base, length, writable, fd: None }
    }

    /// Lays runs of pages out one after the other in one linear mapping: a ring whose pages come in any order (spec
    /// §1.1).
    ///
    /// Fails if a run is empty, passes its region, or the region did not come from a peer
    /// ([`map_sealed`](Self::map_sealed)). Each run costs a kernel mapping, of which a process has about 65,000: the
    /// caller bounds them.
    pub fn map_pages(runs: &[PageRun<'_>]) -> io::Result<Self> {
        let total: usize = runs.iter().map(|run| run.pages).sum();
        if total == 0 || !runs.iter().all(PageRun::is_sound) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a run of pages outside its region"));
        }
        let length = total * PAGE_SIZE;
        // SAFETY: no address is asked for, so the kernel picks one that overlaps nothing.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), length, ProtFlags::empty(), MapFlags::PRIVATE) }?;
        // From here on the drop of `linear` unmaps all of it, also when a run fails.
        let linear = Self::adopt(base.cast(), length, true);
        let mut at = 0;
        for run in runs {
            linear.place(at, run)?;
            at += run.pages * PAGE_SIZE;
        }
        Ok(linear)
    }

    /// Replaces a part of our own reservation by a run of pages.
    fn place(&self, at: usize, run: &PageRun<'_>) -> io::Result<()> {
        let length = run.pages * PAGE_SIZE;
        let address = self.checked(at, length);
        let fd = run.region.fd.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        // SAFETY: FIXED replaces exactly `at..at + length` of a mapping that is ours, was just made, and nobody has
        // used yet.
        unsafe { mmap(address.cast(), length, access, flags, fd, (run.first_page * PAGE_SIZE) as u64) }?;
        Ok(())
    }

    /// Returns the size in bytes, a positive multiple of 4096.
    #[allow(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Tells whether this mapping may be written.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Returns the address of `length` bytes at `offset`, for those who export it as a foreign buffer.
    ///
    /// Panics if they are not inside. Valid while the region lives; never to be made a Rust reference to bytes.
    pub fn address(&self, offset: usize, length: usize) -> *mut u8 {
        self.checked(offset, length)
    }

    fn checked(&self, offset: usize, length: usize) -> *mut u8 {
        let inside = offset <= self.length && length <= self.length - offset;
        assert!(inside, "bytes {offset} + {length} of a region of {} bytes", self.length);
        self.base.as_ptr().wrapping_add(offset)
    }

    fn checked_writable(&self, offset: usize, length: usize) -> *mut u8 {
        assert!(self.writable, "writing to a region that is mapped read-only");
        self.checked(offset, length)
    }

    /// Copies bytes at `offset` to private memory. Panics if they are not inside: offsets of a peer are judged before.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.checked(offset, into.len());
        // SAFETY: `from` is readable for the length (checked; mapped while `self` lives); `into` is a private,
        // exclusive slice and so does not overlap a mapping, over which no slice is ever formed. Racing writers: see
        // the module's text.
        unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        compiler_fence(Ordering::SeqCst);
    }

    /// Copies private bytes to `offset`. Panics if they are not inside or the region is read-only.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let into = self.checked_writable(offset, from.len());
        // SAFETY: `into` is writable for the length (checked; mapped while `self` lives); `from` is private memory, as
        // in `read`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into, from.len()) };
        compiler_fence(Ordering::SeqCst);
    }

    /// Writes zeros. Panics if the bytes are not inside or the region is read-only.
    pub fn fill_zero(&self, offset: usize, length: usize) {
        let into = self.checked_writable(offset, length);
        // SAFETY: writable for the length, as in `write`.
        unsafe { ptr::write_bytes(into, 0, length) };
        compiler_fence(Ordering::SeqCst);
    }

    /// Returns the word at `offset`. Panics if it is not inside, not a multiple of 4, or the region is read-only.
    ///
    /// Words that are used as atomics are not to be copied over with [`write`](Self::write) while others use them.
    pub fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        let word = self.checked_writable(offset, 4).cast::<u32>();
        assert!(word.is_aligned(), "a word at offset {offset}");
        // SAFETY: aligned, inside, and mapped for as long as the borrow of `self`; writable, so every operation is
        // allowed. Other processes use the same machine words with atomic instructions.
        unsafe { AtomicU32::from_ptr(word) }
    }

    /// Loads the word at `offset` with no ordering, also of a read-only region. Panics if not inside or not a multiple
    /// of 4.
    pub fn load_u32(&self, offset: usize) -> u32 {
        let word = self.checked(offset, 4).cast::<u32>();
        assert!(word.is_aligned(), "a word at offset {offset}");
        // SAFETY: as in `atomic_u32`, but possibly read-only memory: the reference stays in this function, which does
        // nothing but the one relaxed load of a machine word that std guarantees to work there.
        let word = unsafe { AtomicU32::from_ptr(word) };
        word.load(Ordering::Relaxed)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `base..base + length` is one reservation of ours (`adopt` is the only constructor); no borrow of
        // `self` is left, and exported addresses are valid only while the region lives. The result says nothing that
        // could be acted on: unmapping a whole mapping of ours does not fail.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.length) };
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("length", &self.length).field("writable", &self.writable).finish_non_exhaustive()
    }
}

impl PageRun<'_> {
    fn is_sound(&self) -> bool {
        let pages = self.region.length / PAGE_SIZE;
        self.region.fd.is_some() && self.pages > 0 && self.first_page <= pages && self.pages <= pages - self.first_page
    }
}

/// Reads a file straight into parts of regions with one system call; returns the bytes read, 0 at the end of the file.
///
/// EFAULT: the next byte's page is gone, which unsealed memory may be at any moment. The kernel copies with an exception
/// table of its own: a fault in it ends the copy and the call, and raises no signal (what was copied before counts).
/// `parts`: (region, offset, length), at most `PARTS_MAX` are used, each inside its writable region (panics otherwise).
/// `nowait`: only what is in the page cache, else EAGAIN; EOPNOTSUPP where the file system cannot tell.
pub(crate) fn read_file_into<'a>(
    fd: BorrowedFd<'_>,
    file_offset: u64,
    parts: impl Iterator<Item = (&'a Region, usize, usize)>,
    nowait: bool,
) -> io::Result<usize> {
    let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; PARTS_MAX];
    let mut count = 0;
    for (vector, (region, offset, length)) in vectors.iter_mut().zip(parts) {
        vector.iov_base = region.checked_writable(offset, length).cast();
        vector.iov_len = length;
        count += 1;
    }
    let offset = i64::try_from(file_offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let flags = if nowait { libc::RWF_NOWAIT } else { 0 };
    // SAFETY: the first `count` vectors name writable memory of regions that the caller's borrows keep mapped during
    // the call. The kernel writes there as any other process could.
    let read = unsafe { libc::preadv2(fd.as_raw_fd(), vectors.as_ptr(), count, offset, flags) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests;
