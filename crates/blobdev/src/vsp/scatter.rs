//! How scattered the buffers of requests in flight may be: each run of adjacent pages costs the host memory of its own.
//!
//! A guest that lays its buffers out in order pays one or two runs per request; one that scatters every page makes the
//! host keep eight thousand. Both a channel and all channels together are bounded; beyond it a request is refused with
//! 0x800705AA and nothing of it is kept (design rule 1).

use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs that the requests of one channel may have in flight: 32 requests of the largest size with every page apart.
pub(super) const CHANNEL_RUNS_MAX: usize = 1 << 18;

/// Runs of all channels together, some 160 MB.
const RUNS_MAX: usize = 1 << 22;

static RUNS: Runs = Runs::new(RUNS_MAX);

/// Counts runs in flight against a bound.
struct Runs {
    max: usize,
    held: AtomicUsize,
}

impl Runs {
    const fn new(max: usize) -> Self {
        Self { max, held: AtomicUsize::new(0) }
    }

    /// Counts `runs` more, beside the `own` of the same channel; false when that is too much. A channel that holds none
    /// is not turned away for what others hold.
    fn take(&self, own: usize, runs: usize) -> bool {
        // Relaxed, here and below: a count, ordered with nothing.
        let fits = |held: usize| (own == 0 || held + runs <= self.max).then_some(held + runs);
        own + runs <= CHANNEL_RUNS_MAX && self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    fn give(&self, runs: usize) {
        self.held.fetch_sub(runs, Ordering::Relaxed);
    }
}

/// Counts a request's runs; see [`Runs::take`]. The caller owes [`give`].
pub(super) fn take(own: usize, runs: usize) -> bool {
    RUNS.take(own, runs)
}

/// Counts them no longer.
pub(super) fn give(runs: usize) {
    RUNS.give(runs);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_1_a_channel_whose_pages_are_scattered_is_bounded() {
        let runs = Runs::new(usize::MAX / 2);
        let mut own = 0;
        while runs.take(own, 8192) {
            own += 8192;
        }
        assert_eq!(own, CHANNEL_RUNS_MAX);
        assert!(!runs.take(own, 1));
        runs.give(8192);
        assert!(runs.take(own - 8192, 8192));
    }

    #[test]
    fn rule_1_all_channels_together_are_bounded_and_one_that_holds_nothing_is_served() {
        let runs = Runs::new(100);
        assert!(runs.take(0, 90));
        assert!(!runs.take(90, 11));
        assert!(runs.take(0, 30), "another channel's first request");
        assert!(!runs.take(30, 1));
        runs.give(90);
        assert!(runs.take(30, 70));
    }
}
