//! Bytes in files: blocks that are digested and written as one private copy, and space given back.
//!
//! Invariant: a checksum is computed over the same private bytes that are written, never over memory a guest may still
//! change (design rule 1). Knows neither channels nor requests.

use std::io;
use std::os::fd::BorrowedFd;

use crc_fast::CrcAlgorithm;
use md5::{Digest as _, Md5};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, pwrite};

/// Bytes copied, digested and written at a time: a private block stays in the core's cache (design rule 1).
pub const BLOCK_SIZE: usize = 256 * 1024;

/// Running checksums of the bytes stored so far: CRC-64/NVME always, MD5 when asked for.
pub struct Digest {
    crc64: u64,
    md5: Option<Md5>,
}

impl Digest {
    /// Begins with no bytes.
    pub fn new(md5: bool) -> Self {
        Self { crc64: 0, md5: md5.then(Md5::new) }
    }

    /// Adds bytes. They must be private: what is digested is what is then written.
    pub fn update(&mut self, bytes: &[u8]) {
        self.crc64 = crc64(bytes, self.crc64);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
    }

    /// The CRC-64/NVME of all bytes so far.
    pub fn crc64(&self) -> u64 {
        self.crc64
    }

    /// The MD5 of all bytes so far, if it was asked for.
    pub fn md5(&self) -> Option<[u8; 16]> {
        self.md5.as_ref().map(|md5| md5.clone().finalize().into())
    }
}

/// Returns the CRC-64/NVME of `bytes` continuing an earlier value (0 for none).
pub fn crc64(bytes: &[u8], earlier: u64) -> u64 {
    // A finished value is the state with every bit inverted (xorout is all ones), so inverting it gives the state back.
    let mut digest = crc_fast::Digest::new_with_init_state(CrcAlgorithm::Crc64Nvme, !earlier);
    digest.update(bytes);
    digest.finalize()
}

/// Writes all of `bytes` to `file` at `offset`. Errors are pwrite(2)'s; a part may have been written then.
pub fn write_all_at(file: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match pwrite(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Digests and writes private bytes, block by block, so that each block is still in the cache when it is written.
///
/// Errors are pwrite(2)'s; a part may have been written then, and `digest` holds more than was written.
pub fn store(bytes: &[u8], file: BorrowedFd<'_>, offset: u64, digest: &mut Digest) -> io::Result<()> {
    let mut at = offset;
    for block in bytes.chunks(BLOCK_SIZE) {
        digest.update(block);
        write_all_at(file, block, at)?;
        at += block.len() as u64;
    }
    Ok(())
}

/// Gives the file system back `length` bytes of `file` from `offset`: they read as zero, and the file's size stays.
///
/// Errors are fallocate(2)'s: EOPNOTSUPP where the file system has no holes, EINVAL for no bytes.
pub fn punch_hole(file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    loop {
        match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
