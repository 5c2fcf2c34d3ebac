//! Where everything lies in a ring and in a packet. Source: spec/vmbus.md §1.1 and §2.1.

/// A page on the wire, whatever the processor's page size.
pub const PAGE_SIZE: usize = 4096;

/// The control page's words: byte offsets within the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Word {
    /// Written by the sender: where it will write next.
    WriteIndex = 0x00,
    /// Written by the receiver: where it will read next.
    ReadIndex = 0x04,
    /// Written by the receiver: 1 = do not signal me about new data.
    InterruptMask = 0x08,
    /// Written by the sender: bytes it waits for, 0 = not waiting.
    PendingSendSize = 0x0C,
    /// Written by the sender: bit 0 = pending_send_sz is used and honoured.
    FeatureBits = 0x40,
}

/// Bit 0 of the feature bits.
pub const FEATURE_PENDING_SEND_SIZE: u32 = 1;

/// Bytes of a packet's descriptor.
pub const DESCRIPTOR_SIZE: usize = 16;
/// Bytes after every packet: zero, and the write index at which the packet began.
pub const TRAILER_SIZE: usize = 8;
/// Bytes of a GPA-direct packet before its first range: descriptor, reserved, range count.
pub const GPA_DIRECT_HEADER_SIZE: usize = 24;
/// Bytes of a range before its page numbers: byte count, byte offset.
pub const RANGE_HEADER_SIZE: usize = 8;
/// Bytes of one page number.
pub const PFN_SIZE: usize = 8;
/// Longest packet a descriptor can describe, without trailer.
pub const PACKET_SIZE_MAX: usize = u16::MAX as usize * 8;

const _: () = {
    assert!(Word::FeatureBits as usize + 4 <= PAGE_SIZE);
    assert!(GPA_DIRECT_HEADER_SIZE == DESCRIPTOR_SIZE + 8);
    assert!(PACKET_SIZE_MAX == 524_280);
};
