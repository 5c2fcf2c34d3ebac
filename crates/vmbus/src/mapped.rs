//! A ring in a shared mapping: [`RingMemory`] over a control page and the data pages behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::layout::{PAGE_SIZE, Word};
use crate::memory::Region;
use crate::ring::RingMemory;

/// One ring: `size` bytes of a region from `base`, the first page being the control page.
#[derive(Clone)]
pub struct MappedRing {
    region: Arc<Region>,
    base: usize,
    data_size: u32,
}

impl MappedRing {
    /// Takes a ring of `size` bytes, control page included: at least two pages, whole pages. Panics otherwise, for the
    /// caller has checked what a peer said (H15).
    pub fn new(region: Arc<Region>, base: usize, size: usize) -> Self {
        assert!(size >= 2 * PAGE_SIZE && size.is_multiple_of(PAGE_SIZE) && base.is_multiple_of(PAGE_SIZE));
        assert!(base + size <= region.len(), "the ring lies outside its region");
        let data_size = u32::try_from(size - PAGE_SIZE).expect("rings are far smaller than 4 GiB");
        Self { region, base, data_size }
    }

    /// Zeroes the control words: an empty ring that signals.
    pub fn initialise(&self) {
        use Word::*;
        for word in [WriteIndex, ReadIndex, InterruptMask, PendingSendSize, FeatureBits] {
            self.word(word).store(0, Ordering::Relaxed); // nobody else sees the ring yet
        }
    }
}

impl RingMemory for MappedRing {
    fn data_size(&self) -> u32 {
        self.data_size
    }

    fn word(&self, word: Word) -> &AtomicU32 {
        self.region.atomic_u32(self.base + word as usize)
    }

    fn read(&self, at: u32, into: &mut [u8]) {
        debug_assert!(at as usize + into.len() <= self.data_size as usize);
        self.region.read(self.base + PAGE_SIZE + at as usize, into);
    }

    fn write(&self, at: u32, bytes: &[u8]) {
        debug_assert!(at as usize + bytes.len() <= self.data_size as usize);
        self.region.write(self.base + PAGE_SIZE + at as usize, bytes);
    }
}
