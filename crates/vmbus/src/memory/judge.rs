//! Which descriptors may be mapped: sealed memory for everything, other memory for data buffers (design rule 1).
//!
//! Called on whatever a peer sends, before it is mapped. Nothing is mapped or kept here.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, OFlags, SealFlags, fcntl_get_seals, fcntl_getfl, fstat, fstatfs};

use crate::layout::PAGE_SIZE;

/// The seals without which shared memory could shrink under a mapping.
pub(super) const REQUIRED_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// File system type of memfds with ordinary pages.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Why a descriptor was not mapped.
#[derive(Debug)]
pub enum RegionError {
    /// The descriptor is no memfd, so it cannot be sealed.
    NotSealable,
    /// A memfd without the seals SHRINK, GROW and SEAL.
    SealsMissing {
        /// The seals it has, as F_GET_SEALS returns them.
        found: u32,
    },
    /// A memfd of huge pages.
    HugePages,
    /// Not a regular file of tmpfs: no memory, or of a kind whose page faults may wait for somebody else.
    NotMemory,
    /// Not open for reading and writing.
    NotWritable,
    /// The file ends before the declared range does.
    Short {
        /// Bytes the file must have.
        needed: u64,
        /// Bytes it has.
        actual: u64,
    },
    /// The memfd has another size than was said.
    Size {
        /// Bytes said.
        declared: u64,
        /// Bytes it has.
        actual: u64,
    },
    /// A length that is 0, no multiple of the page size, or more than can be mapped.
    Length(u64),
    /// The system refused.
    System(io::Error),
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSealable => f.write_str("the descriptor is not a memfd; share memory made by memfd_create"),
            Self::SealsMissing { found } => {
                write!(f, "the memfd has seals {found:#x}; add F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_SEAL")
            }
            Self::HugePages => f.write_str("the memfd has huge pages; make it without MFD_HUGETLB"),
            Self::NotMemory => f.write_str(
                "the descriptor is no shared memory of ordinary pages; lend a memfd or what shm_open gives (tmpfs)",
            ),
            Self::NotWritable => f.write_str("the descriptor is not open for reading and writing"),
            Self::Short { needed, actual } => {
                write!(f, "the descriptor has {actual} bytes; the range that is lent ends at {needed}")
            }
            Self::Size { declared, actual } => write!(f, "the memfd has {actual} bytes, {declared} were declared"),
            Self::Length(length) => {
                write!(f, "{length} bytes: not a positive multiple of {PAGE_SIZE} that can be mapped")
            }
            Self::System(error) => write!(f, "mapping the memfd failed: {error}"),
        }
    }
}

impl Error for RegionError {}

impl From<rustix::io::Errno> for RegionError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::System(errno.into())
    }
}

impl From<RegionError> for io::Error {
    fn from(error: RegionError) -> Self {
        match error {
            RegionError::System(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidInput, other),
        }
    }
}

pub(super) fn mappable(length: u64) -> Result<usize, RegionError> {
    match usize::try_from(length) {
        Ok(size) if size > 0 && size.is_multiple_of(PAGE_SIZE) && size <= isize::MAX as usize => Ok(size),
        _ => Err(RegionError::Length(length)),
    }
}

/// Judges a descriptor from a peer; returns the length to map.
pub(super) fn judge_sealed(fd: BorrowedFd<'_>, declared: u64) -> Result<usize, RegionError> {
    let length = mappable(declared)?;
    let seals = fcntl_get_seals(fd).map_err(|_| RegionError::NotSealable)?;
    if !seals.contains(REQUIRED_SEALS) {
        return Err(RegionError::SealsMissing { found: seals.bits() });
    }
    // After the seals were seen, so this size is final.
    let actual = fstat(fd)?.st_size as u64;
    if actual != declared {
        return Err(RegionError::Size { declared, actual });
    }
    if fstatfs(fd)?.f_type as u64 != TMPFS_MAGIC {
        return Err(RegionError::HugePages);
    }
    Ok(length)
}

/// Judges a descriptor of memory without seals; returns the length to map. That it is long enough holds for now only.
pub(super) fn judge_unsealed(fd: BorrowedFd<'_>, first_page: u64, declared: u64) -> Result<usize, RegionError> {
    let length = mappable(declared)?;
    let status = fstat(fd)?;
    let regular = FileType::from_raw_mode(status.st_mode).is_file();
    if !regular || fstatfs(fd)?.f_type as u64 != TMPFS_MAGIC {
        return Err(RegionError::NotMemory);
    }
    if fcntl_getfl(fd)? & OFlags::ACCMODE != OFlags::RDWR {
        return Err(RegionError::NotWritable);
    }
    let start = first_page.checked_mul(PAGE_SIZE as u64).ok_or(RegionError::Length(declared))?;
    let needed = start.checked_add(declared).ok_or(RegionError::Length(declared))?;
    let actual = status.st_size as u64;
    // The last page may be used in part: its rest reads as zeros and faults no more than the bytes before it.
    if actual.checked_next_multiple_of(PAGE_SIZE as u64).is_none_or(|whole| whole < needed) {
        return Err(RegionError::Short { needed, actual });
    }
    Ok(length)
}
