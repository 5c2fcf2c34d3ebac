//! Packets: the descriptor, the four types a ring carries, their encoding and their judgement.
//!
//! Flow: an [`OutgoingPacket`] is emitted in parts straight into the ring; a [`Packet`] is a view of the private copy
//! that `incoming` made. Invariant: a `Packet` exists only of bytes that passed H4 to H6. Must not know where bytes lie
//! in a ring. Sources: spec/vmbus.md §2, H5; design §3.

use crate::corruption::Corruption;
use crate::gpa::{GpaError, Ranges};
use crate::layout::{
    ALIGNMENT, DESCRIPTOR_SIZE, FLAG_COMPLETION_REQUESTED, GPA_HEADER_SIZE, GPA_RANGE_HEADER_SIZE, PAGE_SIZE, PFN_SIZE,
    TRAILER_SIZE, TYPE_CANCEL, TYPE_COMPLETION, TYPE_GPA_DIRECT, TYPE_IN_BAND,
};

/// The packet types a ring carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketKind {
    /// Data in the packet itself.
    InBand,
    /// Data in pages that the packet names.
    GpaDirect,
    /// Asks the receiver to stop the request with this transaction id.
    Cancel,
    /// The answer to the request with this transaction id.
    Completion,
}

impl PacketKind {
    /// Returns the type's code on the wire.
    pub const fn code(self) -> u16 {
        match self {
            Self::InBand => TYPE_IN_BAND,
            Self::GpaDirect => TYPE_GPA_DIRECT,
            Self::Cancel => TYPE_CANCEL,
            Self::Completion => TYPE_COMPLETION,
        }
    }

    /// Returns the type with this code, if a ring carries it.
    pub const fn from_code(code: u16) -> Option<Self> {
        match code {
            TYPE_IN_BAND => Some(Self::InBand),
            TYPE_GPA_DIRECT => Some(Self::GpaDirect),
            TYPE_CANCEL => Some(Self::Cancel),
            TYPE_COMPLETION => Some(Self::Completion),
            _ => None,
        }
    }
}

/// The 16 bytes at the start of a packet, judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    kind: PacketKind,
    payload_offset: usize,
    length: usize,
    flags: u16,
    transaction_id: u64,
}

impl Descriptor {
    /// Judges a private copy of a descriptor; `available`: bytes between read and write index (H4, H5, H6).
    pub(crate) fn parse(bytes: &[u8; DESCRIPTOR_SIZE], available: u32) -> Result<Self, Corruption> {
        let field = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let (offset, length) = (field(2) as u32 * ALIGNMENT as u32, field(4) as u32 * ALIGNMENT as u32);
        let flags = field(6);
        if length + TRAILER_SIZE as u32 > available {
            return Err(Corruption::Length { length, available });
        }
        if offset < DESCRIPTOR_SIZE as u32 || offset > length {
            return Err(Corruption::PayloadOffset { offset, length });
        }
        if flags & !FLAG_COMPLETION_REQUESTED != 0 {
            return Err(Corruption::Flags(flags));
        }
        let kind = PacketKind::from_code(field(0)).ok_or(Corruption::Type(field(0)))?;
        let (_, id) = bytes.split_last_chunk::<8>().expect("16 bytes have a last 8");
        let transaction_id = u64::from_le_bytes(*id);
        Ok(Self { kind, payload_offset: offset as usize, length: length as usize, flags, transaction_id })
    }

    /// Returns the length of the packet in bytes without its trailer.
    pub(crate) fn length(&self) -> usize {
        self.length
    }
}

/// One packet taken from a ring: a view of a private copy, already judged.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// What it is.
    pub kind: PacketKind,
    /// Bit 0: completion requested. All others are zero.
    pub flags: u16,
    /// Ties a request to its one answer; chosen by the requester.
    pub transaction_id: u64,
    /// The payload, its length known only to a multiple of 8 (spec §2.1).
    pub payload: &'a [u8],
    range_count: u32,
    range_bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Cuts the private copy of a whole packet; `bytes` is as long as the descriptor says.
    pub(crate) fn cut(descriptor: Descriptor, bytes: &'a [u8]) -> Result<Self, Corruption> {
        let (head, payload) = bytes.split_at(descriptor.payload_offset);
        let (range_count, range_bytes) = match descriptor.kind {
            PacketKind::GpaDirect => range_area(head)?,
            PacketKind::InBand | PacketKind::Cancel | PacketKind::Completion => (0, &[][..]),
        };
        let Descriptor { kind, flags, transaction_id, .. } = descriptor;
        Ok(Self { kind, flags, transaction_id, payload, range_count, range_bytes })
    }

    /// Tells whether the sender waits for a completion. A request without this flag must get none (spec §2.4).
    pub fn completion_requested(&self) -> bool {
        self.flags & FLAG_COMPLETION_REQUESTED != 0
    }

    /// Judges all GPA ranges (H11, H12) and returns them; of a packet that is not GPA-direct, none.
    pub fn ranges(&self) -> Result<Ranges<'a>, GpaError> {
        Ranges::parse(self.range_count, self.range_bytes)
    }
}

/// Returns the announced count (>= 1) and the bytes of the ranges in front of a GPA-direct payload (H5).
fn range_area(head: &[u8]) -> Result<(u32, &[u8]), Corruption> {
    let no_ranges = |count| Corruption::NoRanges { offset: head.len() as u32, count };
    let (fixed, ranges) = head.split_first_chunk::<GPA_HEADER_SIZE>().ok_or(no_ranges(0))?;
    let (_, count) = fixed.split_last_chunk::<4>().expect("24 bytes have a last 4");
    match u32::from_le_bytes(*count) {
        0 => Err(no_ranges(0)),
        count => Ok((count, ranges)),
    }
}

/// A packet about to be written: borrowed parts, no copy of its own.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingPacket<'a> {
    kind: PacketKind,
    flags: u16,
    transaction_id: u64,
    byte_offset: u32,
    byte_count: u32,
    pfns: &'a [u64],
    payload: &'a [u8],
}

impl<'a> OutgoingPacket<'a> {
    fn bare(kind: PacketKind, flags: u16, transaction_id: u64, payload: &'a [u8]) -> Self {
        Self { kind, flags, transaction_id, byte_offset: 0, byte_count: 0, pfns: &[], payload }
    }

    /// Data in band.
    pub fn in_band(transaction_id: u64, completion_requested: bool, payload: &'a [u8]) -> Self {
        Self::bare(PacketKind::InBand, u16::from(completion_requested), transaction_id, payload)
    }

    /// A request over whole pages: one range from the start of the first page, completion requested (spec §2.3, MPB
    /// array).
    ///
    /// Panics if there are no pages, or more than 4 GiB of them: a defect of the caller's.
    pub fn gpa_direct(transaction_id: u64, pfns: &'a [u64], payload: &'a [u8]) -> Self {
        let byte_count = u32::try_from(pfns.len() * PAGE_SIZE).expect("a range has at most 4 GiB");
        Self::gpa_direct_range(transaction_id, (0, byte_count), pfns, payload)
    }

    /// The same over a range that need not begin or end with a page; `range` is (byte offset, byte count).
    ///
    /// Panics if the range is empty, its offset is not in the first page, or `pfns` is not exactly what it spans: a
    /// defect of the caller's.
    pub fn gpa_direct_range(transaction_id: u64, range: (u32, u32), pfns: &'a [u64], payload: &'a [u8]) -> Self {
        let (byte_offset, byte_count) = range;
        let spanned = (byte_offset as usize + byte_count as usize).div_ceil(PAGE_SIZE);
        let sound = byte_count > 0 && (byte_offset as usize) < PAGE_SIZE && spanned == pfns.len();
        assert!(sound, "a range of {byte_count} bytes at {byte_offset} in {} pages", pfns.len());
        let bare = Self::bare(PacketKind::GpaDirect, FLAG_COMPLETION_REQUESTED, transaction_id, payload);
        Self { byte_offset, byte_count, pfns, ..bare }
    }

    /// Asks the peer to stop a request; has no completion of its own (design rule 5).
    pub fn cancel(transaction_id: u64) -> Self {
        Self::bare(PacketKind::Cancel, 0, transaction_id, &[])
    }

    /// The answer to a request.
    pub fn completion(transaction_id: u64, payload: &'a [u8]) -> Self {
        Self::bare(PacketKind::Completion, 0, transaction_id, payload)
    }

    fn payload_offset(&self) -> usize {
        match self.kind {
            PacketKind::GpaDirect => GPA_HEADER_SIZE + GPA_RANGE_HEADER_SIZE + self.pfns.len() * PFN_SIZE,
            PacketKind::InBand | PacketKind::Cancel | PacketKind::Completion => DESCRIPTOR_SIZE,
        }
    }

    /// Returns the packet's length in bytes: padded to 8, without the trailer.
    pub fn length(&self) -> usize {
        (self.payload_offset() + self.payload.len()).next_multiple_of(ALIGNMENT)
    }

    /// Hands the packet's bytes to `put`, part after part, `length()` in all.
    ///
    /// The length must be at most `PACKET_SIZE_MAX`; the caller has checked.
    pub(crate) fn emit(&self, mut put: impl FnMut(&[u8])) {
        put(&self.descriptor());
        if self.kind == PacketKind::GpaDirect {
            put(&pack(0, 1));
            put(&pack(self.byte_count, self.byte_offset));
            put_pfns(self.pfns, &mut put);
        }
        put(self.payload);
        let padding = self.length() - self.payload_offset() - self.payload.len();
        if padding > 0 {
            put(&[0; ALIGNMENT][..padding]);
        }
    }

    fn descriptor(&self) -> [u8; DESCRIPTOR_SIZE] {
        let in_eights = |bytes: usize| u16::try_from(bytes / ALIGNMENT).expect("at most PACKET_SIZE_MAX");
        let mut bytes = [0; DESCRIPTOR_SIZE];
        bytes[0..2].copy_from_slice(&self.kind.code().to_le_bytes());
        bytes[2..4].copy_from_slice(&in_eights(self.payload_offset()).to_le_bytes());
        bytes[4..6].copy_from_slice(&in_eights(self.length()).to_le_bytes());
        bytes[6..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.transaction_id.to_le_bytes());
        bytes
    }
}

/// Two words side by side, little-endian.
pub(crate) fn pack(low: u32, high: u32) -> [u8; 8] {
    (u64::from(high) << 32 | u64::from(low)).to_le_bytes()
}

/// Emits page numbers little-endian through a block on the stack: few calls, no allocation.
fn put_pfns(pfns: &[u64], put: &mut impl FnMut(&[u8])) {
    const BLOCK: usize = 64;
    let mut block = [0; BLOCK * PFN_SIZE];
    for part in pfns.chunks(BLOCK) {
        for (bytes, pfn) in block.as_chunks_mut::<PFN_SIZE>().0.iter_mut().zip(part) {
            *bytes = pfn.to_le_bytes();
        }
        put(&block[..part.len() * PFN_SIZE]);
    }
}
