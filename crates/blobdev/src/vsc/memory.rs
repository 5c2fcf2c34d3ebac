//! Lent memory: a page allocator over sealed memfd regions that the host has mapped too (design rule 10).
//!
//! A region is made ([`LentMemory::prepare`]), announced to the host by whoever owns the control socket, and only then
//! used ([`LentMemory::activate`]). Pages are handed out as [`Pages`] and come back when the last holder drops them:
//! the program's views, and the pending table for as long as the host may write (design rule 2). What came back last is
//! handed out first ([`runs::Recent`](super::runs::Recent)): a copy into pages that are warm runs at twice the speed.
//! Memory of the program's own joins by [`LentMemory::register`]: it has an owner already and is never handed out.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use vmbus::layout::PAGE_SIZE;
use vmbus::memory::Region;

use super::fork;
use super::runs::{FreeRuns, Recent, Run};

/// The first guest page number of lent memory; lower ones are left to rings, so the two never meet.
pub const FIRST_LENT_PAGE: u64 = 0x10_0000;

/// What the allocator holds at one moment, for messages and statistics. All in bytes but `regions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Regions the host has mapped.
    pub regions: usize,
    /// Bytes of all regions, those being announced included.
    pub lent: usize,
    /// Bytes handed out and not yet back.
    pub in_use: usize,
}

struct LentRegion {
    region: Arc<Region>,
    free: FreeRuns,
    active: bool,
    /// The program's own: it counts as lent, and nothing else is ever placed there.
    registered: bool,
    untouched: usize, // no page from here on was ever handed out: none has memory behind it yet
}

struct State {
    /// By guest page number of the region's first page.
    regions: BTreeMap<u64, LentRegion>,
    /// Free as well, but not merged with their neighbours yet.
    recent: Recent,
    next_page: u64,
    in_use: usize,
}

impl State {
    /// Takes a warm run that fits, else the first; merges what lies about before pages are touched that never were.
    fn take(&mut self, count: usize) -> Option<Run> {
        self.recent.take(count).or_else(|| self.take_first(count, true)).or_else(|| {
            self.merge_recent();
            self.take_first(count, false)
        })
    }

    fn take_first(&mut self, count: usize, touched: bool) -> Option<Run> {
        self.regions.iter_mut().filter(|(_, lent)| lent.active).find_map(|(&region, lent)| {
            let start = lent.free.take(count)?;
            if touched && start + count > lent.untouched {
                lent.free.give_back(start, count);
                return None;
            }
            lent.untouched = lent.untouched.max(start + count);
            Some(Run { region, start, count })
        })
    }

    fn give_back(&mut self, run: Run) {
        if self.regions.get(&run.region).is_some_and(|lent| lent.registered) {
            self.merge(run);
        } else if let Some(oldest) = self.recent.put(run) {
            self.merge(oldest);
        }
    }

    fn merge(&mut self, run: Run) {
        if let Some(lent) = self.regions.get_mut(&run.region) {
            lent.free.give_back(run.start, run.count);
        }
    }

    /// Enters a region and returns its first guest page; `None` when it would pass `limit`.
    fn place(&mut self, region: Arc<Region>, limit: usize, registered: bool) -> Option<u64> {
        let (lent, bytes): (usize, usize) = (self.regions.values().map(|lent| lent.region.len()).sum(), region.len());
        if lent + bytes > limit {
            return None;
        }
        let page = self.next_page;
        // One page stays unused between regions, so that a run off the end of one never lands in the next.
        self.next_page += (bytes / PAGE_SIZE) as u64 + 1;
        let free = FreeRuns::whole(bytes / PAGE_SIZE);
        self.regions.insert(page, LentRegion { region, free, active: false, registered, untouched: 0 });
        Some(page)
    }

    /// Makes every free page known to its region: before a region is judged idle, and when room is short.
    fn merge_recent(&mut self) {
        while let Some(run) = self.recent.pop() {
            self.merge(run);
        }
    }
}

/// The allocator. Shared by everything that holds pages of it.
pub struct LentMemory {
    state: Mutex<State>,
    limit: usize,
    generation: u64,
}

/// A run of pages in one region, exclusively the holder's; contiguous in memory and in guest page numbers.
pub struct Pages {
    memory: Arc<LentMemory>,
    region: Arc<Region>,
    run: Run,
}

impl LentMemory {
    /// Makes an allocator that lends at most `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        let state =
            State { regions: BTreeMap::new(), recent: Recent::default(), next_page: FIRST_LENT_PAGE, in_use: 0 };
        Arc::new(Self { state: Mutex::new(state), limit, generation: fork::generation() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // No code under this lock can panic half-way through a change, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a sealed region of `bytes` (rounded up to pages); returns its first guest page, its size and descriptor.
    ///
    /// `Ok(None)`: the limit does not allow it. The region serves allocations after [`activate`](Self::activate).
    pub fn prepare(&self, bytes: usize) -> io::Result<Option<(u64, usize, OwnedFd)>> {
        let bytes = bytes.next_multiple_of(PAGE_SIZE);
        let (region, fd) = Region::create_sealed("pvblob-lent", bytes)?;
        let page = self.lock().place(Arc::new(region), self.limit, false);
        Ok(page.map(|page| (page, bytes, fd)))
    }

    /// Gives memory of the program's own a place among the guest's pages; `None`: the limit does not allow it.
    ///
    /// The pages stay those of the one holder. The caller announces the region, and calls [`forget`](Self::forget) when
    /// the host has refused or unmapped it and no request uses it any more.
    pub fn register(self: &Arc<Self>, region: &Arc<Region>) -> Option<Arc<Pages>> {
        let mut state = self.lock();
        let page = state.place(Arc::clone(region), self.limit, true)?;
        let count = region.len() / PAGE_SIZE;
        let start = state.regions.get_mut(&page)?.free.take(count)?;
        state.in_use += count * PAGE_SIZE;
        let run = Run { region: page, start, count };
        Some(Arc::new(Pages { memory: Arc::clone(self), region: Arc::clone(region), run }))
    }

    /// Tells whether no page of the region that begins at guest page `page` is in use by anybody.
    pub fn is_free(&self, page: u64) -> bool {
        let mut state = self.lock();
        state.merge_recent();
        state.regions.get(&page).is_none_or(|lent| lent.free.is_whole())
    }

    /// Lets the region that begins at guest page `page` serve allocations: the host has mapped it.
    pub fn activate(&self, page: u64) {
        if let Some(lent) = self.lock().regions.get_mut(&page) {
            lent.active = true;
        }
    }

    /// Forgets a region no page of which is in use: the host refused it, or it is to be taken back.
    pub fn forget(&self, page: u64) -> bool {
        let mut state = self.lock();
        state.merge_recent();
        let whole = state.regions.get(&page).is_some_and(|lent| lent.free.is_whole());
        whole && state.regions.remove(&page).is_some()
    }

    /// Withdraws one wholly free region beyond the first from service and returns its first guest page.
    ///
    /// The caller tells the host, and calls [`forget`](Self::forget) when the host has unmapped it.
    pub fn retire_idle(&self) -> Option<u64> {
        let mut state = self.lock();
        state.merge_recent();
        let first = state.regions.iter().find(|(_, lent)| lent.active).map(|(page, _)| *page)?;
        let (page, lent) =
            state.regions.iter_mut().find(|(page, lent)| **page != first && lent.active && lent.free.is_whole())?;
        lent.active = false;
        Some(*page)
    }

    /// Allocates `bytes` (> 0) as whole pages, or `None` when no active region has such a run.
    pub fn allocate(self: &Arc<Self>, bytes: usize) -> Option<Arc<Pages>> {
        let count = bytes.div_ceil(PAGE_SIZE).max(1);
        let mut state = self.lock();
        let run = state.take(count)?;
        let region = Arc::clone(&state.regions.get(&run.region)?.region);
        state.in_use += count * PAGE_SIZE;
        drop(state);
        Some(Arc::new(Pages { memory: Arc::clone(self), region, run }))
    }

    /// Returns what is lent and in use now.
    pub fn usage(&self) -> Usage {
        let state = self.lock();
        Usage {
            regions: state.regions.values().filter(|lent| lent.active).count(),
            lent: state.regions.values().map(|lent| lent.region.len()).sum(),
            in_use: state.in_use,
        }
    }
}

impl Pages {
    /// Tells whether this allocator handed them out.
    pub fn is_of(&self, memory: &Arc<LentMemory>) -> bool {
        Arc::ptr_eq(&self.memory, memory)
    }

    /// The mapping these pages lie in.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Byte offset of the first page in its region.
    pub fn offset(&self) -> usize {
        self.run.start * PAGE_SIZE
    }

    /// Size in bytes, a multiple of the page size.
    pub fn size(&self) -> usize {
        self.run.count * PAGE_SIZE
    }

    /// Guest page number of the page that holds byte `at` of these pages.
    pub fn page_at(&self, at: usize) -> u64 {
        self.run.region + (self.run.start + at / PAGE_SIZE) as u64
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.memory.generation != fork::generation() {
            return; // Inherited by a fork's child: the pages are the parent's, and its lock may be held for ever.
        }
        let mut state = self.memory.lock();
        state.in_use -= self.size();
        state.give_back(self.run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory_with(pages: usize) -> (Arc<LentMemory>, u64) {
        let memory = LentMemory::new(1 << 20);
        let (page, _, _fd) = memory.prepare(pages * PAGE_SIZE).unwrap().unwrap();
        memory.activate(page);
        (memory, page)
    }

    #[test]
    fn pages_come_back_and_merge_when_the_last_holder_drops_them() {
        let (memory, page) = memory_with(8);
        let first = memory.allocate(3 * PAGE_SIZE).unwrap();
        let second = memory.allocate(1).unwrap();
        let third = memory.allocate(4 * PAGE_SIZE).unwrap();
        assert!(memory.allocate(1).is_none());
        assert_eq!([first.page_at(0), second.page_at(0), third.page_at(4096)], [page, page + 3, page + 5]);
        drop((first, third));
        assert!(memory.allocate(5 * PAGE_SIZE).is_none(), "the hole between is still in use");
        drop(second);
        assert_eq!(memory.allocate(8 * PAGE_SIZE).unwrap().size(), 8 * PAGE_SIZE);
        assert_eq!(memory.usage().in_use, 0);
    }

    #[test]
    fn a_region_serves_only_after_the_host_has_mapped_it() {
        let memory = LentMemory::new(1 << 20);
        let (page, _, _fd) = memory.prepare(PAGE_SIZE).unwrap().unwrap();
        assert!(memory.allocate(1).is_none());
        memory.activate(page);
        assert!(memory.allocate(1).is_some());
    }

    #[test]
    fn the_limit_is_a_value_and_not_an_error() {
        let memory = LentMemory::new(2 * PAGE_SIZE);
        assert!(memory.prepare(3 * PAGE_SIZE).unwrap().is_none());
        assert!(memory.prepare(2 * PAGE_SIZE).unwrap().is_some());
        assert!(memory.prepare(PAGE_SIZE).unwrap().is_none());
    }

    #[test]
    fn idle_regions_beyond_the_first_go_back() {
        let (memory, first) = memory_with(1);
        let (second, _, _fd) = memory.prepare(PAGE_SIZE).unwrap().unwrap();
        memory.activate(second);
        assert_ne!(first, second);
        assert_eq!(memory.retire_idle(), Some(second));
        assert!(memory.forget(second));
        assert_eq!(memory.retire_idle(), None, "the first region stays");
        assert_eq!(memory.usage().lent, PAGE_SIZE);
    }

    #[test]
    fn a_region_in_use_is_not_forgotten() {
        let (memory, page) = memory_with(2);
        let pages = memory.allocate(1).unwrap();
        assert!(!memory.forget(page));
        drop(pages);
        assert!(memory.forget(page));
    }

    #[test]
    fn registered_memory_counts_but_is_nobody_elses_even_when_it_came_back() {
        let memory = LentMemory::new(8 * PAGE_SIZE);
        let own = Arc::new(Region::create_sealed("own", 4 * PAGE_SIZE).unwrap().0);
        let pages = memory.register(&own).unwrap();
        assert!(memory.register(&Arc::new(Region::create_sealed("more", 5 * PAGE_SIZE).unwrap().0)).is_none());
        assert_eq!((memory.usage().lent, memory.usage().in_use), (4 * PAGE_SIZE, 4 * PAGE_SIZE));
        let page = pages.page_at(0);
        let in_flight = Arc::clone(&pages);
        drop(pages);
        assert!(!memory.is_free(page) && !memory.forget(page), "a request still uses it");
        drop(in_flight);
        assert!(memory.is_free(page) && memory.allocate(1).is_none());
        assert_eq!(memory.retire_idle(), None, "its owner takes it back, nobody else");
        assert!(memory.forget(page));
        assert_eq!(memory.usage().lent, 0);
    }

    #[test]
    fn what_came_back_last_is_handed_out_first() {
        let (memory, _) = memory_with(64);
        let sizes = [3, 20, 3, 7, 20, 3];
        let mut seen = std::collections::HashSet::new();
        for round in 0..100 {
            let held: Vec<_> = sizes.iter().map(|pages| memory.allocate(pages * PAGE_SIZE).unwrap()).collect();
            let pages: Vec<_> = held.iter().map(|pages| pages.page_at(0)).collect();
            if round == 0 {
                seen.extend(pages);
            } else {
                assert!(pages.iter().all(|page| seen.contains(page)), "round {round} touched cold pages");
            }
        }
        let first = memory.allocate(3 * PAGE_SIZE).unwrap();
        let (second, page) = (memory.allocate(3 * PAGE_SIZE).unwrap(), first.page_at(0));
        drop((second, first));
        assert_eq!(memory.allocate(3 * PAGE_SIZE).unwrap().page_at(0), page);
    }

    #[test]
    fn pages_that_were_used_are_joined_before_new_ones_are_touched() {
        let (memory, page) = memory_with(64);
        drop([20, 1, 1].map(|pages| memory.allocate(pages * PAGE_SIZE).unwrap()));
        assert_eq!(memory.allocate(22 * PAGE_SIZE).unwrap().page_at(0), page, "20 + 1 + 1 used pages are 22");
    }

    #[test]
    fn rule_10_warm_pages_do_not_keep_a_region_from_going_back() {
        let (memory, _) = memory_with(8);
        let (second, _, _fd) = memory.prepare(16 * PAGE_SIZE).unwrap().unwrap();
        memory.activate(second);
        let held: Vec<_> = (0..6).map(|_| memory.allocate(4 * PAGE_SIZE).unwrap()).collect();
        assert_eq!(memory.retire_idle(), None);
        drop(held);
        assert_eq!(memory.retire_idle(), Some(second));
        assert!(memory.forget(second));
    }

    #[test]
    fn threads_that_allocate_and_drop_lose_and_share_no_page() {
        let (memory, _) = memory_with(200);
        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                let memory = &memory;
                scope.spawn(move || {
                    for round in 0..2000 {
                        let size = (1 + (thread * 7 + round * 13) % 12) * PAGE_SIZE;
                        let held: Vec<_> = (0..3).filter_map(|_| memory.allocate(size)).collect();
                        let mark = [thread as u8; 8];
                        held.iter().for_each(|pages| pages.region().write(pages.offset(), &mark));
                        for pages in &held {
                            let mut back = [0xFF; 8];
                            pages.region().read(pages.offset(), &mut back);
                            assert_eq!(back, mark, "two threads held one page");
                        }
                    }
                });
            }
        });
        assert_eq!(memory.usage().in_use, 0);
        assert_eq!(memory.allocate(200 * PAGE_SIZE).unwrap().size(), 200 * PAGE_SIZE);
    }
}
