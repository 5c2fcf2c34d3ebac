//! Threads that move bytes between files and guests' pages, so that a slow disk holds up no ring and no loop: they
//! complete requests from the page cache, and write requests' content to it.
//!
//! Channels take turns, and none has more than a part of the threads: one whose files do not answer waits with its own
//! moves, not with others'. A few threads stay; more come when all are busy, for a disk is the faster the more reads it
//! knows of, and go again when they have nothing to do. What is queued is bounded by the guests' credits.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::events::{Event, EventQueue};
use super::files::{Reader, Run};
use super::offload::entry::Entry;
use super::request::HostRequest;
use crate::extents::Digest;

/// Most threads.
const THREADS_MAX: usize = 32;
/// Most reads of one channel at a time.
const PER_CHANNEL_MAX: usize = 8;
/// How long a thread beyond the first ones waits for work.
const IDLE: Duration = Duration::from_secs(5);

/// A request whose completion has been claimed, to be completed from files.
pub struct Fill {
    /// The request.
    pub request: Arc<HostRequest>,
    /// The response message.
    pub response: Vec<u8>,
    /// What is to be placed in the data buffer.
    pub runs: Vec<Run>,
    /// How much of it is in place already.
    pub done: u64,
    /// Who holds the bytes: an entry, or else the control plane, which is told by [`Event::Filled`].
    pub held_by: Option<Arc<Entry>>,
}

/// A request whose content is to be written to a file; [`Event::Stored`] tells of the end.
pub struct Store {
    /// The request.
    pub request: Arc<HostRequest>,
    /// Where its content goes.
    pub file: OwnedFd,
    /// The first byte of it there.
    pub offset: u64,
    /// What the written bytes are added to.
    pub digest: Arc<Mutex<Digest>>,
}

impl Store {
    fn run(self, events: &EventQueue) {
        let stored = {
            let mut digest = self.digest.lock().unwrap_or_else(PoisonError::into_inner);
            self.request.store_data(self.file.as_fd(), self.offset, &mut digest)
        };
        events.push(Event::Stored(self.request, stored));
    }
}

impl Fill {
    fn run(self, reader: &dyn Reader, events: &EventQueue) {
        self.request.fill(reader, &self.response, &self.runs, self.done);
        if self.held_by.is_none() {
            events.push(Event::Filled(self.request.id));
        }
    }
}

/// What a thread does for one request.
pub enum Move {
    /// From files to the guest.
    Fill(Fill),
    /// From the guest to a file.
    Store(Store),
}

impl Move {
    fn request(&self) -> &Arc<HostRequest> {
        match self {
            Self::Fill(fill) => &fill.request,
            Self::Store(store) => &store.request,
        }
    }

    /// The request that this completes, if it does.
    fn read(&self) -> Option<&Arc<HostRequest>> {
        match self {
            Self::Fill(fill) => Some(&fill.request),
            Self::Store(_) => None,
        }
    }
}

/// One channel's moves; it is gone when it has none.
struct Channel<T> {
    queue: VecDeque<T>,
    running: usize,
}

/// The queue: whose turn it is. Generic, for its rules do not depend on what waits.
struct Turns<T> {
    channels: HashMap<u64, Channel<T>>,
    /// Channels that have something queued and may run it, each once, in the order of their turns.
    next: VecDeque<u64>,
    per_channel_max: usize,
}

impl<T> Turns<T> {
    fn new(per_channel_max: usize) -> Self {
        Self { channels: HashMap::new(), next: VecDeque::new(), per_channel_max }
    }

    fn put(&mut self, key: u64, item: T) {
        let channel = self.channels.entry(key).or_insert_with(|| Channel { queue: VecDeque::new(), running: 0 });
        channel.queue.push_back(item);
        if channel.queue.len() == 1 && channel.running < self.per_channel_max {
            self.next.push_back(key);
        }
    }

    /// Takes what is next; `done` is owed for it.
    fn take(&mut self) -> Option<(u64, T)> {
        let key = self.next.pop_front()?;
        let channel = self.channels.get_mut(&key)?;
        let item = channel.queue.pop_front()?;
        channel.running += 1;
        if !channel.queue.is_empty() && channel.running < self.per_channel_max {
            self.next.push_back(key);
        }
        Some((key, item))
    }

    fn queued(&self) -> impl Iterator<Item = &T> {
        self.channels.values().flat_map(|channel| &channel.queue)
    }

    fn done(&mut self, key: u64) {
        let Some(channel) = self.channels.get_mut(&key) else { return };
        let was_full = channel.running == self.per_channel_max;
        channel.running -= 1;
        if channel.running == 0 && channel.queue.is_empty() {
            self.channels.remove(&key);
        } else if was_full && !channel.queue.is_empty() {
            self.next.push_back(key);
        }
    }
}

struct State {
    turns: Turns<Move>,
    /// The requests that are being completed from files, by id.
    reading: HashMap<u64, Arc<HostRequest>>,
    threads: usize,
    idle: usize,
    stopping: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Something can be taken, or the end has come.
    ready: Condvar,
    /// A thread has ended.
    ended: Condvar,
    threads_kept: usize,
    reader: Arc<dyn Reader>,
    events: Arc<EventQueue>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads and their queue.
pub struct Filler(Arc<Shared>);

impl Filler {
    /// Starts `threads` threads that stay, and report each finished request of the control plane's to `events`.
    pub fn start(threads: usize, reader: &Arc<dyn Reader>, events: &Arc<EventQueue>) -> std::io::Result<Self> {
        let (turns, reading) = (Turns::new(PER_CHANNEL_MAX), HashMap::new());
        let state = State { turns, reading, threads: 0, idle: 0, stopping: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            ready: Condvar::new(),
            ended: Condvar::new(),
            threads_kept: threads.clamp(1, THREADS_MAX),
            reader: Arc::clone(reader),
            events: Arc::clone(events),
        });
        for _ in 0..shared.threads_kept {
            spawn(&shared, &mut shared.lock())?;
        }
        Ok(Self(shared))
    }

    /// Queues a request.
    pub fn submit(&self, moving: Move) {
        let mut state = self.0.lock();
        state.turns.put(moving.request().channel_key(), moving);
        if state.idle == 0 && state.threads < THREADS_MAX && !state.turns.next.is_empty() {
            // The threads there are go on if the system has no more of them to give.
            let _ = spawn(&self.0, &mut state);
        }
        drop(state);
        self.0.ready.notify_one();
    }

    /// The requests that are completed from files, now or when their turn comes: how many, and the first `limit` of them.
    pub fn reads(&self, limit: usize) -> (usize, Vec<Arc<HostRequest>>) {
        let state = self.0.lock();
        let queued = || state.turns.queued().filter_map(Move::read);
        let shown = state.reading.values().chain(queued()).take(limit).map(Arc::clone).collect();
        (state.reading.len() + queued().count(), shown)
    }

    /// Finishes what is queued and ends the threads.
    pub fn stop(&self) {
        let mut state = self.0.lock();
        state.stopping = true;
        self.0.ready.notify_all();
        while state.threads > 0 {
            state = self.0.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn spawn(shared: &Arc<Shared>, state: &mut State) -> std::io::Result<()> {
    let its_own = Arc::clone(shared);
    let builder = std::thread::Builder::new().name(format!("pvblob-fill-{}", state.threads));
    builder.spawn(move || run(&its_own))?;
    state.threads += 1;
    Ok(())
}

fn run(shared: &Shared) {
    while let Some((key, moving)) = next(shared) {
        let read = moving.read().map(|request| request.id);
        // It ends here and not under our lock: perhaps this is the last reference to the request or the entry, whose end
        // takes other locks.
        match moving {
            Move::Fill(fill) => fill.run(&*shared.reader, &shared.events),
            Move::Store(store) => store.run(&shared.events),
        }
        let mut state = shared.lock();
        state.turns.done(key);
        let more = !state.turns.next.is_empty();
        let ended = read.and_then(|id| state.reading.remove(&id));
        drop(state);
        drop(ended);
        if more {
            shared.ready.notify_one();
        }
    }
    shared.lock().threads -= 1;
    shared.ended.notify_all();
}

/// Waits for the next move; `None` ends the thread.
fn next(shared: &Shared) -> Option<(u64, Move)> {
    let mut state = shared.lock();
    loop {
        if let Some(taken) = state.turns.take() {
            if let Some(request) = taken.1.read() {
                let request = Arc::clone(request);
                state.reading.insert(request.id, request);
            }
            return Some(taken);
        }
        // What is queued and may not run yet is left to the threads that run its channel's other moves.
        if state.stopping {
            return None;
        }
        state.idle += 1;
        if state.threads > shared.threads_kept {
            let waited = shared.ready.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            state.idle -= 1;
            if waited.1.timed_out() && state.threads > shared.threads_kept && state.turns.next.is_empty() {
                return None;
            }
        } else {
            state = shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_take_turns_and_none_has_more_than_its_part() {
        let mut turns = Turns::new(2);
        (0..5).for_each(|item| turns.put(1, item));
        turns.put(2, 100);
        let mut taken: Vec<_> = std::iter::from_fn(|| turns.take()).collect();
        assert_eq!(taken, [(1, 0), (2, 100), (1, 1)], "channel 1 waits for its own reads");
        turns.done(1);
        taken = std::iter::from_fn(|| turns.take()).collect();
        assert_eq!(taken, [(1, 2)]);
        turns.put(3, 200);
        assert_eq!(turns.take(), Some((3, 200)));
        (0..2).for_each(|_| turns.done(1));
        assert_eq!(std::iter::from_fn(|| turns.take()).map(|(_, item)| item).collect::<Vec<_>>(), [3, 4]);
        [1, 1, 2, 3].into_iter().for_each(|key| turns.done(key));
        assert!(turns.channels.is_empty() && turns.next.is_empty(), "a channel without reads costs nothing");
    }
}
