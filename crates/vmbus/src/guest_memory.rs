//! What one guest lends to the host: which region a guest page number lies in, and which pages are rings.
//!
//! What `resolve` returns is memory the guest has lent and that no ring lives in (design rule 1); it stays mapped as long
//! as the returned spans live, whatever is removed meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use crate::gpa::{GpaError, Range};
use crate::layout::PAGE_SIZE;
use crate::memory::{Region, Span, SpanList};

/// Regions one guest may lend.
pub const REGIONS_MAX: usize = 1024;

#[derive(Debug)]
struct Lent {
    region: Arc<Region>,
    /// Page numbers that rings live in; empty for nearly every region.
    rings: BTreeSet<u64>,
}

impl Lent {
    fn pages(&self) -> u64 {
        (self.region.len() / PAGE_SIZE) as u64
    }
}

/// Lent regions by the number of their first page; they do not overlap.
#[derive(Debug, Default)]
pub struct GuestMemory {
    regions: BTreeMap<u64, Lent>,
}

impl GuestMemory {
    /// Adds a region whose first page has this number.
    pub fn add(&mut self, first: u64, region: Arc<Region>) -> Result<(), GpaError> {
        let lent = Lent { region, rings: BTreeSet::new() };
        let end = first.checked_add(lent.pages()).filter(|end| *end <= 1 << 52).ok_or(GpaError::Overlap(first))?;
        if self.regions.range(..end).next_back().is_some_and(|(start, other)| start + other.pages() > first) {
            return Err(GpaError::Overlap(first));
        }
        if self.regions.len() >= REGIONS_MAX {
            return Err(GpaError::TooMany);
        }
        self.regions.insert(first, lent);
        Ok(())
    }

    /// Forgets the region that begins at this page and returns it.
    pub fn remove(&mut self, first: u64) -> Option<Arc<Region>> {
        self.regions.remove(&first).map(|lent| lent.region)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.regions.clear();
    }

    /// Keeps requests, and further rings, out of these pages: a ring lives there.
    pub fn forbid(&mut self, pfns: &[u64]) {
        for &pfn in pfns {
            if let Some((_, lent)) = self.regions.range_mut(..=pfn).next_back() {
                lent.rings.insert(pfn);
            }
        }
    }

    /// Ends what [`forbid`](Self::forbid) began: the ring is gone.
    pub fn allow(&mut self, pfns: &[u64]) {
        for pfn in pfns {
            if let Some((_, lent)) = self.regions.range_mut(..=*pfn).next_back() {
                lent.rings.remove(pfn);
            }
        }
    }

    /// Finds the region of a page: its first page number and what is known about it.
    fn lent(&self, pfn: u64) -> Result<(u64, &Lent), GpaError> {
        let (&first, lent) = self.regions.range(..=pfn).next_back().ok_or(GpaError::NotLent(pfn))?;
        if pfn - first < lent.pages() { Ok((first, lent)) } else { Err(GpaError::NotLent(pfn)) }
    }

    /// Cuts pages into runs that follow each other in one region: (region, offset, length), whole pages.
    fn runs(&self, pfns: impl Iterator<Item = u64>) -> Result<Vec<(&Arc<Region>, usize, usize)>, GpaError> {
        let mut runs: Vec<(&Arc<Region>, usize, usize)> = Vec::new();
        // The region of the last page: neighbours mostly share it, so it is looked up once per run.
        let mut found: Option<(u64, &Lent)> = None;
        for pfn in pfns {
            let (first, lent) = match found {
                Some((first, lent)) if pfn >= first && pfn - first < lent.pages() => (first, lent),
                _ => self.lent(pfn)?,
            };
            if !lent.rings.is_empty() && lent.rings.contains(&pfn) {
                return Err(GpaError::Forbidden(pfn));
            }
            found = Some((first, lent));
            let offset = (pfn - first) as usize * PAGE_SIZE;
            match runs.last_mut() {
                Some((last, start, length)) if Arc::ptr_eq(last, &lent.region) && *start + *length == offset => {
                    *length += PAGE_SIZE;
                }
                _ => runs.push((&lent.region, offset, PAGE_SIZE)),
            }
        }
        Ok(runs)
    }

    /// Returns the bytes of a range, or the first page number that is not the guest's to give.
    pub fn resolve(&self, range: &Range<'_>) -> Result<SpanList, GpaError> {
        let mut spans = SpanList::default();
        let mut left = range.byte_count as usize;
        let mut skip = range.byte_offset as usize;
        for (region, offset, pages_size) in self.runs(range.pfns())? {
            let length = (pages_size - skip).min(left);
            spans.push(Span { region: Arc::clone(region), offset: offset + skip, length });
            left -= length;
            skip = 0;
        }
        Ok(spans)
    }

    /// Maps pages, in whatever order they come, one behind the other: a ring's memory.
    pub fn map_linear(&self, pfns: &[u64]) -> Result<io::Result<Region>, GpaError> {
        let runs = self.runs(pfns.iter().copied())?;
        let runs: Vec<_> = runs.into_iter().map(|(region, start, length)| (Arc::clone(region), start, length)).collect();
        Ok(Region::map_linear(&runs))
    }
}
