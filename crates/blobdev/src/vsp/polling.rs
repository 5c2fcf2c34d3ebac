//! Who may poll instead of sleeping (design §6).
//!
//! A wake-up across cores costs some 45 µs, a polled cache line 0.1 µs; but a thread that spins while it waits takes a
//! core from one that works. So no more than `spinners_max` (cores − 1) channels are *granted* at any time. Of a granted
//! channel only one side can be waiting: the guest while its requests are the host's, the worker while it has none of
//! them ([`HostChannel::may_spin`](super::channel::HostChannel::may_spin)). Hence the threads that spin while waiting never
//! exceed the grants. With more active guests than that nobody is granted: spinning would only keep the others from
//! running, up to a whole time slice of the scheduler (4 ms at p99, where blocking gives 1 ms).
//!
//! This is here and not in Python because it must follow the traffic: the control plane sees no request that an offload
//! entry answers, and a second guest that becomes active must end the first one's grant within its next request, not at
//! the next turn of a loop. What there is to decide (how many, how long) the control plane decides at the start.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use vmbus::memory::Region;

/// A guest that sent nothing for so long is no longer active.
const ACTIVE_US: u64 = 5_000;

/// How often the grants are reviewed while there is traffic and no grant to take back.
const REVIEW_US: u64 = 500;

/// What the control plane has decided about polling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollingLimits {
    /// Most threads that may spin while they wait, guests' and workers' together; 0 = nobody polls.
    pub spinners_max: usize,
    /// How long one of them may spin before it sleeps, in microseconds.
    pub spin_us: u32,
}

/// One channel's part: its guest's page, and what is known of its traffic.
pub struct Poller {
    page: Option<Arc<Region>>,
    /// When it last sent a request, in microseconds of the review's clock; 0 = never.
    active_us: AtomicU64,
    granted: AtomicBool,
}

impl Poller {
    /// Tells whether this channel's guest, or its worker while that guest does not wait, may spin.
    pub fn is_granted(&self) -> bool {
        self.granted.load(Ordering::Relaxed) // advice, ordered with nothing
    }

    fn grant(&self, spin_us: u32) {
        let changes = self.granted.swap(spin_us > 0, Ordering::Relaxed) != (spin_us > 0);
        if changes && let Some(page) = &self.page {
            page.atomic_u32(0).store(spin_us, Ordering::Relaxed); // as above
        }
    }
}

/// The grants of all channels.
pub struct Polling {
    limits: PollingLimits,
    clock: Instant,
    pollers: Mutex<Vec<Arc<Poller>>>,
    reviewed_us: AtomicU64,
    /// Whether anybody holds a grant, so that a newcomer's arrival must be reviewed at once.
    any_granted: AtomicBool,
}

impl Polling {
    /// Begins with nobody granted.
    pub fn new(limits: PollingLimits) -> Self {
        Self {
            limits,
            clock: Instant::now(),
            pollers: Mutex::default(),
            reviewed_us: AtomicU64::new(0),
            any_granted: AtomicBool::new(false),
        }
    }

    /// The longest spin in microseconds.
    pub fn spin_us(&self) -> u32 {
        self.limits.spin_us
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Poller>>> {
        self.pollers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a channel; `page`: the one its guest reads its grant from.
    pub fn join(&self, page: Option<Arc<Region>>) -> Arc<Poller> {
        let poller = Arc::new(Poller { page, active_us: AtomicU64::new(0), granted: AtomicBool::new(false) });
        self.lock().push(Arc::clone(&poller));
        poller
    }

    /// Removes a channel, and its grant with it.
    pub fn leave(&self, poller: &Arc<Poller>) {
        self.lock().retain(|one| !Arc::ptr_eq(one, poller));
        poller.grant(0);
    }

    /// Takes note that a channel has sent requests.
    pub fn note(&self, poller: &Poller) {
        if self.limits.spinners_max > 0 {
            self.note_at(poller, self.clock.elapsed().as_micros() as u64 + ACTIVE_US);
        }
    }

    fn note_at(&self, poller: &Poller, now_us: u64) {
        // Relaxed throughout: a review that misses the newest request of another worker's channel comes again soon.
        let before_us = poller.active_us.swap(now_us, Ordering::Relaxed);
        let is_new = now_us.saturating_sub(before_us) > ACTIVE_US;
        let age_us = now_us.saturating_sub(self.reviewed_us.load(Ordering::Relaxed));
        if age_us >= REVIEW_US || (is_new && self.any_granted.load(Ordering::Relaxed)) {
            self.review(now_us);
        }
    }

    fn review(&self, now_us: u64) {
        let pollers = self.lock(); // one review at a time, so that no two give what only one may
        self.reviewed_us.store(now_us, Ordering::Relaxed);
        let is_active = |poller: &Poller| now_us.saturating_sub(poller.active_us.load(Ordering::Relaxed)) <= ACTIVE_US;
        let active: Vec<&Arc<Poller>> = pollers.iter().filter(|poller| is_active(poller)).collect();
        let fits = active.len() <= self.limits.spinners_max;
        // First taken back, then given, so that there are never more.
        for poller in pollers.iter().filter(|poller| !(fits && is_active(poller))) {
            poller.grant(0);
        }
        self.any_granted.store(fits && !active.is_empty(), Ordering::Relaxed);
        if fits {
            active.iter().for_each(|poller| poller.grant(self.limits.spin_us));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guests(polling: &Polling, count: usize) -> Vec<(Arc<Poller>, Arc<Region>)> {
        (0..count)
            .map(|_| {
                let page = Arc::new(Region::create_host_page().unwrap().0);
                (polling.join(Some(Arc::clone(&page))), page)
            })
            .collect()
    }

    fn granted(guests: &[(Arc<Poller>, Arc<Region>)]) -> Vec<usize> {
        let holders: Vec<usize> = (0..guests.len()).filter(|&index| guests[index].0.is_granted()).collect();
        for (index, (_, page)) in guests.iter().enumerate() {
            assert_eq!(page.load_u32(0), if holders.contains(&index) { 50 } else { 0 }, "the guest reads what holds");
        }
        holders
    }

    fn polling(spinners_max: usize) -> Polling {
        Polling::new(PollingLimits { spinners_max, spin_us: 50 })
    }

    #[test]
    fn the_only_active_guest_is_granted_and_a_second_one_ends_that_at_its_first_request() {
        let polling = polling(1);
        let guests = guests(&polling, 3);
        assert!(granted(&guests).is_empty());
        polling.note_at(&guests[0].0, 10_000);
        assert_eq!(granted(&guests), [0]);
        polling.note_at(&guests[1].0, 10_001);
        assert!(granted(&guests).is_empty(), "two are active, one may spin: nobody is granted");
        polling.note_at(&guests[1].0, 14_000);
        assert!(granted(&guests).is_empty());
        polling.note_at(&guests[1].0, 15_100);
        assert_eq!(granted(&guests), [1], "the first has been quiet for long enough");
        polling.leave(&guests[1].0);
        assert!(granted(&guests).is_empty());
    }

    #[test]
    fn grants_never_exceed_the_limit_whatever_the_traffic() {
        for spinners_max in 0..4 {
            let (polling, mut random) = (polling(spinners_max), 0x9E37_79B9_7F4A_7C15_u64);
            let guests = guests(&polling, 6);
            let mut now_us = ACTIVE_US + 1;
            for _ in 0..20_000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                now_us += (random >> 33) % 2_000;
                let crowd = 1 + (random >> 50) as usize % guests.len();
                polling.note_at(&guests[(random >> 40) as usize % crowd].0, now_us);
                assert!(granted(&guests).len() <= spinners_max);
            }
        }
    }

    #[test]
    fn without_spinners_nobody_is_granted() {
        let polling = polling(0);
        let guests = guests(&polling, 1);
        polling.note(&guests[0].0);
        assert!(granted(&guests).is_empty());
    }

    #[test]
    fn workers_that_review_at_once_grant_no_more() {
        let polling = polling(1);
        let guests = guests(&polling, 4);
        std::thread::scope(|scope| {
            for (poller, _) in &guests {
                scope.spawn(|| (0..5_000).for_each(|_| polling.note(poller)));
            }
            for _ in 0..5_000 {
                let _reviews_wait = polling.lock();
                assert!(guests.iter().filter(|(_, page)| page.load_u32(0) > 0).count() <= 1);
            }
        });
    }
}
