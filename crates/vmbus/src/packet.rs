//! Packets: the 16-byte descriptor, the kinds we speak, and a packet as its receiver sees it, a judged private copy.

use crate::gpa::Ranges;
use crate::layout::{DESCRIPTOR_SIZE, GPA_DIRECT_HEADER_SIZE, PFN_SIZE, RANGE_HEADER_SIZE};
use crate::ring::Corruption;

const COMPLETION_REQUESTED: u16 = 1;

/// The packet types we accept. Source: spec/vmbus.md §2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum PacketKind {
    /// Data in band.
    InBand = 0x6,
    /// Data in guest pages.
    GpaDirect = 0x9,
    /// The request with this transaction id is no longer wanted.
    Cancel = 0xA,
    /// The answer to a request.
    Completion = 0xB,
}

impl PacketKind {
    fn parse(value: u16) -> Result<Self, Corruption> {
        Ok(match value {
            0x6 => Self::InBand,
            0x9 => Self::GpaDirect,
            0xA => Self::Cancel,
            0xB => Self::Completion,
            other => return Err(Corruption::Kind(other)),
        })
    }
}

/// A packet's first 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The type.
    pub kind: u16,
    /// Start of the payload / 8.
    pub offset8: u16,
    /// Length of the packet / 8, without trailer.
    pub length8: u16,
    /// Bit 0: completion requested.
    pub flags: u16,
    /// Ties a completion to its request.
    pub transaction_id: u64,
}

impl Descriptor {
    /// Reads a descriptor; any 16 bytes are one.
    pub fn parse(bytes: &[u8; DESCRIPTOR_SIZE]) -> Self {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let mut id = [0; 8];
        id.copy_from_slice(&bytes[8..]);
        Self {
            kind: half(0),
            offset8: half(2),
            length8: half(4),
            flags: half(6),
            transaction_id: u64::from_le_bytes(id),
        }
    }

    /// Writes a descriptor.
    pub fn encode(&self) -> [u8; DESCRIPTOR_SIZE] {
        let mut bytes = [0; DESCRIPTOR_SIZE];
        for (at, half) in [self.kind, self.offset8, self.length8, self.flags].into_iter().enumerate() {
            bytes[2 * at..2 * at + 2].copy_from_slice(&half.to_le_bytes());
        }
        bytes[8..].copy_from_slice(&self.transaction_id.to_le_bytes());
        bytes
    }

    /// Makes the descriptor of a packet with `head` bytes before `payload` bytes; both lengths are rounded up to 8.
    pub(crate) fn of(kind: PacketKind, head: usize, payload: usize, transaction_id: u64) -> Option<Self> {
        let offset8 = u16::try_from(head / 8).ok()?;
        let length8 = u16::try_from((head + payload).div_ceil(8)).ok()?;
        let flags = if kind == PacketKind::GpaDirect { COMPLETION_REQUESTED } else { 0 };
        Some(Self { kind: kind as u16, offset8, length8, flags, transaction_id })
    }

    /// Judges a copied descriptor against the bytes that are there; rejects rather than clamps (H5, H6).
    pub(crate) fn check(&self, available: u32) -> Result<PacketKind, Corruption> {
        let size = u32::from(self.length8) * 8;
        let lengths = Corruption::Lengths { offset8: self.offset8, length8: self.length8, available };
        if self.offset8 < 2 || self.length8 < self.offset8 || size + 8 > available {
            return Err(lengths);
        }
        if self.flags & !COMPLETION_REQUESTED != 0 {
            return Err(Corruption::Flags(self.flags));
        }
        let kind = PacketKind::parse(self.kind)?;
        if kind == PacketKind::GpaDirect && self.offset8 < 3 {
            return Err(Corruption::Ranges);
        }
        Ok(kind)
    }
}

/// A received packet: a private copy whose lengths have been checked.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// What it is.
    pub kind: PacketKind,
    /// What its completion will carry, or what it completes.
    pub transaction_id: u64,
    /// The payload, zero padding to a multiple of 8 included.
    pub payload: &'a [u8],
    flags: u16,
    head: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Makes a packet of a private copy whose descriptor has been checked.
    pub(crate) fn of_copy(copy: &'a [u8], descriptor: Descriptor, kind: PacketKind) -> Result<Self, Corruption> {
        let (head, payload) = copy.split_at(usize::from(descriptor.offset8) * 8);
        let packet =
            Self { kind, transaction_id: descriptor.transaction_id, payload, flags: descriptor.flags, head };
        if kind == PacketKind::GpaDirect && packet.range_count() == 0 {
            return Err(Corruption::Ranges);
        }
        Ok(packet)
    }

    /// Tells whether the sender wants a completion.
    pub fn completion_requested(&self) -> bool {
        self.flags & COMPLETION_REQUESTED != 0
    }

    fn range_count(&self) -> u32 {
        let mut count = [0; 4];
        count.copy_from_slice(&self.head[20..24]);
        u32::from_le_bytes(count)
    }

    /// The GPA ranges of a GPA-direct packet (checked as they are taken: H11); of any other packet, none.
    pub fn ranges(&self) -> Ranges<'a> {
        match self.kind {
            PacketKind::GpaDirect => Ranges::new(&self.head[GPA_DIRECT_HEADER_SIZE..], self.range_count()),
            _ => Ranges::new(&[], 0),
        }
    }
}

/// Writes what stands before the payload of a GPA-direct packet with one range: all of the `pfns`' pages, from offset 0.
///
/// This is the MPB-array form (spec/vmbus.md §2.3). `None`: more pages than a packet can describe.
pub(crate) fn gpa_direct_head(into: &mut Vec<u8>, pfns: &[u64], payload: usize, transaction_id: u64) -> Option<()> {
    let head = GPA_DIRECT_HEADER_SIZE + RANGE_HEADER_SIZE + PFN_SIZE * pfns.len();
    let byte_count = u32::try_from(pfns.len() * crate::layout::PAGE_SIZE).ok()?;
    into.clear();
    into.reserve(head);
    into.extend_from_slice(&Descriptor::of(PacketKind::GpaDirect, head, payload, transaction_id)?.encode());
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&1_u32.to_le_bytes());
    into.extend_from_slice(&byte_count.to_le_bytes());
    into.extend_from_slice(&[0; 4]);
    pfns.iter().for_each(|pfn| into.extend_from_slice(&pfn.to_le_bytes()));
    Some(())
}

