//! Atomics from std, or from loom when its model checker runs the ring. Nothing else of the crate picks.

#[cfg(not(feature = "loom"))]
pub use std::sync::atomic::{AtomicU32, Ordering, fence};

#[cfg(feature = "loom")]
pub use loom::sync::atomic::{AtomicU32, Ordering, fence};
