//! A ring in a mapped region: control page first, data pages behind it.
//!
//! Invariant: the ring lies inside its region and holds it mapped. Must not know the protocol. Source: spec/vmbus.md
//! §1.1.

use std::sync::Arc;

use crate::layout::{CONTROL_PAGE_SIZE, FEATURE_PENDING_SEND_SIZE, PAGE_SIZE, Word};
use crate::memory::Region;
use crate::ring::RingMemory;
use crate::sync::{AtomicU32, Ordering};

/// One ring of a channel, in memory that the peer has mapped too.
#[derive(Clone, Debug)]
pub struct MappedRing {
    region: Arc<Region>,
    base: usize,
    data_size: u32,
}

impl MappedRing {
    /// Takes `size` bytes at `base` of a region as a ring: the control page and at least one data page.
    ///
    /// Panics if `base` or `size` is not a multiple of 4096, `size` is below 8192 or above 2 GiB, or it is not inside:
    /// whoever opens a channel has judged the peer's numbers before (H15).
    pub fn new(region: Arc<Region>, base: usize, size: usize) -> Self {
        let whole_pages = base.is_multiple_of(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE);
        assert!(
            whole_pages && size > CONTROL_PAGE_SIZE && size <= i32::MAX as usize,
            "a ring of {size} bytes at {base}"
        );
        region.address(base, size);
        Self { region, base, data_size: (size - CONTROL_PAGE_SIZE) as u32 }
    }

    /// Zeroes the control page and sets the feature bit: done by the guest to both rings, before it opens the channel.
    pub fn initialise(&self) {
        self.region.fill_zero(self.base, CONTROL_PAGE_SIZE);
        // Relaxed: the channel is opened by a message after this, and that orders everything.
        self.word(Word::FeatureBits).store(FEATURE_PENDING_SEND_SIZE, Ordering::Relaxed);
    }

    /// Returns the region the ring lies in.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    fn data(&self, at: u32, length: usize) -> usize {
        let inside = at <= self.data_size && length <= (self.data_size - at) as usize;
        assert!(inside, "bytes {at} + {length} of a ring of {} bytes", self.data_size);
        self.base + CONTROL_PAGE_SIZE + at as usize
    }
}

impl RingMemory for MappedRing {
    fn data_size(&self) -> u32 {
        self.data_size
    }

    fn word(&self, word: Word) -> &AtomicU32 {
        self.region.atomic_u32(self.base + word.offset())
    }

    fn read(&self, at: u32, into: &mut [u8]) {
        self.region.read(self.data(at, into.len()), into);
    }

    fn write(&self, at: u32, from: &[u8]) {
        self.region.write(self.data(at, from.len()), from);
    }
}
