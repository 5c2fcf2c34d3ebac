//! GUIDs for requests that may run twice: random once per channel, then counted.
//!
//! A read's GUID names only the pieces of its answer (design rule 6), within one channel, so it need not be guessed by
//! nobody; 16 fresh random bytes would cost a system call per request.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::rand::{GetRandomFlags, getrandom};

/// Gives each request of one channel a GUID of its own.
pub(super) struct GuidSource {
    random: [u8; 8],
    next: AtomicU64,
}

impl GuidSource {
    pub fn new() -> io::Result<Self> {
        let mut seed = [0; 16];
        // 256 bytes and fewer come whole (getrandom(2)).
        getrandom(&mut seed, GetRandomFlags::empty())?;
        let [random, first] = *seed.as_chunks::<8>().0 else { unreachable!("16 bytes are two times 8") };
        Ok(Self { random, next: AtomicU64::new(u64::from_le_bytes(first)) })
    }

    pub fn next(&self) -> [u8; 16] {
        // Relaxed: only that no two are alike matters.
        let count = self.next.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        let mut guid = [0; 16];
        guid[..8].copy_from_slice(&self.random);
        guid[8..].copy_from_slice(&count);
        guid
    }
}
