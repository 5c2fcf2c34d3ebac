//! Bytes in real files: what is written, its checksums, and holes.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use blobdev::extents::{BLOCK_SIZE, Digest, crc64, punch_hole, store};

/// A file that is gone at the end of the test.
struct Scratch(File, PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        Self(file, path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.1);
    }
}

/// Bytes that differ from block to block.
fn sample(size: usize) -> Vec<u8> {
    (0..size as u64).map(|index| (index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// spec/azure-blob-device.md §8.1: the check value of CRC-64/NVME.
#[test]
fn the_crc_of_the_digits_is_the_standards_check_value() {
    assert_eq!(crc64(b"123456789", 0), 0xAE8B_1486_0A79_9888);
    assert_eq!(crc64(b"", 0), 0);
}

/// spec/azure-blob-device.md §8.1: an open request with body `{}`, computed by the published connector's routine.
#[test]
fn the_crc_of_the_connectors_message_is_the_published_one() {
    let mut message = b"HsReq001".to_vec();
    message.extend(1_u32.to_le_bytes());
    message.extend(1_u32.to_le_bytes());
    message.extend([0; 16]);
    message.extend(b"{}");
    assert_eq!(crc64(&message, 0), 0x742A_06A4_ABA3_0BE5);
}

/// Also where the value so far is 0, which is what no bytes have.
#[test]
fn a_crc_continues_from_any_cut() {
    let bytes = sample(1000);
    let whole = crc64(&bytes, 0);
    for cut in 0..=bytes.len() {
        assert_eq!(crc64(&bytes[cut..], crc64(&bytes[..cut], 0)), whole, "cut at {cut}");
    }
}

#[test]
fn store_writes_every_byte_at_its_place_and_gives_the_checksums_of_them_all() {
    let scratch = Scratch::new("store");
    let sizes = [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE + 17];
    for size in sizes {
        scratch.0.set_len(0).unwrap();
        let bytes = sample(size);
        let mut digest = Digest::new(false);
        store(&bytes, scratch.0.as_fd(), 4093, &mut digest).unwrap();
        let mut read = vec![0; size];
        scratch.0.read_exact_at(&mut read, 4093).unwrap();
        assert!(read == bytes, "{size} bytes");
        assert_eq!(scratch.0.metadata().unwrap().len(), if size == 0 { 0 } else { 4093 + size as u64 });
        assert_eq!((digest.crc64(), digest.md5()), (crc64(&bytes, 0), None));
    }
}

/// RFC 1321 §A.5, over two stores with one digest.
#[test]
fn a_digest_runs_over_several_stores_and_gives_md5_when_asked() {
    let scratch = Scratch::new("digest");
    let mut digest = Digest::new(true);
    store(b"message ", scratch.0.as_fd(), 0, &mut digest).unwrap();
    store(b"digest", scratch.0.as_fd(), 8, &mut digest).unwrap();
    let expected = 0xf96b_697d_7cb7_938d_525a_2f31_aaf1_61d0_u128.to_be_bytes();
    assert_eq!(digest.md5(), Some(expected));
    assert_eq!(digest.crc64(), crc64(b"message digest", 0));
}

#[test]
fn store_reports_what_the_system_says() {
    let scratch = Scratch::new("read-only");
    let read_only = File::open(&scratch.1).unwrap();
    let error = store(b"x", read_only.as_fd(), 0, &mut Digest::new(false)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(9), "EBADF, as from pwrite(2)");
}

#[test]
fn a_hole_reads_as_zero_gives_blocks_back_and_keeps_the_size() {
    let scratch = Scratch::new("hole");
    let size = 16 * 65536;
    store(&vec![0xAB; size], scratch.0.as_fd(), 0, &mut Digest::new(false)).unwrap();
    scratch.0.sync_all().unwrap();
    let blocks = scratch.0.metadata().unwrap().blocks();
    punch_hole(scratch.0.as_fd(), 65536, 8 * 65536).unwrap();
    scratch.0.sync_all().unwrap();
    let after = scratch.0.metadata().unwrap();
    assert_eq!(after.len(), size as u64);
    assert!(after.blocks() <= blocks - 8 * 65536 / 512, "{} blocks of {blocks} remain", after.blocks());
    let mut read = vec![0; size];
    scratch.0.read_exact_at(&mut read, 0).unwrap();
    let hole = 65536..9 * 65536;
    assert!(read.iter().enumerate().all(|(at, &byte)| byte == if hole.contains(&at) { 0 } else { 0xAB }));
}
