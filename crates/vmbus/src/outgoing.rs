//! The sender's half of a ring: write packets, commit them, learn whether the receiver must be signalled.
//!
//! The write index is private and only published (H8). Several packets may be written before one `commit`, which makes
//! one signal decision for all of them (spec/vmbus.md §1.4).

use crate::layout::{FEATURE_PENDING_SEND_SIZE, TRAILER_SIZE, Word};
use crate::packet::{Descriptor, PacketKind, gpa_direct_head};
use crate::ring::{Corruption, RingMemory, copy_in, foreign_index, used};
use crate::sync::{Ordering, fence};

/// Why a packet was not written. Nothing of it is in the ring then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// No room now: `needed` bytes would do, see [`OutgoingRing::want_room`].
    Full {
        /// Bytes of the packet and its trailer.
        needed: u32,
    },
    /// The packet can never fit this ring.
    TooLarge,
    /// The receiver's index is impossible.
    Corrupt(Corruption),
}

/// The sender's half.
pub struct OutgoingRing<M> {
    memory: M,
    /// Where the next packet goes: always < data size and a multiple of 8.
    write_index: u32,
    /// What the receiver has been told.
    committed: u32,
    scratch: Vec<u8>,
}

impl<M: RingMemory> OutgoingRing<M> {
    /// Takes the sending half of an initialised ring and announces that we use and honour pending_send_sz.
    pub fn new(memory: M) -> Self {
        // Relaxed: the receiver reads the bit long after the handshake that made it see this ring at all.
        memory.word(Word::FeatureBits).store(FEATURE_PENDING_SEND_SIZE, Ordering::Relaxed);
        memory.word(Word::WriteIndex).store(0, Ordering::Relaxed);
        Self { memory, write_index: 0, committed: 0, scratch: Vec::new() }
    }

    /// Free bytes, the 8 that always stay unused included. The acquire keeps later data stores behind this load: the
    /// receiver is done with what it gave free.
    fn free(&self) -> Result<u32, Corruption> {
        let read = foreign_index(&self.memory, Word::ReadIndex, Ordering::Acquire)?;
        Ok(self.memory.data_size() - used(self.memory.data_size(), self.write_index, read))
    }

    /// Tells whether packets of `needed` bytes in all, trailers included, would fit now. A corrupt index means no room.
    pub fn has_room(&self, needed: u32) -> bool {
        self.free().is_ok_and(|free| free > needed)
    }

    /// Writes a packet of `kind` with `payload`; it is sent by the next `commit`.
    pub fn try_write(&mut self, kind: PacketKind, transaction_id: u64, payload: &[u8]) -> Result<(), WriteError> {
        let descriptor = Descriptor::of(kind, 16, payload.len(), transaction_id).ok_or(WriteError::TooLarge)?;
        self.write_parts(&[&descriptor.encode(), payload])
    }

    /// Writes a completion packet.
    pub fn try_write_completion(&mut self, transaction_id: u64, payload: &[u8]) -> Result<(), WriteError> {
        self.try_write(PacketKind::Completion, transaction_id, payload)
    }

    /// Writes a cancel packet: its transaction id says it all.
    pub fn try_write_cancel(&mut self, transaction_id: u64) -> Result<(), WriteError> {
        self.try_write(PacketKind::Cancel, transaction_id, &[])
    }

    /// Writes a GPA-direct packet whose one range is all of the pages `pfns`.
    pub fn try_write_gpa_direct(
        &mut self,
        transaction_id: u64,
        pfns: &[u64],
        payload: &[u8],
    ) -> Result<(), WriteError> {
        let mut head = std::mem::take(&mut self.scratch);
        let described = gpa_direct_head(&mut head, pfns, payload.len(), transaction_id);
        let written = described.ok_or(WriteError::TooLarge).and_then(|()| self.write_parts(&[&head, payload]));
        self.scratch = head;
        written
    }

    fn write_parts(&mut self, parts: &[&[u8]]) -> Result<(), WriteError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let padding = length.next_multiple_of(8) - length;
        let needed = (length + padding + TRAILER_SIZE) as u32;
        if needed > self.memory.data_size() - 8 {
            return Err(WriteError::TooLarge);
        }
        if self.free().map_err(WriteError::Corrupt)? <= needed {
            return Err(WriteError::Full { needed });
        }
        let begun_at = self.write_index;
        let mut at = begun_at;
        for part in parts {
            at = copy_in(&self.memory, at, part);
        }
        at = copy_in(&self.memory, at, &[0; 8][..padding]);
        // The trailer: low half zero, high half where this packet began (spec §1.3).
        self.write_index = copy_in(&self.memory, at, &(u64::from(begun_at) << 32).to_le_bytes());
        Ok(())
    }

    /// Publishes what was written; returns whether the receiver must be signalled.
    pub fn commit(&mut self) -> bool {
        if self.committed == self.write_index {
            return false;
        }
        let before = std::mem::replace(&mut self.committed, self.write_index);
        // Release: the packets' bytes are in the ring before the index says so.
        self.memory.word(Word::WriteIndex).store(self.write_index, Ordering::Release);
        // Full barrier: pairs with the receiver's in `prepare_sleep`. Either the receiver sees the new index when it looks
        // again, or we see its mask cleared here. Without it both could miss (store-load reordering).
        fence(Ordering::SeqCst);
        if self.memory.word(Word::InterruptMask).load(Ordering::Relaxed) != 0 {
            return false;
        }
        // The read barrier of spec §1.4 step 5: the index is not older than the mask.
        fence(Ordering::Acquire);
        // Only if the ring was empty from the receiver's view: it has read everything that was there before.
        self.memory.word(Word::ReadIndex).load(Ordering::Relaxed) == before
    }

    /// Asks the receiver to signal when `needed` bytes are free; returns true when they are already.
    pub fn want_room(&mut self, needed: u32) -> bool {
        // +8: the receiver compares with the free bytes as Linux counts them, of which 8 always stay unused.
        let size = needed.next_multiple_of(8);
        self.memory.word(Word::PendingSendSize).store(size, Ordering::Relaxed);
        // Full barrier: pairs with the receiver's in `commit`. Either it sees our wish after moving its index, or we see
        // the moved index here.
        fence(Ordering::SeqCst);
        self.has_room(needed)
    }

    /// Withdraws the wish of [`want_room`](Self::want_room).
    pub fn clear_want(&mut self) {
        // Relaxed: at worst the receiver signals once without need.
        self.memory.word(Word::PendingSendSize).store(0, Ordering::Relaxed);
    }

    /// The memory behind the ring.
    pub fn memory(&self) -> &M {
        &self.memory
    }
}
