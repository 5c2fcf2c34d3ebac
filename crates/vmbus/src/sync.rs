//! The atomics of the ring protocol: std's, or loom's when the protocol is model-checked.
//!
//! Invariant: nothing else in the crate picks between the two. The protocol uses explicit fences where it needs a total
//! order, never `SeqCst` accesses, because loom checks the former and treats the latter as acquire-release.

#[cfg(feature = "loom")]
pub use loom::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(not(feature = "loom"))]
pub use std::sync::atomic::{AtomicU32, Ordering, fence};
