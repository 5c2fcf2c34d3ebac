//! What both halves of a ring share: the memory behind it, its corruption, and the one wrap-around copy.

use std::fmt;

use crate::layout::Word;
use crate::sync::{AtomicU32, Ordering};

/// The memory of one ring: control words and a data area. Implemented over shared mappings, and by tests over loom cells.
///
/// `read` and `write` move bytes that do not wrap (`at + length <= data_size`); the peer may write the same bytes at any
/// moment, so what is read has any value, and is judged only as a copy.
pub trait RingMemory {
    /// Bytes of the data area: a positive multiple of 4096, not always a power of two.
    fn data_size(&self) -> u32;
    /// The atomic word of the control page.
    fn word(&self, word: Word) -> &AtomicU32;
    /// Copies bytes of the data area out.
    fn read(&self, at: u32, into: &mut [u8]);
    /// Copies bytes into the data area.
    fn write(&self, at: u32, bytes: &[u8]);
}

/// What is wrong with a ring: the peer broke a rule of spec/vmbus.md §5, and the channel must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// An index is not below the data size, or no multiple of 8 (H7).
    Index {
        /// Which index.
        word: Word,
        /// Its value.
        value: u32,
    },
    /// The peer's index claims a packet that is shorter than the smallest one (§1.5).
    Fragment {
        /// Bytes that are there.
        available: u32,
    },
    /// The descriptor's lengths contradict each other or the bytes there are (H4–H6).
    Lengths {
        /// offset8 of the descriptor.
        offset8: u16,
        /// len8 of the descriptor.
        length8: u16,
        /// Bytes that are there.
        available: u32,
    },
    /// Unknown flag bits (H5).
    Flags(u16),
    /// A packet type nobody sends us (H5).
    Kind(u16),
    /// A GPA-direct packet without room for its ranges, or without any (H5).
    Ranges,
    /// The interrupt mask was set behind a sleeping receiver's back (H20).
    MaskTampered,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index { word, value } => write!(f, "{word:?} {value:#x} lies outside the ring or is unaligned"),
            Self::Fragment { available } => write!(f, "{available} bytes are no packet"),
            Self::Lengths { offset8, length8, available } => {
                write!(f, "packet lengths offset8 {offset8}, len8 {length8} with {available} bytes available")
            }
            Self::Flags(flags) => write!(f, "unknown packet flags {flags:#x}"),
            Self::Kind(kind) => write!(f, "unknown packet type {kind:#x}"),
            Self::Ranges => write!(f, "a GPA-direct packet without ranges"),
            Self::MaskTampered => write!(f, "the interrupt mask was set by the sender"),
        }
    }
}

impl std::error::Error for Corruption {}

/// Loads an index of the peer's and checks it (H7).
pub(crate) fn foreign_index<M: RingMemory>(memory: &M, word: Word, order: Ordering) -> Result<u32, Corruption> {
    let value = memory.word(word).load(order);
    if value < memory.data_size() && value.is_multiple_of(8) {
        Ok(value)
    } else {
        Err(Corruption::Index { word, value })
    }
}

/// Bytes in use between two valid indices.
pub(crate) fn used(data_size: u32, write: u32, read: u32) -> u32 {
    if write >= read { write - read } else { data_size - read + write }
}

/// Adds to a valid index, wrapping by comparison: the data size need not be a power of two.
pub(crate) fn advance(data_size: u32, index: u32, bytes: u32) -> u32 {
    let next = index + bytes;
    if next >= data_size { next - data_size } else { next }
}

/// Copies out of the ring, around its end if need be.
pub(crate) fn copy_out<M: RingMemory>(memory: &M, at: u32, into: &mut [u8]) {
    let (first, second) = into.split_at_mut(before_end(memory, at, into.len()));
    memory.read(at, first);
    if !second.is_empty() {
        memory.read(0, second);
    }
}

/// Copies into the ring, around its end if need be; returns the index after the bytes.
pub(crate) fn copy_in<M: RingMemory>(memory: &M, at: u32, bytes: &[u8]) -> u32 {
    let (first, second) = bytes.split_at(before_end(memory, at, bytes.len()));
    memory.write(at, first);
    if !second.is_empty() {
        memory.write(0, second);
    }
    advance(memory.data_size(), at, bytes.len() as u32)
}

fn before_end<M: RingMemory>(memory: &M, at: u32, length: usize) -> usize {
    length.min((memory.data_size() - at) as usize)
}
