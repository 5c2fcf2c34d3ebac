//! Sizes, offsets and codes of the wire format; the one place that has them.
//!
//! Invariant: every offset is checked at compile time against a C-layout twin. Must not know how anything is read or
//! written. Sources: spec/vmbus.md §1.1, §1.3, §2.1, §2.2.

use std::mem::{offset_of, size_of};

/// A page on the wire, whatever the CPU's page size.
pub const PAGE_SIZE: usize = 4096;

/// The control page precedes the data pages of a ring.
pub const CONTROL_PAGE_SIZE: usize = PAGE_SIZE;

/// Bytes of a packet descriptor.
pub const DESCRIPTOR_SIZE: usize = 16;

/// Bytes after every packet: zero, and the write index at which the packet started.
pub const TRAILER_SIZE: usize = 8;

/// Everything in a ring is a multiple of this.
pub const ALIGNMENT: usize = 8;

/// The smallest thing a ring can hold: a descriptor and its trailer.
pub const PACKET_TOTAL_MIN: usize = DESCRIPTOR_SIZE + TRAILER_SIZE;

/// The longest packet without its trailer: the descriptor's length field is 16 bits of 8 bytes.
pub const PACKET_SIZE_MAX: usize = u16::MAX as usize * ALIGNMENT;

/// Bytes before the ranges of a GPA-direct packet: descriptor, reserved word, range count.
pub const GPA_HEADER_SIZE: usize = DESCRIPTOR_SIZE + 8;

/// Bytes before the PFNs of a GPA range: byte count, byte offset.
pub const GPA_RANGE_HEADER_SIZE: usize = 8;

/// Bytes of a page frame number in a range.
pub const PFN_SIZE: usize = 8;

/// Descriptor flag: the sender asks for a completion. All other bits are zero.
pub const FLAG_COMPLETION_REQUESTED: u16 = 1;

/// Feature bit: the sender on this ring uses pending_send_sz, and honours it on the ring it receives from.
pub const FEATURE_PENDING_SEND_SIZE: u32 = 1;

/// Packet type: data in band.
pub const TYPE_IN_BAND: u16 = 0x6;
/// Packet type: data using GPA direct.
pub const TYPE_GPA_DIRECT: u16 = 0x9;
/// Packet type: cancel request.
pub const TYPE_CANCEL: u16 = 0xa;
/// Packet type: completion.
pub const TYPE_COMPLETION: u16 = 0xb;

/// The control page as C lays it out; exists to be measured.
#[repr(C)]
struct ControlPage {
    write_index: u32,
    read_index: u32,
    interrupt_mask: u32,
    pending_send_size: u32,
    reserved: [u32; 12],
    feature_bits: u32,
    padding: [u8; 4028],
}

/// The descriptor as C lays it out; exists to be measured.
#[repr(C)]
struct Descriptor {
    kind: u16,
    offset8: u16,
    length8: u16,
    flags: u16,
    transaction_id: u64,
}

const _: () = {
    assert!(offset_of!(ControlPage, write_index) == 0x00);
    assert!(offset_of!(ControlPage, read_index) == 0x04);
    assert!(offset_of!(ControlPage, interrupt_mask) == 0x08);
    assert!(offset_of!(ControlPage, pending_send_size) == 0x0c);
    assert!(offset_of!(ControlPage, reserved) == 0x10);
    assert!(offset_of!(ControlPage, feature_bits) == 0x40);
    assert!(offset_of!(ControlPage, padding) == 0x44);
    assert!(size_of::<ControlPage>() == CONTROL_PAGE_SIZE);
    assert!(offset_of!(Descriptor, kind) == 0);
    assert!(offset_of!(Descriptor, offset8) == 2);
    assert!(offset_of!(Descriptor, length8) == 4);
    assert!(offset_of!(Descriptor, flags) == 6);
    assert!(offset_of!(Descriptor, transaction_id) == 8);
    assert!(size_of::<Descriptor>() == DESCRIPTOR_SIZE);
    assert!(GPA_HEADER_SIZE == 24);
    assert!(PACKET_SIZE_MAX == 524_280);
};

/// A word of the control page. Each has one writer (spec §1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Where the sender will write next. Written by the sender.
    WriteIndex,
    /// Where the receiver will read next. Written by the receiver.
    ReadIndex,
    /// 1 = do not signal me about new data. Written by the receiver.
    InterruptMask,
    /// Room the sender waits for, in bytes; 0 = not waiting. Written by the sender.
    PendingSendSize,
    /// What the sender can do. Written by the sender.
    FeatureBits,
}

impl Word {
    /// Returns the byte offset in the control page.
    pub const fn offset(self) -> usize {
        match self {
            Self::WriteIndex => offset_of!(ControlPage, write_index),
            Self::ReadIndex => offset_of!(ControlPage, read_index),
            Self::InterruptMask => offset_of!(ControlPage, interrupt_mask),
            Self::PendingSendSize => offset_of!(ControlPage, pending_send_size),
            Self::FeatureBits => offset_of!(ControlPage, feature_bits),
        }
    }
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::WriteIndex => "write_index",
            Self::ReadIndex => "read_index",
            Self::InterruptMask => "interrupt_mask",
            Self::PendingSendSize => "pending_send_sz",
            Self::FeatureBits => "feature_bits",
        })
    }
}
