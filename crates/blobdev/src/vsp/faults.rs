//! Faults that tests put under the data plane: files whose reads stall as those of a dying disk do.

use std::collections::HashSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::fs::fstat;
use vmbus::memory::{FileRead, ReadEnd};

use super::files::{File, Reader, SystemReader, Target};

#[derive(Default)]
struct Stalled {
    files: HashSet<(u64, u64)>,
    waiting: usize,
}

/// Reads by system calls, but what is read from a stalled file is not in the page cache and waits until it is resumed.
#[derive(Default)]
pub struct StallingReader {
    stalled: Mutex<Stalled>,
    changed: Condvar,
}

impl StallingReader {
    fn lock(&self) -> std::sync::MutexGuard<'_, Stalled> {
        self.stalled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stalls the file that `fd` has open.
    pub fn stall(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let status = fstat(fd)?;
        self.lock().files.insert((status.st_dev, status.st_ino));
        Ok(())
    }

    /// Lets every stalled file be read again.
    pub fn resume(&self) {
        self.lock().files.clear();
        self.changed.notify_all();
    }

    /// How many reads wait now.
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }
}

impl Reader for StallingReader {
    fn read(&self, file: &File, offset: u64, length: usize, into: Target<'_>) -> io::Result<FileRead> {
        let mut stalled = self.lock();
        if stalled.files.contains(&file.identity) {
            if !into.may_wait {
                return Ok(FileRead { bytes: 0, end: ReadEnd::WouldBlock });
            }
            stalled.waiting += 1;
            while stalled.files.contains(&file.identity) {
                stalled = self.changed.wait(stalled).unwrap_or_else(PoisonError::into_inner);
            }
            stalled.waiting -= 1;
        }
        drop(stalled);
        SystemReader.read(file, offset, length, into)
    }
}
