//! The ways in which a ring can be corrupt: what the peer wrote and why it cannot be.
//!
//! A corrupt ring is never repaired; the channel it belongs to is stopped (spec/vmbus.md §5, H5 to H7).

use std::error::Error;
use std::fmt;

use crate::layout::{DESCRIPTOR_SIZE, PACKET_TOTAL_MIN, TRAILER_SIZE, Word};

/// What is wrong with a ring. All numbers are as the peer wrote them; sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// An index is outside the data area or not a multiple of 8 (H7).
    Index {
        /// Which index.
        word: Word,
        /// Its value.
        value: u32,
        /// Size of the data area.
        data_size: u32,
    },
    /// There is data, but less than a descriptor and a trailer.
    Truncated {
        /// Bytes between read and write index.
        available: u32,
    },
    /// The packet and its trailer pass the write index (H4, H6).
    Length {
        /// Packet length without the trailer.
        length: u32,
        /// Bytes between read and write index.
        available: u32,
    },
    /// The payload starts inside the descriptor or behind the packet's end (H5).
    PayloadOffset {
        /// Where the payload was said to start.
        offset: u32,
        /// Packet length without the trailer.
        length: u32,
    },
    /// A type that does not belong in a ring (H5).
    Type(u16),
    /// Flags beyond "completion requested" (H5).
    Flags(u16),
    /// A GPA-direct packet without room for its range header, or with no range (H5).
    NoRanges {
        /// Where the payload starts.
        offset: u32,
        /// Number of ranges announced.
        count: u32,
    },
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Index { word, value, data_size } => {
                write!(f, "{word} is {value:#x}: not a multiple of 8 below {data_size:#x}")
            }
            Self::Truncated { available } => {
                write!(f, "{available} bytes in the ring, fewer than the {PACKET_TOTAL_MIN} of any packet")
            }
            Self::Length { length, available } => {
                write!(f, "a packet of {length} + {TRAILER_SIZE} bytes where {available} bytes were written")
            }
            Self::PayloadOffset { offset, length } => {
                write!(f, "a payload at {offset}, outside {DESCRIPTOR_SIZE}..={length}")
            }
            Self::Type(code) => write!(f, "a packet of type {code:#x}, which no ring carries"),
            Self::Flags(flags) => write!(f, "packet flags {flags:#06x}; only bit 0 has a meaning"),
            Self::NoRanges { offset, count } => {
                write!(f, "a GPA-direct packet with {count} ranges and its payload at {offset}")
            }
        }
    }
}

impl Error for Corruption {}
