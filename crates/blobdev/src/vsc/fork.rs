//! Which process we are: a counter that a fork's child raises.
//!
//! A child inherits every object of its parent, locks included, and a lock may have been held by a thread that does not
//! exist in the child. So what a child drops must not lock anything: it compares the generation it was made in with the
//! present one, and on a difference forgets instead of giving back (design rule 7).

use std::sync::atomic::{AtomicU64, Ordering};

static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Returns the number of forks between the first process of this family and this one.
pub fn generation() -> u64 {
    // Relaxed: the value changes only in a child that has a single thread at that moment.
    GENERATION.load(Ordering::Relaxed)
}

/// Notes that this process is a fork's child. To be called once, in the child, before anything else of this crate.
pub fn note_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}
