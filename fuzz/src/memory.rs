//! A ring in ordinary memory: as fast as a fuzzer needs it, and watched: nothing outside the data area is touched.

use std::cell::RefCell;
use std::sync::atomic::AtomicU32;

use vmbus::layout::Word;
use vmbus::ring::RingMemory;

/// The words of the control page and a data area.
pub struct PlainRing {
    words: [AtomicU32; 5],
    data: RefCell<Vec<u8>>,
}

impl PlainRing {
    /// Makes a ring whose data area holds `data`, a multiple of 8 bytes.
    pub fn new(data: Vec<u8>) -> Self {
        Self { words: Default::default(), data: RefCell::new(data) }
    }

    /// Returns the `length` bytes from index `at` on, across the end.
    pub fn linear(&self, at: usize, length: usize) -> Vec<u8> {
        let data = self.data.borrow();
        (0..length).map(|offset| data[(at + offset) % data.len()]).collect()
    }
}

impl RingMemory for &PlainRing {
    fn data_size(&self) -> u32 {
        self.data.borrow().len() as u32
    }

    fn word(&self, word: Word) -> &AtomicU32 {
        match word {
            Word::WriteIndex => &self.words[0],
            Word::ReadIndex => &self.words[1],
            Word::InterruptMask => &self.words[2],
            Word::PendingSendSize => &self.words[3],
            Word::FeatureBits => &self.words[4],
        }
    }

    fn read(&self, at: u32, into: &mut [u8]) {
        into.copy_from_slice(&self.data.borrow()[at as usize..][..into.len()]);
    }

    fn write(&self, at: u32, from: &[u8]) {
        self.data.borrow_mut()[at as usize..][..from.len()].copy_from_slice(from);
    }
}
