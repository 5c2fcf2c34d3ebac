//! Poll, then sleep: how long to look at a ring before a wait is left to the kernel.
//!
//! Waking across cores costs tens of microseconds, looking costs a tenth of one; but who looks too long takes the core
//! from whoever would answer (baseline.md, points 4 and 5). So the spin is bounded by the host's grant, and within it by
//! what paid lately.

use std::time::{Duration, Instant};

/// Looks between two readings of the clock.
const LOOKS_PER_READING: u32 = 64;

/// The share of the grant that is used, adapting to success.
#[derive(Debug)]
pub struct AdaptiveSpin {
    /// In sixteenths of the grant; 1 is enough to notice when spinning begins to pay again.
    share: u32,
}

impl Default for AdaptiveSpin {
    fn default() -> Self {
        Self { share: 16 }
    }
}

impl AdaptiveSpin {
    /// Looks until `ready` says so, the grant (µs) is used up, or `deadline` passes. Returns whether it was ready.
    pub fn until(&mut self, granted_us: u32, deadline: Instant, mut ready: impl FnMut() -> bool) -> bool {
        let begun = Instant::now();
        let budget = Duration::from_nanos(u64::from(granted_us.min(1_000)) * 1_000 / 16 * u64::from(self.share));
        let end = deadline.min(begun + budget);
        loop {
            for _ in 0..LOOKS_PER_READING {
                if ready() {
                    self.share = (self.share * 2).min(16);
                    return true;
                }
                std::hint::spin_loop();
            }
            if Instant::now() >= end {
                self.share = (self.share / 2).max(1);
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[test]
    fn a_spin_that_never_pays_shrinks_to_almost_nothing_and_grows_back_when_it_pays() {
        let mut spin = AdaptiveSpin::default();
        for _ in 0..8 {
            assert!(!spin.until(10, far(), || false));
        }
        assert_eq!(spin.share, 1);
        for _ in 0..8 {
            assert!(spin.until(10, far(), || true));
        }
        assert_eq!(spin.share, 16);
    }

    #[test]
    fn a_passed_deadline_ends_the_spin() {
        assert!(!AdaptiveSpin::default().until(1_000, Instant::now(), || false));
    }
}
