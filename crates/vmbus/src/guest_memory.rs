//! The memory one guest lends: guest page numbers → regions, minus the pages that are rings.
//!
//! Flow: the control plane adds and removes regions and forbids ring pages; the data plane resolves the ranges of
//! packets. Invariants: regions never overlap and are bounded in number; nothing resolved touches a forbidden page.
//! Must not know packets or devices. Sources: design rule 1, spec/vmbus.md §2.3, H11, H15.

use std::collections::BTreeMap;
use std::io;

use crate::gpa::{GpaError, GpaRange, pages_spanned};
use crate::layout::PAGE_SIZE;
use crate::memory::{Lent, PageRun, Region, Span, SpanList};

/// Regions one guest may lend at a time.
pub const REGIONS_MAX: usize = 1024;

/// Runs of adjacent pages a ring's memory may consist of: each costs one of the process's mappings, which all guests
/// share.
pub const MAPPING_RUNS_MAX: usize = 256;

/// The lent regions of one guest.
#[derive(Debug, Default)]
pub struct GuestMemory {
    /// By first page.
    regions: BTreeMap<u64, Lent>,
    forbidden: PageSet,
}

fn pages_of(region: &Lent) -> u64 {
    (region.len() / PAGE_SIZE) as u64
}

impl GuestMemory {
    /// Makes an empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `region` answer for guest pages from `gpa_page` on; refuses overlaps and more than `REGIONS_MAX` regions.
    pub fn add(&mut self, gpa_page: u64, region: impl Into<Lent>) -> Result<(), GpaError> {
        let region = region.into();
        let behind = gpa_page.checked_add(pages_of(&region)).ok_or(GpaError::PageNumber { page: gpa_page })?;
        let below = self.regions.range(..behind).next_back();
        if below.is_some_and(|(first, region)| first + pages_of(region) > gpa_page) {
            return Err(GpaError::Overlap { page: gpa_page });
        }
        if self.regions.len() >= REGIONS_MAX {
            return Err(GpaError::TooManyRegions);
        }
        self.regions.insert(gpa_page, region);
        Ok(())
    }

    /// Takes back the region that starts at `gpa_page`, if there is one; what was resolved before keeps it mapped.
    ///
    /// Forbidden pages stay forbidden until [`allow`](Self::allow), whatever region answers for them.
    pub fn remove(&mut self, gpa_page: u64) -> Option<Lent> {
        self.regions.remove(&gpa_page)
    }

    /// Returns the number of regions.
    pub fn region_count(&self) -> usize {
        self.regions.len()
    }

    /// Returns the bytes of all regions.
    pub fn lent_bytes(&self) -> u64 {
        self.regions.values().map(|region| region.len() as u64).sum()
    }

    /// Keeps pages out of every later [`resolve`](Self::resolve) and [`map_linear`](Self::map_linear): they are a
    /// ring's now.
    pub fn forbid(&mut self, pfns: &[u64]) {
        pfns.iter().for_each(|pfn| self.forbidden.insert(*pfn));
    }

    /// Takes [`forbid`](Self::forbid) back: the ring is gone.
    pub fn allow(&mut self, pfns: &[u64]) {
        pfns.iter().for_each(|pfn| self.forbidden.remove(*pfn));
    }

    /// Finds the memory of a judged range.
    pub fn resolve(&self, range: &GpaRange<'_>) -> Result<SpanList, GpaError> {
        self.resolve_pages(range.pfns(), range.byte_offset, range.byte_count)
    }

    /// Finds `byte_count` bytes that start `byte_offset` bytes into the first of the pages `pfns`.
    ///
    /// Pages may repeat (spec/azure-blob-device.md §2.4) and may be more than needed. A page that is not lent, or
    /// forbidden, is an error that names it.
    pub fn resolve_pages(
        &self,
        pfns: impl ExactSizeIterator<Item = u64>,
        byte_offset: u32,
        byte_count: u32,
    ) -> Result<SpanList, GpaError> {
        let (needed, named) = (pages_spanned(byte_offset, byte_count)?, pfns.len() as u64);
        if needed > named {
            return Err(GpaError::TooFewPages { needed, named });
        }
        let mut list = SpanList::new();
        let (mut skip, mut left) = (byte_offset as usize, byte_count as usize);
        for run in Runs::of(pfns.take(needed as usize)) {
            self.pieces(run, |region, page, pages| {
                let length = left.min(pages * PAGE_SIZE - skip);
                list.push(Span::new(region.clone(), page * PAGE_SIZE + skip, length));
                (skip, left) = (0, left - length);
            })?;
        }
        Ok(list)
    }

    /// Maps pages in the given order as one linear region: the memory of a channel's rings.
    ///
    /// Each page once, each lent sealed ([`Region::map_sealed`]), none forbidden, in at most `MAPPING_RUNS_MAX` runs.
    pub fn map_linear(&self, pfns: &[u64]) -> Result<Region, GpaError> {
        let mut sorted = pfns.to_vec();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(GpaError::Repeated { pfn: twice[0] });
        }
        let mut runs: Vec<PageRun<'_>> = Vec::new();
        for run in Runs::of(pfns.iter().copied()) {
            let mut unsealed = false;
            self.pieces(run, |memory, first_page, pages| match memory {
                Lent::Sealed(region) => runs.push(PageRun { region, first_page, pages }),
                Lent::Unsealed(_) => unsealed = true,
            })?;
            if unsealed {
                return Err(GpaError::Unsealed { pfn: run.first });
            }
            if runs.len() > MAPPING_RUNS_MAX {
                return Err(GpaError::TooScattered { runs: Runs::of(pfns.iter().copied()).count() });
            }
        }
        Region::map_pages(&runs).map_err(|error| map_error(&error))
    }

    /// Walks one run of pages through the regions it lies in: (region, page in it, pages).
    fn pieces<'a>(&'a self, run: Run, mut piece: impl FnMut(&'a Lent, usize, usize)) -> Result<(), GpaError> {
        if let Some(pfn) = self.forbidden.first_in(run) {
            return Err(GpaError::Forbidden { pfn });
        }
        let Run { mut first, mut pages } = run;
        while pages > 0 {
            let below = self.regions.range(..=first).next_back();
            let (start, region) = below.ok_or(GpaError::NotLent { pfn: first })?;
            let page = first - start;
            let there = pages_of(region).checked_sub(page).filter(|there| *there > 0);
            let taken = there.ok_or(GpaError::NotLent { pfn: first })?.min(pages);
            piece(region, page as usize, taken as usize);
            (first, pages) = (first + taken, pages - taken);
        }
        Ok(())
    }
}

fn map_error(error: &io::Error) -> GpaError {
    GpaError::Map { errno: error.raw_os_error().unwrap_or(libc::EINVAL) }
}

/// Adjacent pages: `first`, `first + 1`, …; never past the last page number.
#[derive(Clone, Copy)]
struct Run {
    first: u64,
    pages: u64,
}

/// Groups page numbers into runs, so that a contiguous buffer costs one look-up and not thousands.
struct Runs<I: Iterator<Item = u64>> {
    pfns: std::iter::Peekable<I>,
}

impl<I: Iterator<Item = u64>> Runs<I> {
    fn of(pfns: I) -> Self {
        Self { pfns: pfns.peekable() }
    }
}

impl<I: Iterator<Item = u64>> Iterator for Runs<I> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let first = self.pfns.next()?;
        let mut last = first;
        while let Some(pfn) = self.pfns.next_if(|pfn| last.checked_add(1) == Some(*pfn)) {
            last = pfn;
        }
        // `last - first` is at most the number of pages in a packet, so this does not overflow.
        Some(Run { first, pages: last - first + 1 })
    }
}

/// A set of pages as runs that neither touch nor overlap: first page → last page.
#[derive(Debug, Default)]
struct PageSet {
    runs: BTreeMap<u64, u64>,
}

impl PageSet {
    /// Returns the lowest member in `run`.
    fn first_in(&self, run: Run) -> Option<u64> {
        let last = run.first + (run.pages - 1);
        let below = self.runs.range(..=run.first).next_back();
        if below.is_some_and(|(_, end)| *end >= run.first) {
            return Some(run.first);
        }
        self.runs.range(run.first..=last).next().map(|(start, _)| *start)
    }

    fn insert(&mut self, page: u64) {
        let below = self.runs.range(..=page).next_back().map(|(start, end)| (*start, *end));
        if below.is_some_and(|(_, end)| end >= page) {
            return;
        }
        let joins_below = below.filter(|(_, end)| end + 1 == page);
        let start = joins_below.map_or(page, |(start, _)| start);
        let above = page.checked_add(1).and_then(|next| self.runs.remove(&next));
        self.runs.insert(start, above.unwrap_or(page));
    }

    fn remove(&mut self, page: u64) {
        let below = self.runs.range(..=page).next_back().map(|(start, end)| (*start, *end));
        let Some((start, end)) = below.filter(|(_, end)| *end >= page) else { return };
        self.runs.remove(&start);
        if start < page {
            self.runs.insert(start, page - 1);
        }
        if page < end {
            self.runs.insert(page + 1, end);
        }
    }
}

#[cfg(test)]
mod tests;
