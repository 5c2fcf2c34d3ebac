//! The receiving end of a ring.
//!
//! Flow: `mask`, then `next` until there is nothing, `commit` once per batch, `prepare_sleep` before waiting for a
//! signal. Invariants: the read index is private and only ever published (H8); a packet is copied to private memory
//! once and only the copy is judged and handed out (H4); an impossible value ends the ring for good (H5 to H7). Must
//! not know what packets mean. Source: spec/vmbus.md §1.5.

use crate::corruption::Corruption;
use crate::layout::{ALIGNMENT, DESCRIPTOR_SIZE, FEATURE_PENDING_SEND_SIZE, PACKET_TOTAL_MIN, TRAILER_SIZE, Word};
use crate::packet::{Descriptor, Packet};
use crate::ring::{RingMemory, advance, checked_data_size, copy_out, distance, judge_index};
use crate::sync::{Ordering, fence};

/// The receiving end of a ring; one per ring.
pub struct IncomingRing<M> {
    memory: M,
    data_size: u32,
    /// Where the next packet starts.
    read: u32,
    /// What the peer knows: `read` as of the last commit.
    committed: u32,
    /// The peer's write index as last judged. Whole packets lie before it, for an honest peer commits nothing else.
    write: u32,
    /// `prepare_sleep` has cleared the mask and nothing of ours has set it since.
    armed: bool,
    /// Once corrupt, always corrupt.
    corruption: Option<Corruption>,
}

impl<M: RingMemory> IncomingRing<M> {
    /// Takes the receiving end of a freshly initialised ring; asks for no signals until
    /// [`prepare_sleep`](Self::prepare_sleep).
    ///
    /// Panics if the data size is no ring's (multiple of 8, at least 40 bytes, below 2 GiB): a defect of the caller's.
    pub fn new(memory: M) -> Self {
        Self::starting_at(memory, 0)
    }

    /// The same with both indices at `index`, a multiple of 8 in the ring.
    pub fn starting_at(memory: M, index: u32) -> Self {
        let data_size = checked_data_size(&memory);
        assert!(judge_index(Word::ReadIndex, index, data_size).is_ok(), "a ring that starts at {index:#x}");
        // Relaxed: the peer may send before, but reads these only to decide on signals, and we look before we sleep.
        memory.word(Word::ReadIndex).store(index, Ordering::Relaxed);
        memory.word(Word::InterruptMask).store(1, Ordering::Relaxed);
        Self { memory, data_size, read: index, committed: index, write: index, armed: false, corruption: None }
    }

    /// Returns the memory the ring lies in.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Tells whether [`next`](Self::next) has something to say: a packet or a corruption. Cheap enough to spin on.
    pub fn has_data(&self) -> bool {
        // Relaxed: only a hint, `next` loads again before it touches data. An impossible index differs too.
        self.corruption.is_some() || self.memory.word(Word::WriteIndex).load(Ordering::Relaxed) != self.read
    }

    /// Takes the next packet, if there is one: copies it into `scratch` and judges the copy.
    ///
    /// `scratch` grows to the largest packet seen, which is less than the ring. The packet's place in the ring is free
    /// for the sender after [`commit`](Self::commit). After an error every further call returns the same error.
    pub fn next<'s>(&mut self, scratch: &'s mut Vec<u8>) -> Result<Option<Packet<'s>>, Corruption> {
        if let Some(corruption) = self.corruption {
            return Err(corruption);
        }
        let taken = self.take(scratch);
        if let Err(corruption) = taken {
            self.corruption = Some(corruption);
        }
        taken
    }

    fn take<'s>(&mut self, scratch: &'s mut Vec<u8>) -> Result<Option<Packet<'s>>, Corruption> {
        let available = self.available()?;
        if available == 0 {
            return Ok(None);
        }
        if (available as usize) < PACKET_TOTAL_MIN {
            return Err(Corruption::Truncated { available });
        }
        let mut head = [0; DESCRIPTOR_SIZE];
        copy_out(&self.memory, self.read, &mut head);
        let descriptor = Descriptor::parse(&head, available)?;
        let length = descriptor.length();
        if scratch.len() < length {
            scratch.resize(length, 0);
        }
        let copy = &mut scratch[..length];
        // The descriptor is not read again: what was judged is what is used (H4).
        copy[..DESCRIPTOR_SIZE].copy_from_slice(&head);
        let behind = advance(self.read, DESCRIPTOR_SIZE as u32, self.data_size);
        copy_out(&self.memory, behind, &mut copy[DESCRIPTOR_SIZE..]);
        let packet = Packet::cut(descriptor, copy)?;
        self.read = advance(self.read, (length + TRAILER_SIZE) as u32, self.data_size);
        Ok(Some(packet))
    }

    /// Returns the bytes that may be read; looks at the peer's index only when what is known is used up.
    fn available(&mut self) -> Result<u32, Corruption> {
        if self.write == self.read {
            // Acquire, with the release in the sender's commit: the packets before this index are in the ring.
            let value = self.memory.word(Word::WriteIndex).load(Ordering::Acquire);
            self.write = judge_index(Word::WriteIndex, value, self.data_size)?;
        }
        Ok(distance(self.read, self.write, self.data_size))
    }

    /// Gives the room of all packets taken back to the sender; true when it waits for that and must be signalled (spec
    /// §1.5).
    #[must_use = "true means that the peer must be signalled"]
    pub fn commit(&mut self) -> bool {
        if self.read == self.committed {
            return false;
        }
        let old = std::mem::replace(&mut self.committed, self.read);
        // Release: our copies are made before the sender may overwrite what they were made of.
        self.memory.word(Word::ReadIndex).store(self.read, Ordering::Release);
        // Full: this store and the loads below, against the sender's pending_send_sz and its last look. One of us sees
        // the other. The sender also relies on it to see no older read index than the mask we may clear later.
        fence(Ordering::SeqCst);
        let features = self.memory.word(Word::FeatureBits).load(Ordering::Relaxed);
        let wanted = self.memory.word(Word::PendingSendSize).load(Ordering::Relaxed);
        if features & FEATURE_PENDING_SEND_SIZE == 0 || wanted == 0 {
            return false;
        }
        // Acquire: the spec's read barrier, a write index no older than the wish. A sender with the full fences of ours
        // does not need it; it is for senders that have weaker ones.
        fence(Ordering::Acquire);
        let write = self.memory.word(Word::WriteIndex).load(Ordering::Relaxed);
        if judge_index(Word::WriteIndex, write, self.data_size).is_err() {
            return false; // `next` will say so
        }
        self.made_room(old, write, wanted)
    }

    /// Tells whether moving the read index from `old` made room for `wanted` bytes that had none (the table in spec
    /// §1.5).
    fn made_room(&self, old: u32, write: u32, wanted: u32) -> bool {
        // Rounded down because some peers ask for ring size - 1.
        let wanted = wanted - wanted % ALIGNMENT as u32;
        let free = self.data_size - distance(self.read, write, self.data_size);
        // A peer that moved its write index back can make this negative; then there was no room.
        let free_before = free.saturating_sub(distance(old, self.read, self.data_size));
        free_before <= wanted && free > wanted
    }

    /// Asks for no signals: the ring is being drained anyway.
    pub fn mask(&mut self) {
        self.armed = false;
        // Relaxed: a sender that still sees 0 gives one signal too many.
        self.memory.word(Word::InterruptMask).store(1, Ordering::Relaxed);
    }

    /// Asks for a signal and looks once more: true = the ring is empty, sleep; false = there is data, no signal was
    /// asked for.
    ///
    /// Panics if packets were taken and not committed: the sender signals only when it sees that all was read (spec
    /// §1.4).
    #[must_use = "false means that there is data and no signal will come"]
    pub fn prepare_sleep(&mut self) -> bool {
        assert_eq!(self.read, self.committed, "commit before sleeping");
        self.memory.word(Word::InterruptMask).store(0, Ordering::Relaxed);
        // Full: mask = 0 and the look below, against the sender's write_index store and its load of the mask.
        fence(Ordering::SeqCst);
        if self.has_data() {
            self.mask();
            return false;
        }
        self.armed = true;
        true
    }

    /// Tells whether the mask was set behind our back while we wait for a signal, which then never comes (H20).
    pub fn mask_tampered(&self) -> bool {
        // Relaxed: compared with what this end itself wrote last.
        self.armed && self.memory.word(Word::InterruptMask).load(Ordering::Relaxed) != 0
    }
}
