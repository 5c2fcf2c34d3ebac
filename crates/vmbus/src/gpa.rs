//! Guest page numbers as they stand in a packet: ranges, parsed out of a private copy (H12) and checked one by one.
//!
//! Which memory a page number names is for `guest_memory` to say.

use std::fmt;

use crate::layout::{PAGE_SIZE, PFN_SIZE, RANGE_HEADER_SIZE};

/// What is wrong with a range or a page number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpaError {
    /// A range of no bytes, or one that begins past its first page (H11).
    Bounds {
        /// Bytes of the range.
        byte_count: u32,
        /// First byte in the first page.
        byte_offset: u32,
    },
    /// The page numbers run past the descriptor area (H11).
    Truncated,
    /// The page is not in lent memory.
    NotLent(u64),
    /// The page belongs to a ring.
    Forbidden(u64),
    /// The region overlaps one that is lent already, or its numbers run past 2^52.
    Overlap(u64),
    /// More regions than a guest may lend.
    TooMany,
}

impl fmt::Display for GpaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bounds { byte_count, byte_offset } => write!(f, "a range of {byte_count} bytes at {byte_offset}"),
            Self::Truncated => write!(f, "page numbers run past the packet's descriptor area"),
            Self::NotLent(pfn) => write!(f, "page {pfn:#x} is not lent memory"),
            Self::Forbidden(pfn) => write!(f, "page {pfn:#x} belongs to a ring"),
            Self::Overlap(pfn) => write!(f, "a region at page {pfn:#x} overlaps lent memory"),
            Self::TooMany => write!(f, "too many regions"),
        }
    }
}

impl std::error::Error for GpaError {}

/// One range: bytes over whole pages, named by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<'a> {
    /// Length in bytes, > 0.
    pub byte_count: u32,
    /// First byte within the first page, < 4096.
    pub byte_offset: u32,
    pfns: &'a [u8],
}

impl<'a> Range<'a> {
    /// The page numbers, in order.
    pub fn pfns(&self) -> impl ExactSizeIterator<Item = u64> + 'a {
        self.pfns.chunks_exact(PFN_SIZE).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("chunks of 8 bytes")))
    }
}

/// The ranges of one packet; each is checked as it is taken, and the first wrong one is the last.
#[derive(Clone, Debug)]
pub struct Ranges<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Ranges<'a> {
    pub(crate) fn new(area: &'a [u8], count: u32) -> Self {
        Self { rest: area, left: count }
    }

    fn take(&mut self) -> Result<Range<'a>, GpaError> {
        let (header, rest) = self.rest.split_at_checked(RANGE_HEADER_SIZE).ok_or(GpaError::Truncated)?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let (byte_count, byte_offset) = (word(0), word(4));
        if byte_count == 0 || byte_offset as usize >= PAGE_SIZE {
            return Err(GpaError::Bounds { byte_count, byte_offset });
        }
        let pages = (u64::from(byte_count) + u64::from(byte_offset)).div_ceil(PAGE_SIZE as u64);
        let size = usize::try_from(pages).ok().and_then(|pages| pages.checked_mul(PFN_SIZE));
        let (pfns, rest) = size.and_then(|size| rest.split_at_checked(size)).ok_or(GpaError::Truncated)?;
        self.rest = rest;
        Ok(Range { byte_count, byte_offset, pfns })
    }
}

impl<'a> Iterator for Ranges<'a> {
    type Item = Result<Range<'a>, GpaError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let range = self.take();
        if range.is_err() {
            self.left = 0;
        }
        Some(range)
    }
}
