//! Threads that complete requests from files: page cache → guest pages, so that a slow disk holds up no ring.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::events::{Event, EventQueue};
use super::files::{Reader, Run};
use super::offload::entry::Entry;
use super::request::HostRequest;

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

#[derive(Default)]
struct State {
    fills: VecDeque<Fill>,
    stopping: bool,
}

/// A fixed number of threads with one queue, bounded by the guests' credits.
pub struct Filler {
    shared: Arc<(Mutex<State>, Condvar)>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Filler {
    /// Starts `threads` threads that report each finished request to `events`.
    pub fn start(threads: usize, reader: &Arc<dyn Reader>, events: &Arc<EventQueue>) -> std::io::Result<Self> {
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let spawn = |index| {
            let (shared, reader, events) = (Arc::clone(&shared), Arc::clone(reader), Arc::clone(events));
            std::thread::Builder::new()
                .name(format!("pvblob-fill-{index}"))
                .spawn(move || run(&shared, &*reader, &events))
        };
        let threads = (0..threads.max(1)).map(spawn).collect::<Result<_, _>>()?;
        Ok(Self { shared, threads: Mutex::new(threads) })
    }

    /// Queues a request.
    pub fn submit(&self, fill: Fill) {
        let (state, ready) = &*self.shared;
        state.lock().unwrap_or_else(PoisonError::into_inner).fills.push_back(fill);
        ready.notify_one();
    }

    /// Finishes what is queued and ends the threads.
    pub fn stop(&self) {
        let (state, ready) = &*self.shared;
        state.lock().unwrap_or_else(PoisonError::into_inner).stopping = true;
        ready.notify_all();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
    }
}

fn run(shared: &(Mutex<State>, Condvar), reader: &dyn Reader, events: &EventQueue) {
    let (state, ready) = shared;
    loop {
        let mut locked = state.lock().unwrap_or_else(PoisonError::into_inner);
        let fill = loop {
            if let Some(fill) = locked.fills.pop_front() {
                break fill;
            }
            if locked.stopping {
                return;
            }
            locked = ready.wait(locked).unwrap_or_else(PoisonError::into_inner);
        };
        drop(locked);
        fill.request.fill(reader, &fill.response, &fill.runs, fill.done);
        if fill.held_by.is_none() {
            events.push([Event::Filled(fill.request.id)]);
        }
    }
}
