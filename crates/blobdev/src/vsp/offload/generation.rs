//! A sequence lock in host-private memory: what a mutation moves, and what every entry is checked against.
//!
//! The writer makes it odd before its change can be seen by anyone and even after; an entry answers only while every
//! generation it depends on has the even value that was read before the control plane looked at its data. Source:
//! design §7.
//!
//! Orderings. The writer's side: `begin` must come before the change is visible, that is before SQLite's commit is
//! published by other stores, locks and system calls of the same thread. Whoever saw the change has acquired one of
//! these, so `begin` happens before everything it does or causes (another guest's next request included, which reaches
//! us by the release and acquire of a ring's write index), and by coherence our load then gives the odd value or a later
//! one. A sequentially consistent read-modify-write and a full fence behind it make this hold for publications that are
//! plain stores behind a barrier, as those to SQLite's shared index are. The reader's side: one acquire load per answer.
//! It stands behind the acquire load of the packet's arrival and so is not made before the request was sent; the answer
//! takes effect at that load. It need not be repeated after the bytes were read, because an entry's bytes never change:
//! they are pinned as long as the entry is referred to.

use std::sync::{PoisonError, Weak};

#[cfg(feature = "loom")]
use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(feature = "loom")]
use loom::sync::{Mutex, MutexGuard};
#[cfg(not(feature = "loom"))]
use std::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(feature = "loom"))]
use std::sync::{Mutex, MutexGuard};

use super::entry::Entry;

/// Watchers above which the dead ones are looked for at the next install.
const WATCHERS_SWEPT_AT: usize = 32;

#[derive(Default)]
struct Watchers {
    /// With the value that each expects.
    entries: Vec<(u64, Weak<Entry>)>,
    sweep_at: usize,
}

/// One generation: of a blob, of a container, of a policy.
#[derive(Default)]
pub struct Generation {
    value: AtomicU64,
    watchers: Mutex<Watchers>,
}

impl Generation {
    /// Makes one at rest.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value now; odd while a change is about to become visible.
    pub fn value(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    /// Before a change becomes visible: odd from now on, no entry that depends on it answers. Again does nothing.
    pub fn begin(&self) {
        self.value.fetch_or(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// After a change became visible, or failed: even, and the entries that depended on it leave their table at once, so
    /// that they pin nothing. Without `begin` before it does nothing.
    pub fn end(&self) {
        // Release: whoever reads the even value and then the data sees the change that lies before.
        let moved =
            self.value.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |value| (value & 1 == 1).then(|| value + 1));
        let Ok(before) = moved else { return };
        // The value moved before the list is taken: an install that comes later finds, under the same lock, that its
        // value is no longer the expected one, and one that came earlier is in the list. One that came between the two
        // expects the new value: it stays, for the next change.
        let gone: Vec<_> = self.watchers().entries.extract_if(.., |(expected, _)| *expected <= before).collect();
        for entry in gone.iter().filter_map(|(_, entry)| entry.upgrade()) {
            entry.invalidate();
        }
    }

    /// Has `end` invalidate `entry`; false if the value is not `expected` (even) any more.
    pub(super) fn watch(&self, expected: u64, entry: &Weak<Entry>) -> bool {
        let mut watchers = self.watchers();
        if expected & 1 == 1 || self.value() != expected {
            return false;
        }
        if watchers.entries.len() >= watchers.sweep_at.max(WATCHERS_SWEPT_AT) {
            watchers.entries.retain(|(_, entry)| entry.strong_count() > 0);
            watchers.sweep_at = 2 * watchers.entries.len();
        }
        watchers.entries.push((expected, Weak::clone(entry)));
        true
    }

    fn watchers(&self) -> MutexGuard<'_, Watchers> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
