//! Runs of free pages: those that came back lately, newest first, and the rest, merged and in order of address.
//!
//! Whoever reads again and again gets the same physical pages each time: they are in the caches, and the kernel need not
//! find and clear new ones. The lists are short and need no search for a size that was used before.

use std::collections::BTreeMap;

/// Most runs that are kept unmerged.
const RECENT_MAX: usize = 64;

/// Adjacent pages of one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Guest page number of the region's first page: its name.
    pub region: u64,
    /// First page, counted in the region.
    pub start: usize,
    /// Number of pages.
    pub count: usize,
}

/// The runs given back last, at most [`RECENT_MAX`]; the newest at the end.
#[derive(Default)]
pub(super) struct Recent {
    runs: Vec<Run>,
}

impl Recent {
    /// Takes the newest run of exactly `count` pages, else cuts them from the smallest that is at most twice as long.
    ///
    /// Longer ones are left whole: a small request would cost the large one that comes next its warm pages.
    pub fn take(&mut self, count: usize) -> Option<Run> {
        let mut best: Option<usize> = None;
        for (at, run) in self.runs.iter().enumerate().rev() {
            if run.count == count {
                return Some(self.runs.remove(at));
            }
            let fits = (count..=2 * count).contains(&run.count);
            if fits && best.is_none_or(|best| run.count < self.runs[best].count) {
                best = Some(at);
            }
        }
        let run = &mut self.runs[best?];
        let taken = Run { count, ..*run };
        (run.start, run.count) = (run.start + count, run.count - count);
        Some(taken)
    }

    /// Keeps a run as the newest; returns the oldest one when there are too many.
    pub fn put(&mut self, run: Run) -> Option<Run> {
        self.runs.push(run);
        (self.runs.len() > RECENT_MAX).then(|| self.runs.remove(0))
    }

    /// Removes any run, until there is none.
    pub fn pop(&mut self) -> Option<Run> {
        self.runs.pop()
    }
}

/// The merged free runs of one region: first page → pages. Neighbours are joined, so runs never touch.
pub(super) struct FreeRuns {
    runs: BTreeMap<usize, usize>,
    pages: usize,
}

impl FreeRuns {
    /// A region of `pages` pages, all free.
    pub fn whole(pages: usize) -> Self {
        Self { runs: BTreeMap::from([(0, pages)]), pages }
    }

    /// Tells whether every page is free.
    pub fn is_whole(&self) -> bool {
        self.runs.get(&0) == Some(&self.pages)
    }

    /// Takes the first run that is large enough: low addresses are reused first, so touched pages stay in use.
    pub fn take(&mut self, pages: usize) -> Option<usize> {
        let (&start, &run) = self.runs.iter().find(|(_, run)| **run >= pages)?;
        self.runs.remove(&start);
        if run > pages {
            self.runs.insert(start + pages, run - pages);
        }
        Some(start)
    }

    /// Joins pages with their free neighbours.
    pub fn give_back(&mut self, mut start: usize, mut pages: usize) {
        if let Some(next) = self.runs.remove(&(start + pages)) {
            pages += next;
        }
        if let Some((&before, &run)) = self.runs.range(..start).next_back()
            && before + run == start
        {
            self.runs.remove(&before);
            start = before;
            pages += run;
        }
        self.runs.insert(start, pages);
    }
}
