//! Memory of a peer that nothing keeps from shrinking: it may hold data buffers, and only system calls touch it.
//!
//! Flow: a descriptor without seals → [`UnsealedRegion`] → file reads straight into it, copies out of it through the
//! descriptor, small copies into it through a file of our own. Invariant: no instruction of ours ever loads from or
//! stores to the mapping, so the SIGBUS that a truncated page raises cannot reach us: a fault inside a system call ends
//! that call with EFAULT or with what was copied so far. The type has no method that would dereference.
//!
//! Only regular files of tmpfs (memfd, shm_open) are accepted. A page fault on anything else may wait for somebody else
//! (a FUSE server of the guest's, a network) with one of our threads inside, or take from a pool that runs dry.
//! Must not know: rings, packets, who the peer is. Sources: design rule 1; mmap(2), signal of access past the end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{Errno, pread, pwrite};
use rustix::mm::ProtFlags;

use super::judge::{RegionError, judge_unsealed};
use super::{Region, read_file_into};
use crate::layout::PAGE_SIZE;

/// A mapping of memory that may shrink, and its descriptor.
pub struct UnsealedRegion {
    /// Used for its addresses alone, as targets of system calls.
    mapping: Region,
    fd: OwnedFd,
    file_offset: u64,
}

impl UnsealedRegion {
    /// Maps `length` bytes of a peer's memory from page `first_page` of `fd` on; keeps a duplicate of the descriptor.
    ///
    /// Refuses what is no memory of ordinary pages, is not open for both reading and writing, or ends too early now.
    pub fn map(fd: BorrowedFd<'_>, first_page: u64, length: u64) -> Result<Self, RegionError> {
        let length = judge_unsealed(fd, first_page, length)?;
        let mapping = Region::map_at(fd, length, ProtFlags::READ | ProtFlags::WRITE, first_page)?;
        let fd = fd.try_clone_to_owned().map_err(RegionError::System)?;
        Ok(Self { mapping, fd, file_offset: first_page * PAGE_SIZE as u64 })
    }

    /// Returns the size in bytes, a positive multiple of 4096.
    #[allow(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Copies bytes at `offset` to private memory. EFAULT: the memory ends before they do. Panics if they are not
    /// inside the region: offsets of a peer are judged before.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> io::Result<()> {
        self.mapping.address(offset, into.len());
        let (mut rest, mut at) = (into, self.file_offset + offset as u64);
        while !rest.is_empty() {
            // The peer shares the open file, so it may change its flags; none of them matters to a pread of tmpfs.
            match pread(&self.fd, &mut *rest, at) {
                Ok(0) => return Err(Errno::FAULT.into()),
                Ok(read) => {
                    rest = &mut rest[read..];
                    at += read as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Copies private bytes to `offset`. EFAULT: the memory ends before they do. Panics as [`read`](Self::read) does.
    ///
    /// Through a file of our own, which the kernel reads into the mapping: a pwrite to the peer's descriptor would go to
    /// the file's end if the peer set O_APPEND, and would make a file long again that the peer has cut.
    pub fn write(&self, offset: usize, from: &[u8]) -> io::Result<()> {
        self.mapping.address(offset, from.len());
        let scratch = memfd_create("pvblob-scratch", MemfdFlags::CLOEXEC)?;
        let mut done = 0;
        while done < from.len() {
            done += retried(|| pwrite(&scratch, &from[done..], done as u64))?;
        }
        let mut done = 0;
        while done < from.len() {
            let parts = std::iter::once((&self.mapping, offset + done, from.len() - done));
            match read_file_into(scratch.as_fd(), done as u64, parts, false) {
                Ok(0) => return Err(Errno::FAULT.into()),
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The mapping, for its addresses: whoever gets it makes system calls with them and nothing else.
    pub(crate) fn target(&self) -> &Region {
        &self.mapping
    }
}

impl std::fmt::Debug for UnsealedRegion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnsealedRegion").field("length", &self.len()).field("file_offset", &self.file_offset).finish()
    }
}

fn retried(mut call: impl FnMut() -> rustix::io::Result<usize>) -> rustix::io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
