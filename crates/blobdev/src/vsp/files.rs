//! Files that answers are read from: one descriptor per file, how it can be read without waiting, and the reading.
//!
//! Flow: [`Files::open`] gives a shared [`File`] for a descriptor of the control plane's; [`read_parts`] reads parts of
//! such files straight into a guest's pages. Invariant: a read that must not wait never waits for a disk; whether a file
//! system can tell is found out once per mount. Source: design §6.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{fstat, fstatfs};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use vmbus::memory::{FileRead, ReadEnd, SpanList};

/// File systems whose files are memory: TMPFS_MAGIC and RAMFS_MAGIC of statfs(2).
const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58F6];

/// Files known above which those that nobody uses any more are forgotten.
const FILES_SWEPT_AT: usize = 64;

/// How a file can be read without waiting for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    /// The file system tells what would wait (`RWF_NOWAIT`).
    Asked,
    /// Its files are memory: a plain read does not wait.
    Memory,
    /// Nobody can tell: every read may wait.
    Unknown,
}

/// A file that is read from, kept open as long as anybody refers to it.
pub struct File {
    fd: OwnedFd,
    /// Device and inode number.
    pub identity: (u64, u64),
    residency: Residency,
}

/// A run of bytes in a file.
#[derive(Clone)]
pub struct Run {
    /// The file.
    pub file: Arc<File>,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

#[derive(Default)]
struct Known {
    /// By device and inode; sound as a name, for an inode is not used again while our descriptor holds it.
    files: HashMap<(u64, u64), Weak<File>>,
    /// By device.
    mounts: HashMap<u64, Residency>,
    sweep_at: usize,
}

/// The files in use.
#[derive(Default)]
pub struct Files(Mutex<Known>);

impl Files {
    /// Returns the file that `fd` has open: the one descriptor of ours for it.
    pub fn open(&self, fd: BorrowedFd<'_>) -> io::Result<Arc<File>> {
        let status = fstat(fd)?;
        let identity = (status.st_dev, status.st_ino);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = known.files.get(&identity).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let residency = match known.mounts.get(&identity.0) {
            Some(residency) => *residency,
            None => probe(fd)?,
        };
        known.mounts.insert(identity.0, residency);
        let file = Arc::new(File { fd: fd.try_clone_to_owned()?, identity, residency });
        if known.files.len() >= known.sweep_at.max(FILES_SWEPT_AT) {
            known.files.retain(|_, file| file.strong_count() > 0);
            known.sweep_at = 2 * known.files.len();
        }
        known.files.insert(identity, Arc::downgrade(&file));
        Ok(file)
    }
}

/// Finds out what a file system can tell about its files.
fn probe(fd: BorrowedFd<'_>) -> io::Result<Residency> {
    match preadv2(fd, &mut [IoSliceMut::new(&mut [0])], 0, ReadWriteFlags::NOWAIT) {
        Ok(_) | Err(Errno::AGAIN) => Ok(Residency::Asked),
        Err(Errno::OPNOTSUPP) if MEMORY_FILE_SYSTEMS.contains(&(fstatfs(fd)?.f_type as u64)) => Ok(Residency::Memory),
        Err(Errno::OPNOTSUPP) => Ok(Residency::Unknown),
        Err(error) => Err(error.into()),
    }
}

/// Where a read goes and how.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The guest's pages.
    pub pages: &'a SpanList,
    /// The first byte of them to be written.
    pub at: usize,
    /// Whether it may wait for the disk.
    pub may_wait: bool,
}

/// Who reads files: the system, or a test that stalls it.
pub trait Reader: Send + Sync {
    /// Reads `length` bytes from `offset` on into the pages; short for the reasons that [`ReadEnd`] names.
    fn read(&self, file: &File, offset: u64, length: usize, into: Target<'_>) -> io::Result<FileRead>;
}

/// Reads by system calls.
pub struct SystemReader;

impl Reader for SystemReader {
    fn read(&self, file: &File, offset: u64, length: usize, into: Target<'_>) -> io::Result<FileRead> {
        let fd = file.fd.as_fd();
        match file.residency {
            Residency::Asked if !into.may_wait => into.pages.read_from_file_nowait(into.at, fd, offset, length),
            Residency::Unknown if !into.may_wait => Ok(FileRead { bytes: 0, end: ReadEnd::WouldBlock }),
            _ => {
                let bytes = into.pages.read_from_file(into.at, fd, offset, length)?;
                let end = if bytes == length { ReadEnd::Filled } else { ReadEnd::EndOfFile };
                Ok(FileRead { bytes, end })
            }
        }
    }
}

/// Reads (file, offset, length) parts one behind the other into the pages; returns the bytes read, and whether that is
/// all. It is not all only where the read may not wait and would.
///
/// UnexpectedEof where a file ends before its part does; else preadv2(2)'s errors.
pub fn read_parts<'a>(
    reader: &dyn Reader,
    parts: impl Iterator<Item = (&'a Arc<File>, u64, u64)>,
    into: Target<'_>,
) -> io::Result<(u64, bool)> {
    let mut done = 0;
    for (file, offset, length) in parts {
        let target = Target { at: into.at + done as usize, ..into };
        let read = reader.read(file, offset, length as usize, target)?;
        done += read.bytes as u64;
        match read.end {
            ReadEnd::Filled => {}
            ReadEnd::EndOfFile => return Err(io::ErrorKind::UnexpectedEof.into()),
            ReadEnd::WouldBlock | ReadEnd::Unsupported => return Ok((done, false)),
        }
    }
    Ok((done, true))
}
