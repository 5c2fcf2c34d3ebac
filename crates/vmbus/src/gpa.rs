//! GPA ranges: which guest pages a packet names, and what can be wrong with them.
//!
//! Flow: a private packet copy → [`Ranges`], judged as a whole before the first is handed out (H11, H12) →
//! `GuestMemory`, which finds the lent memory. Must not know rings or devices. Sources: spec/vmbus.md §2.3, H11 to H13;
//! design rule 1.

use std::error::Error;
use std::fmt;

use crate::layout::{GPA_RANGE_HEADER_SIZE, PAGE_SIZE, PFN_SIZE};

#[cfg(not(feature = "loom"))]
pub use crate::guest_memory::{GuestMemory, MAPPING_RUNS_MAX, REGIONS_MAX};

/// Why guest pages cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpaError {
    /// A range of no bytes.
    EmptyRange,
    /// A range that does not start in its first page.
    Offset {
        /// Its byte offset.
        byte_offset: u32,
    },
    /// More pages are needed than are named.
    TooFewPages {
        /// Pages that the byte counts span.
        needed: u64,
        /// Pages named.
        named: u64,
    },
    /// A page that no lent region covers.
    NotLent {
        /// The page number.
        pfn: u64,
    },
    /// A page of unsealed memory where only sealed memory will do.
    Unsealed {
        /// The page number.
        pfn: u64,
    },
    /// A page that belongs to a ring.
    Forbidden {
        /// The page number.
        pfn: u64,
    },
    /// A page named twice where each must be named once.
    Repeated {
        /// The page number.
        pfn: u64,
    },
    /// A region over pages that another region covers.
    Overlap {
        /// First page of the region to add.
        page: u64,
    },
    /// A region whose pages pass the end of the page numbers.
    PageNumber {
        /// First page of the region to add.
        page: u64,
    },
    /// More regions than one guest may lend.
    TooManyRegions,
    /// Pages scattered over more places than a mapping may have.
    TooScattered {
        /// Runs of adjacent pages.
        runs: usize,
    },
    /// The system refused the mapping.
    Map {
        /// The error number.
        errno: i32,
    },
}

impl fmt::Display for GpaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::EmptyRange => f.write_str("a GPA range of 0 bytes"),
            Self::Offset { byte_offset } => write!(f, "a GPA range at offset {byte_offset}, outside its first page"),
            Self::TooFewPages { needed, named } => write!(f, "GPA ranges over {needed} pages, {named} named"),
            Self::NotLent { pfn } => write!(f, "page {pfn:#x} is in no lent region"),
            Self::Unsealed { pfn } => {
                write!(f, "page {pfn:#x} lies in unsealed memory, which may hold data buffers only")
            }
            Self::Forbidden { pfn } => write!(f, "page {pfn:#x} belongs to a ring"),
            Self::Repeated { pfn } => write!(f, "page {pfn:#x} is named twice"),
            Self::Overlap { page } => write!(f, "the region at page {page:#x} overlaps one that is lent"),
            Self::PageNumber { page } => write!(f, "the region at page {page:#x} passes the last page number"),
            Self::TooManyRegions => f.write_str("too many lent regions"),
            Self::TooScattered { runs } => write!(f, "pages in {runs} separate runs; make them adjacent"),
            Self::Map { errno } => {
                write!(f, "mapping the pages failed: {}", std::io::Error::from_raw_os_error(errno))
            }
        }
    }
}

impl Error for GpaError {}

/// One judged range: `byte_count` bytes that start `byte_offset` bytes into the first of its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpaRange<'a> {
    /// Bytes in the range, > 0.
    pub byte_count: u32,
    /// Where it starts in its first page, < 4096.
    pub byte_offset: u32,
    pfns: &'a [[u8; PFN_SIZE]],
}

impl<'a> GpaRange<'a> {
    /// Returns the page numbers: exactly as many as the range spans. Any number may occur, and may repeat.
    pub fn pfns(&self) -> impl ExactSizeIterator<Item = u64> + Clone + use<'a> {
        self.pfns.iter().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// Returns the guest's address of the byte `offset` into the range; 0 beyond its end.
    pub fn address(&self, offset: usize) -> u64 {
        let at = self.byte_offset as usize + offset;
        let pfn = self.pfns.get(at / PAGE_SIZE).map(|bytes| u64::from_le_bytes(*bytes));
        pfn.map_or(0, |pfn| pfn.wrapping_mul(PAGE_SIZE as u64) + (at % PAGE_SIZE) as u64)
    }
}

/// The ranges of one packet, all judged; yields them in order.
#[derive(Clone, Debug)]
pub struct Ranges<'a> {
    left: u32,
    bytes: &'a [u8],
}

impl<'a> Ranges<'a> {
    /// Judges `count` ranges at the start of `bytes`, a private copy; bytes behind them are allowed (spec §2.3, fixed
    /// arrays).
    pub(crate) fn parse(count: u32, bytes: &'a [u8]) -> Result<Self, GpaError> {
        let mut rest = bytes;
        // Each round takes at least 16 bytes or fails, so a huge count ends with the bytes.
        for _ in 0..count {
            (_, rest) = split_range(rest)?;
        }
        Ok(Self { left: count, bytes })
    }
}

impl<'a> Iterator for Ranges<'a> {
    type Item = GpaRange<'a>;

    fn next(&mut self) -> Option<GpaRange<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (range, rest) = split_range(self.bytes).ok()?; // judged by `parse`, in the same private bytes
        self.bytes = rest;
        Some(range)
    }
}

/// Splits one judged range off the front (H11).
fn split_range(bytes: &[u8]) -> Result<(GpaRange<'_>, &[u8]), GpaError> {
    let none_left = GpaError::TooFewPages { needed: 1, named: 0 };
    let (header, rest) = bytes.split_first_chunk::<GPA_RANGE_HEADER_SIZE>().ok_or(none_left)?;
    let header = u64::from_le_bytes(*header);
    let (byte_count, byte_offset) = (header as u32, (header >> 32) as u32);
    let needed = pages_spanned(byte_offset, byte_count)?;
    let named = (rest.len() / PFN_SIZE) as u64;
    if needed > named {
        return Err(GpaError::TooFewPages { needed, named });
    }
    let (pfns, rest) = rest.split_at(needed as usize * PFN_SIZE);
    let pfns = pfns.as_chunks::<PFN_SIZE>().0;
    Ok((GpaRange { byte_count, byte_offset, pfns }, rest))
}

/// Returns the pages that a range spans; 64-bit, so that no sum overflows (H11).
pub(crate) fn pages_spanned(byte_offset: u32, byte_count: u32) -> Result<u64, GpaError> {
    if byte_count == 0 {
        return Err(GpaError::EmptyRange);
    }
    if byte_offset as usize >= PAGE_SIZE {
        return Err(GpaError::Offset { byte_offset });
    }
    Ok((u64::from(byte_offset) + u64::from(byte_count)).div_ceil(PAGE_SIZE as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(byte_count: u32, byte_offset: u32, pfns: &[u64]) -> Vec<u8> {
        let header = [byte_count.to_le_bytes(), byte_offset.to_le_bytes()].concat();
        let pfns = pfns.iter().flat_map(|pfn| pfn.to_le_bytes());
        header.into_iter().chain(pfns).collect()
    }

    #[test]
    fn h11_ranges_are_taken_in_order_and_bytes_behind_them_are_allowed() {
        let bytes = [range(4096, 1, &[7, u64::MAX]), range(1, 4095, &[9]), vec![0xff; 24]].concat();
        let ranges: Vec<_> = Ranges::parse(2, &bytes).unwrap().collect();
        assert_eq!(ranges.len(), 2);
        assert_eq!((ranges[0].byte_count, ranges[0].byte_offset), (4096, 1));
        assert_eq!(ranges[0].pfns().collect::<Vec<_>>(), [7, u64::MAX]);
        assert_eq!(ranges[1].pfns().collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn h11_each_bound_of_a_range_is_judged() {
        let parse = |bytes: &[u8]| Ranges::parse(1, bytes).map(|_| ()).unwrap_err();
        assert_eq!(parse(&range(0, 0, &[1])), GpaError::EmptyRange);
        assert_eq!(parse(&range(1, 4096, &[1])), GpaError::Offset { byte_offset: 4096 });
        assert_eq!(parse(&range(4097, 0, &[1])), GpaError::TooFewPages { needed: 2, named: 1 });
        assert_eq!(parse(&range(4096, 1, &[1])), GpaError::TooFewPages { needed: 2, named: 1 });
        assert_eq!(parse(&range(u32::MAX, 4095, &[1])), GpaError::TooFewPages { needed: 0x10_0001, named: 1 });
        assert_eq!(parse(&range(1, 0, &[])), GpaError::TooFewPages { needed: 1, named: 0 });
        assert_eq!(parse(&[0; 7]), GpaError::TooFewPages { needed: 1, named: 0 });
    }

    #[test]
    fn h11_a_range_count_beyond_the_bytes_is_an_error_and_not_a_long_loop() {
        let bytes = range(1, 0, &[1]);
        assert!(Ranges::parse(u32::MAX, &bytes).is_err());
    }
}
