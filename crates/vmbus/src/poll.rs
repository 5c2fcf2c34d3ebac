//! Adaptive spinning: look at the ring for a short while before paying for a sleep and a wake-up.
//!
//! A wake-up across cores costs about 45 µs, a polled cache line 0.1 µs, but spinning in vain takes a core from
//! somebody. So the budget doubles when spinning found data and halves when it did not; after many failures a full spin
//! is tried once, because a budget that is too short can never succeed. Invariants: no spin lasts longer than the grant
//! or passes the deadline; grant 0 never spins. Must not know rings. Source: design §6.

use std::time::{Duration, Instant};

/// The budget never falls below this: two looks at a cache line and at the clock.
const BUDGET_MIN: Duration = Duration::from_micros(1);

/// No grant counts for more than this: longer spins never pay, and the word that grants is another process's.
const GRANT_MAX: Duration = Duration::from_millis(2);

/// A side that moves so many bytes for one that waits is worth another grant of spinning: it takes about as long.
const BYTES_PER_GRANT: u64 = 256 * 1024;

/// The budget of a new channel.
const BUDGET_START: Duration = Duration::from_micros(20);

/// After this many failures in a row one spin gets the whole grant.
const MISSES_BEFORE_PROBE: u32 = 64;

/// Looks at the ring between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 4;

/// Returns the grant in microseconds for a wait while the other side moves `bytes`: it cannot be over before they are.
pub fn granted_for(granted_us: u32, bytes: u64) -> u32 {
    granted_us.saturating_mul(u32::try_from(1 + bytes / BYTES_PER_GRANT).unwrap_or(u32::MAX))
}

/// Tells whether a wait while the other side moves `bytes` may be longer than a plain grant.
pub fn is_long(bytes: u64) -> bool {
    bytes >= BYTES_PER_GRANT
}

/// Two that learn apart: one for waits for a wake-up's worth, one for waits while many bytes are moved.
///
/// Short requests between long ones would otherwise teach each other's length.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpinBySize {
    short: AdaptiveSpin,
    long: AdaptiveSpin,
}

impl SpinBySize {
    /// Returns the one for waits while the other side moves `bytes`.
    pub fn of(&mut self, bytes: u64) -> &mut AdaptiveSpin {
        if is_long(bytes) { &mut self.long } else { &mut self.short }
    }
}

/// The clock a spin is measured by; tests bring their own.
pub trait Clock {
    /// Returns the present moment.
    fn now(&mut self) -> Instant;
}

/// The system's monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Monotonic;

impl Clock for Monotonic {
    fn now(&mut self) -> Instant {
        Instant::now()
    }
}

/// Decides how long to spin; one per waiting place, so that each learns its own peer.
#[derive(Clone, Copy, Debug)]
pub struct AdaptiveSpin {
    budget: Duration,
    misses: u32,
}

impl Default for AdaptiveSpin {
    fn default() -> Self {
        Self { budget: BUDGET_START, misses: 0 }
    }
}

impl AdaptiveSpin {
    /// Returns how long the next spin may last under a grant in microseconds.
    pub fn budget(&self, granted_us: u32) -> Duration {
        let grant = grant(granted_us);
        if self.misses >= MISSES_BEFORE_PROBE { grant } else { self.budget.min(grant) }
    }

    /// Spins until `ready` says so, the budget is spent or `deadline` has come; returns whether `ready` said so.
    ///
    /// `granted_us`: the host's word, 0 = may not spin; `ready` is then asked once all the same.
    pub fn until(&mut self, granted_us: u32, deadline: Instant, ready: impl FnMut() -> bool) -> bool {
        self.until_by(&mut Monotonic, granted_us, deadline, ready)
    }

    /// The same by a given clock.
    pub fn until_by(
        &mut self,
        clock: &mut impl Clock,
        granted_us: u32,
        deadline: Instant,
        mut ready: impl FnMut() -> bool,
    ) -> bool {
        if ready() {
            return true; // no spin, nothing learnt
        }
        let budget = self.budget(granted_us);
        if budget.is_zero() {
            return false;
        }
        let end = (clock.now() + budget).min(deadline);
        let found = spin(clock, end, &mut ready);
        self.learn(found, granted_us);
        found
    }

    /// Tells how long a wait took all in all that ended in a sleep, because it began with a spin in vain: one that a
    /// granted spin would have covered makes the next spin long enough for it.
    pub fn slept(&mut self, granted_us: u32, waited: Duration) {
        let grant = grant(granted_us);
        if waited <= grant {
            *self = Self { budget: (waited * 2).clamp(BUDGET_MIN, grant.max(BUDGET_MIN)), misses: 0 };
        }
    }

    fn learn(&mut self, found: bool, granted_us: u32) {
        let budget = self.budget(granted_us).max(BUDGET_MIN);
        if found {
            // From the budget that was in force: a probe that found data starts anew from the whole grant.
            *self = Self { budget: (budget * 2).min(grant(granted_us).max(BUDGET_MIN)), misses: 0 };
        } else {
            let misses = if self.misses >= MISSES_BEFORE_PROBE { 0 } else { self.misses + 1 };
            *self = Self { budget: (self.budget / 2).max(BUDGET_MIN), misses };
        }
    }
}

fn grant(granted_us: u32) -> Duration {
    Duration::from_micros(granted_us.into()).min(GRANT_MAX)
}

fn spin(clock: &mut impl Clock, end: Instant, ready: &mut impl FnMut() -> bool) -> bool {
    while clock.now() < end {
        for _ in 0..LOOKS_PER_CLOCK {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
    }
    ready()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each look at the clock takes one microsecond.
    struct Ticking {
        now: Instant,
    }

    impl Clock for Ticking {
        fn now(&mut self) -> Instant {
            self.now += Duration::from_micros(1);
            self.now
        }
    }

    fn ticking() -> (Ticking, Instant) {
        let start = Instant::now();
        (Ticking { now: start }, start + Duration::from_secs(60))
    }

    #[test]
    fn without_a_grant_nobody_spins() {
        let (mut clock, deadline) = ticking();
        let start = clock.now;
        let mut looks = 0;
        let found = AdaptiveSpin::default().until_by(&mut clock, 0, deadline, || {
            looks += 1;
            false
        });
        assert!(!found);
        assert_eq!((looks, clock.now), (1, start));
    }

    #[test]
    fn spinning_in_vain_shrinks_the_budget_to_almost_nothing() {
        let (mut clock, deadline) = ticking();
        let mut spin = AdaptiveSpin::default();
        (0..10).for_each(|_| assert!(!spin.until_by(&mut clock, 200, deadline, || false)));
        assert_eq!(spin.budget(200), BUDGET_MIN);
    }

    #[test]
    fn finding_data_grows_the_budget_up_to_the_grant() {
        let (mut clock, deadline) = ticking();
        let mut spin = AdaptiveSpin::default();
        for _ in 0..10 {
            let mut looks = 0;
            assert!(spin.until_by(&mut clock, 200, deadline, || {
                looks += 1;
                looks == 3
            }));
        }
        assert_eq!(spin.budget(200), Duration::from_micros(200));
        assert_eq!(spin.budget(50), Duration::from_micros(50), "a grant taken back holds at once");
    }

    #[test]
    fn a_budget_too_short_to_succeed_is_found_out_by_one_full_spin() {
        let (mut clock, deadline) = ticking();
        let mut spin = AdaptiveSpin::default();
        (0..MISSES_BEFORE_PROBE).for_each(|_| assert!(!spin.until_by(&mut clock, 100, deadline, || false)));
        assert_eq!(spin.budget(100), Duration::from_micros(100));
        let mut probe = spin;
        assert!(!probe.until_by(&mut clock, 100, deadline, || false));
        assert_eq!(probe.budget(100), BUDGET_MIN, "one probe, not many");
        let answer = clock.now + Duration::from_micros(30);
        let looked = std::cell::Cell::new(clock.now);
        struct Watched<'a>(&'a mut Ticking, &'a std::cell::Cell<Instant>);
        impl Clock for Watched<'_> {
            fn now(&mut self) -> Instant {
                self.1.set(self.0.now());
                self.1.get()
            }
        }
        assert!(spin.until_by(&mut Watched(&mut clock, &looked), 100, deadline, || looked.get() >= answer));
        assert_eq!(spin.budget(100), Duration::from_micros(100));
    }

    #[test]
    fn a_short_sleep_says_that_spinning_would_have_paid() {
        let (mut clock, deadline) = ticking();
        let mut spin = AdaptiveSpin::default();
        (0..10).for_each(|_| assert!(!spin.until_by(&mut clock, 100, deadline, || false)));
        spin.slept(100, Duration::from_micros(101));
        assert_eq!(spin.budget(100), BUDGET_MIN);
        spin.slept(100, Duration::from_micros(30));
        assert_eq!(spin.budget(100), Duration::from_micros(60), "and how long");
        spin.slept(100, Duration::from_micros(99));
        assert_eq!(spin.budget(100), Duration::from_micros(100));
    }

    #[test]
    fn a_grant_of_any_size_is_bounded() {
        let (mut clock, deadline) = ticking();
        let mut spin = AdaptiveSpin::default();
        (0..MISSES_BEFORE_PROBE).for_each(|_| assert!(!spin.until_by(&mut clock, u32::MAX, deadline, || false)));
        assert_eq!(spin.budget(u32::MAX), GRANT_MAX);
    }

    #[test]
    fn whoever_waits_for_many_bytes_may_spin_as_long_as_they_take_and_nobody_without_a_grant() {
        assert_eq!([0, 4096, 262_143].map(|bytes| granted_for(50, bytes)), [50; 3]);
        assert_eq!(granted_for(50, 4 << 20), 17 * 50);
        assert_eq!([0, 4 << 20, u64::MAX].map(|bytes| granted_for(0, bytes)), [0; 3]);
        assert_eq!(grant(granted_for(50, u64::MAX)), GRANT_MAX);
    }

    #[test]
    fn long_waits_teach_short_ones_nothing() {
        let (mut clock, deadline) = ticking();
        let mut spin = SpinBySize::default();
        (0..10).for_each(|_| assert!(!spin.of(4 << 20).until_by(&mut clock, 850, deadline, || false)));
        assert_eq!(spin.of(4 << 20).budget(850), BUDGET_MIN);
        assert_eq!(spin.of(4096).budget(50), BUDGET_START);
    }

    #[test]
    fn no_spin_passes_the_deadline() {
        let (mut clock, _) = ticking();
        let start = clock.now;
        let deadline = start + Duration::from_micros(5);
        assert!(!AdaptiveSpin::default().until_by(&mut clock, 1000, deadline, || false));
        assert!(clock.now <= deadline + Duration::from_micros(1));
    }
}
