//! The host's data plane as one object: workers, fillers, channels, and the queue to the control plane.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vmbus::gpa::GpaError;
use vmbus::mapped::MappedRing;

use super::channel::{HostChannel, SharedGuestMemory};
use super::events::EventQueue;
use super::filler::Filler;
use super::worker::Worker;

/// Why a channel could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The ring's pages are not lent memory, or are shared with another ring.
    Pages(GpaError),
    /// The two rings do not divide the GPADL into at least two pages each (H15).
    Split {
        /// Pages of the whole GPADL.
        pages: usize,
        /// Page at which the host → guest ring was said to begin.
        downstream: usize,
    },
    /// The system refused a mapping or a descriptor.
    System(io::Error),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pages(error) => write!(f, "the ring's pages: {error}"),
            Self::Split { pages, downstream } => {
                write!(f, "rings of {downstream} and {} pages; each needs 2", pages.saturating_sub(*downstream))
            }
            Self::System(error) => write!(f, "mapping the rings: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// An open channel, the worker that serves it, and the pages its rings live in.
struct Serving {
    channel: Arc<HostChannel>,
    worker: Arc<Worker>,
    memory: SharedGuestMemory,
    pfns: Vec<u64>,
}

/// The engine. Dropping it without [`stop`](Self::stop) leaves its threads running.
pub struct Engine {
    events: Arc<EventQueue>,
    workers: Vec<Arc<Worker>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    filler: Filler,
    channels: Mutex<HashMap<u64, Serving>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Starts `workers` threads that serve rings and `fillers` threads that read files.
    pub fn start(workers: usize, fillers: usize) -> io::Result<Self> {
        let events = Arc::new(EventQueue::new()?);
        let workers: Vec<_> = (0..workers.max(1)).map(|_| Worker::new()).collect::<Result<_, _>>()?;
        let spawn = |(index, worker): (usize, &Arc<Worker>)| {
            let (worker, events) = (Arc::clone(worker), Arc::clone(&events));
            std::thread::Builder::new().name(format!("pvblob-ring-{index}")).spawn(move || worker.run(&events))
        };
        let threads = workers.iter().enumerate().map(spawn).collect::<Result<_, _>>()?;
        let filler = Filler::start(fillers, &events)?;
        Ok(Self { events, workers, threads: Mutex::new(threads), filler, channels: Mutex::default() })
    }

    /// The queue to the control plane.
    pub fn events(&self) -> &Arc<EventQueue> {
        &self.events
    }

    /// The threads that complete requests from files.
    pub fn filler(&self) -> &Filler {
        &self.filler
    }

    /// Opens a channel whose rings lie in the pages `pfns` of `memory`; returns the guest's ends of the doorbells.
    ///
    /// `downstream`: index in `pfns` of the first page of the host → guest ring. From now on these pages are the rings'
    /// alone: no request may name them.
    pub fn open_channel(
        &self,
        key: u64,
        memory: &SharedGuestMemory,
        pfns: &[u64],
        downstream: usize,
        credits: usize,
    ) -> Result<(OwnedFd, OwnedFd), OpenError> {
        if downstream < 2 || pfns.len() < downstream + 2 {
            return Err(OpenError::Split { pages: pfns.len(), downstream });
        }
        let (from_guest, to_guest) = {
            let mut memory = memory.write().unwrap_or_else(PoisonError::into_inner);
            let region = Arc::new(memory.map_linear(pfns).map_err(OpenError::Pages)?);
            memory.forbid(pfns);
            let split = downstream * vmbus::layout::PAGE_SIZE;
            let size = region.len();
            (MappedRing::new(Arc::clone(&region), 0, split), MappedRing::new(region, split, size - split))
        };
        let opened = self.serve(key, memory, pfns, credits, from_guest, to_guest);
        if opened.is_err() {
            // Whatever exists of it goes again: the guest is told that it has no channel.
            self.close_channel(key);
            memory.write().unwrap_or_else(PoisonError::into_inner).allow(pfns);
        }
        Ok(opened?)
    }

    fn serve(
        &self,
        key: u64,
        memory: &SharedGuestMemory,
        pfns: &[u64],
        credits: usize,
        from_guest: MappedRing,
        to_guest: MappedRing,
    ) -> io::Result<(OwnedFd, OwnedFd)> {
        let (channel, eventfd, socket) = HostChannel::open(key, credits, Arc::clone(memory), from_guest, to_guest)?;
        let (channel, worker) = (Arc::new(channel), Arc::clone(&self.workers[key as usize % self.workers.len()]));
        let serving = Serving {
            channel: Arc::clone(&channel),
            worker: Arc::clone(&worker),
            memory: Arc::clone(memory),
            pfns: pfns.to_vec(),
        };
        lock(&self.channels).insert(key, serving);
        worker.add(channel)?;
        Ok((eventfd, socket))
    }

    /// Closes a channel: its rings are unmapped and their pages ordinary again, what still runs completes into nothing.
    pub fn close_channel(&self, key: u64) {
        if let Some(serving) = lock(&self.channels).remove(&key) {
            serving.worker.remove(&serving.channel);
            serving.channel.close();
            serving.memory.write().unwrap_or_else(PoisonError::into_inner).allow(&serving.pfns);
        }
    }

    /// Ends all threads, after what is queued for filling is finished.
    pub fn stop(&self) {
        self.workers.iter().for_each(|worker| worker.stop());
        for thread in lock(&self.threads).drain(..) {
            let _ = thread.join();
        }
        self.filler.stop();
    }
}
