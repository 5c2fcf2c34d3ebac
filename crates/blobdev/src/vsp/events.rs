//! What the data plane tells the control plane: a queue, and a descriptor that is readable while the queue is not empty.
//!
//! Guests' requests are taken in turns ([`lanes`](super::lanes)): whoever has many of them waits for itself, and others
//! do not wait for it. The queue is bounded by the guests' credits and the offload table's bound: each request occupies one, each other event
//! belongs to a request, to an entry, or ends a channel.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::lanes::Lanes;
use super::request::HostRequest;

/// One thing that happened.
pub enum Event {
    /// A valid request, to be answered by exactly one call of one of its `complete` functions.
    Request(Arc<HostRequest>),
    /// The guest no longer waits for this request (its id).
    Cancel(u64),
    /// A request that was to be completed from files is completed: the files are no longer read (its id).
    Filled(u64),
    /// A request's content has been written to where it was to be, or why not.
    Stored(Arc<HostRequest>, io::Result<()>),
    /// Nobody refers to an offload entry any more (its token): what it pinned is free.
    Released(u64),
    /// The guest wrote something impossible into its rings: the channel (its key) is dead, and why.
    ChannelFailed(u64, String),
}

/// What waits: the requests and cancels of each channel in a lane of its own, everything else before them.
struct Waiting {
    news: VecDeque<Event>,
    lanes: Lanes<Event>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.news.is_empty() && self.lanes.is_empty()
    }
}

/// The queue. Any thread pushes; the control plane's one loop takes.
pub struct EventQueue {
    waiting: Mutex<Waiting>,
    wake: OwnedFd,
}

impl EventQueue {
    /// Makes an empty queue.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { waiting: Mutex::new(Waiting { news: VecDeque::new(), lanes: Lanes::new() }), wake })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what is no guest's to delay: it is taken before any guest's requests.
    pub fn push(&self, event: Event) {
        self.add(|waiting| waiting.news.push_back(event));
    }

    /// Adds requests and cancels of one channel, in their order.
    pub fn push_from(&self, channel: u64, events: impl IntoIterator<Item = Event>) {
        self.add(|waiting| waiting.lanes.put(channel, events));
    }

    /// Wakes the loop if it may sleep, that is if the queue was empty.
    fn add(&self, add: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.lock();
        let was_empty = waiting.is_empty();
        add(&mut waiting);
        let is_empty = waiting.is_empty();
        drop(waiting);
        if was_empty && !is_empty {
            self.signal();
        }
    }

    fn signal(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Takes up to `limit` events, of each channel up to `share` in turns. While some are left the descriptor stays
    /// readable.
    pub fn take(&self, limit: usize, share: usize) -> Vec<Event> {
        // Cleared before the look: what is pushed after it signals again, because it finds the queue empty.
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
        let mut waiting = self.lock();
        let count = limit.min(waiting.news.len());
        let mut taken: Vec<Event> = waiting.news.drain(..count).collect();
        waiting.lanes.take(limit, share.max(1), &mut taken);
        if !waiting.is_empty() {
            self.signal();
        }
        taken
    }

    /// How many requests and cancels of a channel wait to be taken.
    pub fn queued(&self, channel: u64) -> usize {
        self.lock().lanes.len_of(channel)
    }

    /// The requests that wait to be taken: how many, and the first `limit` of them, channel by channel.
    pub fn requests(&self, limit: usize) -> (usize, Vec<Arc<HostRequest>>) {
        let waiting = self.lock();
        let request = |event: &'_ Event| match event {
            Event::Request(request) => Some(Arc::clone(request)),
            _ => None,
        };
        let shown = waiting.lanes.iter().filter_map(request).take(limit).collect();
        (waiting.lanes.iter().filter(|event| matches!(event, Event::Request(_))).count(), shown)
    }

    /// Drops what waits of a channel that is closed: nobody waits for its requests any more.
    pub fn forget(&self, channel: u64) {
        // Dropped when the lock is free again: a request that ends so completes, and lets go of pages.
        let forgotten = self.lock().lanes.remove(channel);
        drop(forgotten);
    }
}

impl AsFd for EventQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
