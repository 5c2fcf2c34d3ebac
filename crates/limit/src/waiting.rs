//! How processes wait for a word of shared memory: a bounded spin, then the kernel.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{futex, sched_yield};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Spins before a process sleeps: about 200 µs here, more than a wake-up costs.
pub const SPINS_MAX: u32 = 20_000;

/// CLOCK_MONOTONIC in ns.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// One step of spinning; gives the core away now and then when others may need it.
pub fn spin(step: u32, crowded: bool) {
    spin_loop();
    if crowded && step.is_multiple_of(64) {
        sched_yield();
    }
}

/// Sleeps while *word* is *value*; may return early.
pub fn sleep_while(word: &AtomicU32, value: u32, at_most: Option<Duration>) {
    let timeout = at_most.and_then(|limit| Timespec::try_from(limit).ok());
    // A changed word, a signal or the timeout all mean: look again, which every caller does.
    let _ = futex::wait(word, futex::Flags::empty(), value, timeout.as_ref());
}

/// Wakes up to *count* sleepers.
pub fn wake(word: &AtomicU32, count: u32) {
    // It fails for no aligned word of ours.
    let _ = futex::wake(word, futex::Flags::empty(), count.min(i32::MAX as u32));
}

/// Waits until *word* is not *value*. *sleeps* says so to whoever changes it, who must look there after the change.
pub fn wait_while(word: &AtomicU32, value: u32, sleeps: &AtomicU32, spins_max: u32, crowded: bool) {
    let mut spins = 0;
    while word.load(Ordering::Acquire) == value {
        if spins < spins_max {
            spins += 1;
            spin(spins, crowded);
            continue;
        }
        // SeqCst on both words and both sides: either we see the change here, or the other side sees that we sleep.
        sleeps.store(1, Ordering::SeqCst);
        if word.load(Ordering::SeqCst) == value {
            sleep_while(word, value, None);
        }
        sleeps.store(0, Ordering::SeqCst);
    }
}
