//! What both ends of a ring share: the memory it lies in, index arithmetic, copies that wrap.
//!
//! Invariant: only here is a copy split at the end of the data area, and only here is a foreign index judged. Must not
//! know packets. Sources: spec/vmbus.md §1.1, §1.2, H7.

use crate::corruption::Corruption;
use crate::layout::{ALIGNMENT, PACKET_TOTAL_MIN, Word};
use crate::sync::AtomicU32;

/// The memory of one ring: a control page of atomic words and a data area of bytes that the peer may change at any
/// time.
pub trait RingMemory {
    /// Returns the size D of the data area in bytes: constant, a multiple of 8, not always a power of two.
    fn data_size(&self) -> u32;

    /// Returns a word of the control page.
    fn word(&self, word: Word) -> &AtomicU32;

    /// Copies data bytes `at..at + into.len()` (within D, no wrap) to private memory.
    fn read(&self, at: u32, into: &mut [u8]);

    /// Copies private bytes to data bytes `at..at + from.len()` (within D, no wrap).
    fn write(&self, at: u32, from: &[u8]);
}

/// Returns the size of the data area.
///
/// Panics if it cannot be one: a defect of the caller's, who chose or judged the ring's size before.
pub(crate) fn checked_data_size(memory: &impl RingMemory) -> u32 {
    let size = memory.data_size();
    let holds_a_packet = size as usize >= PACKET_TOTAL_MIN + 2 * ALIGNMENT;
    assert!(holds_a_packet && size.is_multiple_of(8) && size <= i32::MAX as u32, "a ring with {size} bytes of data");
    size
}

/// Judges an index (H7): below the data size and a multiple of 8.
pub(crate) fn judge_index(word: Word, value: u32, data_size: u32) -> Result<u32, Corruption> {
    if value < data_size && value.is_multiple_of(ALIGNMENT as u32) {
        Ok(value)
    } else {
        Err(Corruption::Index { word, value, data_size })
    }
}

/// Returns the bytes from `read` to `write`, both valid indices: compare and subtract, for D need not be a power of
/// two.
pub(crate) fn distance(read: u32, write: u32, data_size: u32) -> u32 {
    if write >= read { write - read } else { data_size - read + write }
}

/// Returns the index `by` (<= D) bytes after `index`.
pub(crate) fn advance(index: u32, by: u32, data_size: u32) -> u32 {
    let to_end = data_size - index;
    if by >= to_end { by - to_end } else { index + by }
}

/// How full a ring is at one moment, for people who look: (size of its data area, bytes in it).
///
/// Whatever the indices say: impossible ones count as an empty ring, for this decides nothing.
pub fn usage(memory: &impl RingMemory) -> (u32, u32) {
    let size = memory.data_size();
    // Relaxed: a look from outside, ordered with nothing.
    let index = |word| judge_index(word, memory.word(word).load(std::sync::atomic::Ordering::Relaxed), size);
    match (index(Word::ReadIndex), index(Word::WriteIndex)) {
        (Ok(read), Ok(write)) => (size, distance(read, write, size)),
        _ => (size, 0),
    }
}

/// Copies from the ring to private memory, across its end.
pub(crate) fn copy_out(memory: &impl RingMemory, at: u32, into: &mut [u8]) {
    let to_end = (memory.data_size() - at) as usize;
    let (first, second) = into.split_at_mut(into.len().min(to_end));
    memory.read(at, first);
    if !second.is_empty() {
        memory.read(0, second);
    }
}

/// Copies private bytes into the ring, across its end.
pub(crate) fn copy_in(memory: &impl RingMemory, at: u32, from: &[u8]) {
    let to_end = (memory.data_size() - at) as usize;
    let (first, second) = from.split_at(from.len().min(to_end));
    memory.write(at, first);
    if !second.is_empty() {
        memory.write(0, second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_valid_only_below_the_data_size_and_on_a_multiple_of_8() {
        for (value, valid) in [(0, true), (8, true), (4, false), (4088, true), (4096, false), (u32::MAX, false)] {
            assert_eq!(judge_index(Word::ReadIndex, value, 4096).is_ok(), valid, "{value}");
        }
    }

    #[test]
    fn indices_wrap_by_subtraction_in_a_ring_that_is_no_power_of_two() {
        let size = 0x1f000;
        assert_eq!(advance(0x1efc0, 0x78, size), 0x38);
        assert_eq!(advance(size - 8, 8, size), 0);
        assert_eq!(distance(0x1efc0, 0x38, size), 0x78);
        assert_eq!(distance(16, 8, size), size - 8);
        assert_eq!(distance(8, 8, size), 0);
    }
}
