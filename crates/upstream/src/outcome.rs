//! What became of operations: a queue, and a descriptor that is readable while it holds something.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::http1::Fields;
use rustix::event::{EventfdFlags, eventfd};

/// What is known about a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The request cannot be written as HTTP/1.1; nothing was sent.
    Unsendable,
    /// No connection could be made; nothing was sent.
    Unreachable,
    /// A connection was made, but the peer is not who it should be; nothing was sent.
    Untrusted,
    /// It broke after a part of the request may have been read: the outcome is unknown.
    Broken,
    /// The answer's content ended before its end, or stopped coming.
    Truncated,
    /// Our own buffer or file refused, or the operation was cancelled.
    Local,
}

/// A failure and its reason in words.
#[derive(Debug)]
pub struct Failure {
    /// What is known.
    pub kind: FailureKind,
    /// Why, for people. Never holds a header or a target.
    pub text: String,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, text: impl ToString) -> Self {
        Self { kind, text: text.to_string() }
    }

    /// Takes it out of where it waited; what stays says the same in short.
    pub(crate) fn take(&mut self) -> Self {
        Self { kind: self.kind, text: std::mem::take(&mut self.text) }
    }
}

/// An answer's head, and its content if that is small.
#[derive(Debug)]
pub struct Head {
    /// HTTP status.
    pub status: u16,
    /// Names as they came and values, in order.
    pub fields: Fields,
    /// Length of the content if the answer says so.
    pub length: Option<u64>,
    /// The whole content if it was small enough; then the exchange is over.
    pub content: Option<Vec<u8>>,
    /// Whether the connection had carried a request before.
    pub reused: bool,
}

/// How an operation ended well.
#[derive(Debug)]
pub enum Outcome {
    /// Of `send`.
    Head(Head),
    /// Of `read`: fewer bytes than asked for only at the end.
    Bytes(Vec<u8>),
    /// Of `fill`: bytes placed; fewer than asked for only at the end. Of `warm`: connections made.
    Count(u64),
}

/// One operation's id and how it ended.
pub type Ended = (u64, Result<Outcome, Failure>);

/// Outcomes in the order in which they came.
pub struct Outcomes {
    queue: Mutex<VecDeque<Ended>>,
    wake: OwnedFd,
}

impl Outcomes {
    /// Makes an empty queue.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { queue: Mutex::default(), wake })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Ended>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Appends one and wakes the loop if it may sleep, that is if the queue was empty.
    pub fn push(&self, id: u64, result: Result<Outcome, Failure>) {
        let mut queue = self.lock();
        let was_empty = queue.is_empty();
        queue.push_back((id, result));
        drop(queue);
        if was_empty {
            self.signal();
        }
    }

    /// Takes up to `limit`. While some are left the descriptor stays readable.
    pub fn take(&self, limit: usize) -> Vec<Ended> {
        // Cleared before the look: what is pushed after it signals again, because it finds the queue empty.
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
        let mut queue = self.lock();
        let count = limit.min(queue.len());
        let taken = queue.drain(..count).collect();
        if !queue.is_empty() {
            self.signal();
        }
        taken
    }
}

impl AsFd for Outcomes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
