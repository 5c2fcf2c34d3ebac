//! What the data plane tells the control plane: a queue, and a descriptor that is readable while the queue is not empty.
//!
//! The queue is bounded by the guests' credits and the offload table's bound: each request occupies one, each other event
//! belongs to a request, to an entry, or ends a channel.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::request::HostRequest;

/// One thing that happened.
pub enum Event {
    /// A valid request, to be answered by exactly one call of one of its `complete` functions.
    Request(Arc<HostRequest>),
    /// The guest no longer waits for this request (its id).
    Cancel(u64),
    /// A request that was to be completed from files is completed: the files are no longer read (its id).
    Filled(u64),
    /// Nobody refers to an offload entry any more (its token): what it pinned is free.
    Released(u64),
    /// The guest wrote something impossible into its rings: the channel (its key) is dead, and why.
    ChannelFailed(u64, String),
}

/// The queue. Any thread pushes; the control plane's one loop takes.
pub struct EventQueue {
    events: Mutex<VecDeque<Event>>,
    wake: OwnedFd,
}

impl EventQueue {
    /// Makes an empty queue.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { events: Mutex::new(VecDeque::new()), wake })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends events and wakes the loop if it may sleep, that is if the queue was empty.
    pub fn push(&self, new: impl IntoIterator<Item = Event>) {
        let mut events = self.lock();
        let was_empty = events.is_empty();
        events.extend(new);
        let is_empty = events.is_empty();
        drop(events);
        if was_empty && !is_empty {
            self.signal();
        }
    }

    fn signal(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Takes up to `limit` events. While some are left the descriptor stays readable.
    pub fn take(&self, limit: usize) -> Vec<Event> {
        // Cleared before the look: what is pushed after it signals again, because it finds the queue empty.
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
        let mut events = self.lock();
        let count = limit.min(events.len());
        let taken = events.drain(..count).collect();
        if !events.is_empty() {
            self.signal();
        }
        taken
    }
}

impl AsFd for EventQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
