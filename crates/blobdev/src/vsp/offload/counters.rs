//! What the offload path counts. Each worker has its own counters, so that counting shares no cache line.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a request went to Python without a look at the table, or although there was an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Ineligible {
    /// Neither GET nor HEAD.
    Method,
    /// It brings content.
    Content,
    /// A query.
    Query,
    /// A field that is not on the list, or one of the list twice.
    Field,
    /// A field of the list with a value that is not fully understood.
    Value,
    /// A range beyond the end.
    Range,
    /// A condition that does not hold and for which the entry has no answer.
    Condition,
    /// The answer does not fit the guest's buffers.
    Room,
}

/// The names of [`Ineligible`], in its order.
pub const INELIGIBLE_NAMES: [&str; 8] = ["method", "content", "query", "field", "value", "range", "condition", "room"];

/// One worker's counters; it alone adds to them. A cache line of its own for each worker.
#[derive(Default)]
#[repr(align(128))]
pub struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    absent: AtomicU64,
    cold: AtomicU64,
    bytes: AtomicU64,
    ineligible: [AtomicU64; INELIGIBLE_NAMES.len()],
}

/// Adds without a locked instruction: there is one writer, readers may be late.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn hit(&self, bytes: u64) {
        add(&self.hits, 1);
        add(&self.bytes, bytes);
    }

    pub(super) fn miss(&self) {
        add(&self.misses, 1);
    }

    pub(super) fn absent(&self) {
        add(&self.absent, 1);
    }

    pub(super) fn cold(&self) {
        add(&self.cold, 1);
    }

    pub(super) fn ineligible(&self, reason: Ineligible) {
        add(&self.ineligible[reason as usize], 1);
    }

    /// Calls `sum` with each counter's name and value.
    pub fn each(&self, mut sum: impl FnMut(&'static str, u64)) {
        let known = [&self.hits, &self.misses, &self.absent, &self.cold, &self.bytes];
        let named = ["hits", "misses", "absent", "cold", "bytes"].into_iter().zip(known);
        for (name, counter) in named.chain(INELIGIBLE_NAMES.into_iter().zip(&self.ineligible)) {
            sum(name, counter.load(Ordering::Relaxed));
        }
    }
}
