//! Threads that complete requests from files: page cache → guest pages, so that a slow disk holds up no ring.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::events::{Event, EventQueue};
use super::request::{FileRun, HostRequest};

struct Job {
    request: Arc<HostRequest>,
    response: Vec<u8>,
    runs: Vec<FileRun>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    stopping: bool,
}

/// A fixed number of threads with one queue, bounded by the guests' credits.
pub struct Filler {
    shared: Arc<(Mutex<State>, Condvar)>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Filler {
    /// Starts `threads` threads that report each finished request to `events`.
    pub fn start(threads: usize, events: &Arc<EventQueue>) -> std::io::Result<Self> {
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let spawn = |index| {
            let (shared, events) = (Arc::clone(&shared), Arc::clone(events));
            std::thread::Builder::new().name(format!("pvblob-fill-{index}")).spawn(move || run(&shared, &events))
        };
        let threads = (0..threads.max(1)).map(spawn).collect::<Result<_, _>>()?;
        Ok(Self { shared, threads: Mutex::new(threads) })
    }

    /// Queues a request whose completion has been claimed for filling.
    pub fn submit(&self, request: Arc<HostRequest>, response: Vec<u8>, runs: Vec<FileRun>) {
        let (state, ready) = &*self.shared;
        state.lock().unwrap_or_else(PoisonError::into_inner).jobs.push_back(Job { request, response, runs });
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

fn run(shared: &(Mutex<State>, Condvar), events: &EventQueue) {
    let (state, ready) = shared;
    loop {
        let mut locked = state.lock().unwrap_or_else(PoisonError::into_inner);
        let job = loop {
            if let Some(job) = locked.jobs.pop_front() {
                break job;
            }
            if locked.stopping {
                return;
            }
            locked = ready.wait(locked).unwrap_or_else(PoisonError::into_inner);
        };
        drop(locked);
        job.request.fill(&job.response, &job.runs);
        events.push([Event::Filled(job.request.id)]);
    }
}
