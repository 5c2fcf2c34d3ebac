//! The sending end of a ring.
//!
//! Flow: `try_write` any number of packets, then one `commit`, which publishes them and says whether the peer must be
//! signalled. Invariants: the write index is private and only ever published (H8); of what the peer writes, only its
//! read index, its mask and nothing else is used, each judged after one load (H7). Must not know what packets mean.
//! Sources: spec/vmbus.md §1.2 to §1.6.

use std::error::Error;
use std::fmt;

use crate::corruption::Corruption;
use crate::layout::{ALIGNMENT, FEATURE_PENDING_SEND_SIZE, PACKET_SIZE_MAX, TRAILER_SIZE, Word};
use crate::packet::{OutgoingPacket, pack};
use crate::ring::{RingMemory, advance, checked_data_size, copy_in, distance, judge_index};
use crate::sync::{Ordering, fence};

/// Bytes of the data area that the largest packet with its trailer leaves free: what the strictest known peer demands
/// (§1.2).
const LARGEST_LEAVES: u32 = 2 * ALIGNMENT as u32;

/// Why a packet was not written. The ring is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// No room now.
    Full {
        /// Bytes to pass to [`OutgoingRing::want_room`]: the packet with its trailer.
        needed: u32,
    },
    /// No room ever: longer than the ring or the format allows.
    TooLarge,
    /// The peer's read index is impossible: the ring is dead.
    Corrupt(Corruption),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { needed } => write!(f, "the ring has no room for {needed} bytes now"),
            Self::TooLarge => f.write_str("the packet is larger than the ring can ever hold"),
            Self::Corrupt(corruption) => write!(f, "the ring is corrupt: {corruption}"),
        }
    }
}

impl Error for WriteError {}

impl From<Corruption> for WriteError {
    fn from(corruption: Corruption) -> Self {
        Self::Corrupt(corruption)
    }
}

/// The sending end of a ring; one per ring.
pub struct OutgoingRing<M> {
    memory: M,
    data_size: u32,
    /// Where the next packet goes.
    write: u32,
    /// What the peer knows: `write` as of the last commit.
    committed: u32,
    /// The peer's read index as last judged. Older than the truth is safe: it only shows less room.
    read: u32,
    /// Once corrupt, always corrupt.
    corruption: Option<Corruption>,
}

impl<M: RingMemory> OutgoingRing<M> {
    /// Takes the sending end of a freshly initialised ring, and publishes that pending_send_sz will be used and
    /// honoured.
    ///
    /// Panics if the data size is no ring's (multiple of 8, at least 40 bytes, below 2 GiB): a defect of the caller's.
    pub fn new(memory: M) -> Self {
        Self::starting_at(memory, 0)
    }

    /// The same with both indices at `index`, a multiple of 8 in the ring.
    pub fn starting_at(memory: M, index: u32) -> Self {
        let data_size = checked_data_size(&memory);
        assert!(judge_index(Word::WriteIndex, index, data_size).is_ok(), "a ring that starts at {index:#x}");
        // Relaxed: the channel is opened by a message after this, and that orders everything.
        memory.word(Word::WriteIndex).store(index, Ordering::Relaxed);
        memory.word(Word::PendingSendSize).store(0, Ordering::Relaxed);
        memory.word(Word::FeatureBits).store(FEATURE_PENDING_SEND_SIZE, Ordering::Relaxed);
        Self { memory, data_size, write: index, committed: index, read: index, corruption: None }
    }

    /// Returns the memory the ring lies in.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Returns the largest packet, its trailer included, that the ring can ever take.
    pub fn packet_total_max(&self) -> u32 {
        (self.data_size - LARGEST_LEAVES).min((PACKET_SIZE_MAX + TRAILER_SIZE) as u32)
    }

    /// Returns the free bytes, counting all of them; a packet with its trailer needs less than this (spec §1.2).
    pub fn free(&mut self) -> Result<u32, Corruption> {
        self.look()?;
        Ok(self.free_seen())
    }

    /// Tells whether packets of `bytes` in all, trailers included, can be written now.
    pub fn has_room(&mut self, bytes: u32) -> Result<bool, Corruption> {
        // The older, smaller view often suffices, and costs no cache miss.
        if self.corruption.is_none() && self.free_seen() > bytes {
            return Ok(true);
        }
        Ok(self.free()? > bytes)
    }

    fn free_seen(&self) -> u32 {
        self.data_size - distance(self.read, self.write, self.data_size)
    }

    /// Loads and judges the peer's read index.
    fn look(&mut self) -> Result<(), Corruption> {
        if let Some(corruption) = self.corruption {
            return Err(corruption);
        }
        // Acquire, with the release in the peer's commit: it has finished reading what our next stores overwrite.
        let value = self.memory.word(Word::ReadIndex).load(Ordering::Acquire);
        match judge_index(Word::ReadIndex, value, self.data_size) {
            Ok(index) => self.read = index,
            Err(corruption) => self.corruption = Some(corruption),
        }
        self.corruption.map_or(Ok(()), Err)
    }

    /// Writes one packet behind the last; the peer sees it after [`commit`](Self::commit).
    pub fn try_write(&mut self, packet: &OutgoingPacket<'_>) -> Result<(), WriteError> {
        let needed = packet.length() + TRAILER_SIZE;
        if needed > self.packet_total_max() as usize {
            return Err(WriteError::TooLarge);
        }
        let needed = needed as u32;
        if !self.has_room(needed)? {
            return Err(WriteError::Full { needed });
        }
        let start = self.write;
        let mut at = start;
        let mut put = |bytes: &[u8]| {
            copy_in(&self.memory, at, bytes);
            at = advance(at, bytes.len() as u32, self.data_size);
        };
        packet.emit(&mut put);
        put(&pack(0, start));
        self.write = at;
        Ok(())
    }

    /// Writes data in band.
    pub fn try_write_in_band(&mut self, id: u64, completion_requested: bool, payload: &[u8]) -> Result<(), WriteError> {
        self.try_write(&OutgoingPacket::in_band(id, completion_requested, payload))
    }

    /// Writes a request over whole pages, completion requested. Panics if there are no pages.
    pub fn try_write_gpa_direct(&mut self, id: u64, pfns: &[u64], payload: &[u8]) -> Result<(), WriteError> {
        self.try_write(&OutgoingPacket::gpa_direct(id, pfns, payload))
    }

    /// Writes a cancel of request `id`.
    pub fn try_write_cancel(&mut self, id: u64) -> Result<(), WriteError> {
        self.try_write(&OutgoingPacket::cancel(id))
    }

    /// Writes the completion of request `id`.
    pub fn try_write_completion(&mut self, id: u64, payload: &[u8]) -> Result<(), WriteError> {
        self.try_write(&OutgoingPacket::completion(id, payload))
    }

    /// Publishes what was written since the last commit; true when the peer must be signalled (spec §1.4).
    #[must_use = "true means that the peer must be signalled"]
    pub fn commit(&mut self) -> bool {
        if self.write == self.committed {
            return false;
        }
        let old = std::mem::replace(&mut self.committed, self.write);
        // Release: the packets are in the ring before the index that shows them.
        self.memory.word(Word::WriteIndex).store(self.write, Ordering::Release);
        // Full: this store and the loads below, against the receiver's mask = 0 and its last look. One of us sees the
        // other.
        fence(Ordering::SeqCst);
        if self.memory.word(Word::InterruptMask).load(Ordering::Relaxed) != 0 {
            return false;
        }
        // Acquire: the spec's read barrier, a read index no older than the mask. A receiver with the full fences of
        // ours does not need it; it is for receivers that have weaker ones.
        fence(Ordering::Acquire);
        // Only compared, never used as an index, so it need not be judged.
        self.memory.word(Word::ReadIndex).load(Ordering::Relaxed) == old
    }

    /// Asks the peer to signal when `bytes` (packets with trailers) have room; true when they have room already (spec
    /// §1.6).
    ///
    /// After false the caller may sleep: the peer signals once when its reading makes enough room. After true nothing
    /// is asked any more. `bytes` is at most [`packet_total_max`](Self::packet_total_max), else the signal comes at the
    /// latest when the ring is empty. Panics if something written was not committed, for the peer could not make room
    /// of it.
    pub fn want_room(&mut self, bytes: u32) -> Result<bool, Corruption> {
        assert_eq!(self.write, self.committed, "commit before waiting for room");
        let attainable = bytes.next_multiple_of(ALIGNMENT as u32).min(self.data_size - ALIGNMENT as u32);
        self.memory.word(Word::PendingSendSize).store(attainable, Ordering::Relaxed);
        // Full: this store and the look below, against the receiver's read_index store and its load of this word.
        fence(Ordering::SeqCst);
        let has_room = self.free()? > bytes;
        if has_room {
            self.clear_want();
        }
        Ok(has_room)
    }

    /// Takes the wish for room back.
    pub fn clear_want(&mut self) {
        // Relaxed: a receiver that still sees the wish gives one signal too many.
        self.memory.word(Word::PendingSendSize).store(0, Ordering::Relaxed);
    }
}
