//! The receiver's half of a ring: take packets as judged private copies, commit what was read, prepare to sleep.
//!
//! The read index is private and only published (H8). `commit` returns whether a sender that waits for room must be
//! signalled; `prepare_sleep` is the handshake after which a new packet is sure to signal (spec/vmbus.md §1.5).

use crate::layout::{DESCRIPTOR_SIZE, FEATURE_PENDING_SEND_SIZE, TRAILER_SIZE, Word};
use crate::packet::{Descriptor, Packet};
use crate::ring::{Corruption, RingMemory, advance, copy_out, foreign_index, used};
use crate::sync::{Ordering, fence};

/// The receiver's half.
pub struct IncomingRing<M> {
    memory: M,
    /// Where the next packet begins: always < data size and a multiple of 8.
    read_index: u32,
    /// What the sender has been told.
    committed: u32,
}

impl<M: RingMemory> IncomingRing<M> {
    /// Takes the receiving half of an initialised ring. The mask stays as it is, 0: the first packet signals.
    pub fn new(memory: M) -> Self {
        memory.word(Word::ReadIndex).store(0, Ordering::Relaxed);
        Self { memory, read_index: 0, committed: 0 }
    }

    fn available(&self) -> Result<u32, Corruption> {
        // Acquire: the bytes below the index are there before it.
        let write = foreign_index(&self.memory, Word::WriteIndex, Ordering::Acquire)?;
        Ok(used(self.memory.data_size(), write, self.read_index))
    }

    /// Takes the next packet: copies it into `scratch`, then judges the copy (H1, H4–H6). `None`: the ring is empty.
    pub fn next<'a>(&mut self, scratch: &'a mut Vec<u8>) -> Result<Option<Packet<'a>>, Corruption> {
        let available = self.available()?;
        if available == 0 {
            return Ok(None);
        }
        if (available as usize) < DESCRIPTOR_SIZE + TRAILER_SIZE {
            return Err(Corruption::Fragment { available });
        }
        let mut bytes = [0; DESCRIPTOR_SIZE];
        copy_out(&self.memory, self.read_index, &mut bytes);
        let descriptor = Descriptor::parse(&bytes);
        let kind = descriptor.check(available)?;
        let size = usize::from(descriptor.length8) * 8;
        scratch.resize(size, 0);
        copy_out(&self.memory, self.read_index, scratch);
        // The second copy may differ from the judged first one: the judged one wins (H4).
        scratch[..DESCRIPTOR_SIZE].copy_from_slice(&bytes);
        self.read_index = advance(self.memory.data_size(), self.read_index, (size + TRAILER_SIZE) as u32);
        Packet::of_copy(scratch, descriptor, kind).map(Some)
    }

    /// Tells the sender what has been read; returns whether it waits for room and must be signalled now.
    pub fn commit(&mut self) -> bool {
        if self.committed == self.read_index {
            return false;
        }
        let size = self.memory.data_size();
        let before = std::mem::replace(&mut self.committed, self.read_index);
        // Release: our reads of the packets are done before the sender may overwrite them.
        self.memory.word(Word::ReadIndex).store(self.read_index, Ordering::Release);
        // Full barrier: pairs with the sender's in `want_room` (spec §1.5 step 4b).
        fence(Ordering::SeqCst);
        if self.memory.word(Word::FeatureBits).load(Ordering::Relaxed) & FEATURE_PENDING_SEND_SIZE == 0 {
            return false;
        }
        let wanted = self.memory.word(Word::PendingSendSize).load(Ordering::Relaxed);
        if wanted == 0 {
            return false;
        }
        // The read barrier of step 4d: the write index is not older than the wish.
        fence(Ordering::Acquire);
        let Ok(write) = foreign_index(&self.memory, Word::WriteIndex, Ordering::Relaxed) else {
            return false; // the next `next` reports it
        };
        let free_now = size - used(size, write, self.read_index);
        let freed = used(size, self.read_index, before);
        // Only on the transition: before this batch there was not enough, now there is (step 4f, as Linux counts).
        free_now.saturating_sub(freed) <= wanted && free_now > wanted
    }

    /// Tells the sender not to signal: we are looking anyway.
    pub fn mask(&mut self) {
        // Relaxed: at worst one signal comes without need.
        self.memory.word(Word::InterruptMask).store(1, Ordering::Relaxed);
    }

    /// Asks for signals and looks again: true = the ring is empty and the next packet signals; false = there is data,
    /// and signals are masked again.
    pub fn prepare_sleep(&mut self) -> bool {
        self.memory.word(Word::InterruptMask).store(0, Ordering::Relaxed);
        // Full barrier: pairs with the sender's in `commit`. Either we see its new index here, or it sees the mask cleared
        // and signals.
        fence(Ordering::SeqCst);
        if self.has_data() {
            self.mask();
            return false;
        }
        true
    }

    /// Tells whether there is something to take: a packet, or a corruption to report.
    pub fn has_data(&self) -> bool {
        self.available() != Ok(0)
    }

    /// After a sleep that ended without signal: reports if the sender masked us while we slept (H20).
    pub fn check_mask(&self) -> Result<(), Corruption> {
        match self.memory.word(Word::InterruptMask).load(Ordering::Relaxed) {
            0 => Ok(()),
            _ => Err(Corruption::MaskTampered),
        }
    }

    /// The memory behind the ring.
    pub fn memory(&self) -> &M {
        &self.memory
    }
}
