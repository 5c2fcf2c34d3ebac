//! Buffers that belong to somebody else, and the gate that ends our use of them.
//!
//! Invariant: once [`Gate::close`] has returned, no byte is read from or written to a buffer behind this gate. So a request
//! can be completed, and its pages given back, while its task is still being stopped (design rule 2).

use std::io;
use std::sync::{PoisonError, RwLock};

/// Where a request's content lies. It may change while it is read: only copies are used.
pub trait Source: Send + Sync {
    /// Copies the bytes from `at` on. Every offset asked for lies inside what the caller announced.
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()>;
}

/// Where an answer's content goes.
pub trait Sink: Send + Sync {
    /// Places bytes at `at`. An error ends the transfer.
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
}

/// Open until it is closed, for ever then.
#[derive(Default)]
pub struct Gate(RwLock<bool>);

impl Gate {
    /// Runs `touch` unless the gate is closed; what runs has ended before `close` returns.
    pub fn pass<T>(&self, touch: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let closed = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if *closed { Err(io::ErrorKind::Interrupted.into()) } else { touch() }
    }

    /// Closes the gate and waits for what is passing it: one block at most.
    pub fn close(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = true;
    }
}
