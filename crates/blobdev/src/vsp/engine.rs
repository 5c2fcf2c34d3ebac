//! The host's data plane as one object: workers, fillers, channels, and the queue to the control plane.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vmbus::gpa::GpaError;
use vmbus::mapped::MappedRing;
use vmbus::memory::Region;

use super::channel::{HostChannel, SharedGuestMemory, Terms};
use super::events::EventQueue;
use super::files::{Files, Reader, Run};
use super::filler::{Fill, Filler, Move, Store};
use super::offload::counters::Counters;
use super::offload::responder::Responder;
use super::offload::table::Table;
use super::polling::{Polling, PollingLimits};
use super::request::HostRequest;
use super::worker::Worker;

/// How large an engine is.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Threads that serve rings.
    pub workers: usize,
    /// Threads that move bytes between files and guests.
    pub fillers: usize,
    /// Offload entries; 0 turns offload off.
    pub offload_entries_max: usize,
    /// Who may poll.
    pub polling: PollingLimits,
}

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

/// What a guest and the host share besides the rings.
#[derive(Clone, Copy)]
pub struct GuestSide<'a> {
    /// The memory it lends.
    pub memory: &'a SharedGuestMemory,
    /// The page it reads its polling grant from; without one it is never granted.
    pub host_page: Option<&'a Arc<Region>>,
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
    filler: Arc<Filler>,
    reader: Arc<dyn Reader>,
    files: Files,
    offload: Arc<Table>,
    counters: Vec<Arc<Counters>>,
    polling: Arc<Polling>,
    channels: Mutex<HashMap<u64, Serving>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Starts the threads. `reader` reads the files, the system's unless a test stalls them.
    pub fn start(sizes: Sizes, reader: Arc<dyn Reader>) -> io::Result<Self> {
        let events = Arc::new(EventQueue::new()?);
        let polling = Arc::new(Polling::new(sizes.polling));
        let filler = Arc::new(Filler::start(sizes.fillers, &reader, &events)?);
        let offload = Table::new(sizes.offload_entries_max);
        let workers: Vec<_> = (0..sizes.workers.max(1)).map(|_| Worker::new()).collect::<Result<_, _>>()?;
        let counters: Vec<_> = workers.iter().map(|_| Arc::new(Counters::default())).collect();
        let spawn = |(index, (worker, counters)): (usize, (&Arc<Worker>, &Arc<Counters>))| {
            let (worker, events, polling) = (Arc::clone(worker), Arc::clone(&events), Arc::clone(&polling));
            let (reader, filler) = (Arc::clone(&reader), Arc::clone(&filler));
            let responder = Responder::new(Arc::clone(&offload), Arc::clone(counters), reader, filler);
            std::thread::Builder::new()
                .name(format!("pvblob-ring-{index}"))
                .spawn(move || worker.run(&events, &polling, responder))
        };
        let threads = workers.iter().zip(&counters).enumerate().map(spawn).collect::<Result<_, _>>()?;
        let (threads, files, channels) = (Mutex::new(threads), Files::default(), Mutex::default());
        Ok(Self { events, workers, threads, filler, reader, files, offload, counters, polling, channels })
    }

    /// The queue to the control plane.
    pub fn events(&self) -> &Arc<EventQueue> {
        &self.events
    }

    /// The files that answers are read from.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The offload entries.
    pub fn offload(&self) -> &Arc<Table> {
        &self.offload
    }

    /// The sums of the workers' counters, by name.
    pub fn offload_counters(&self) -> Vec<(&'static str, u64)> {
        let mut sums: Vec<(&'static str, u64)> = Vec::new();
        for counters in &self.counters {
            counters.each(|name, value| match sums.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += value,
                None => sums.push((name, value)),
            });
        }
        sums
    }

    /// What vain doorbells have cost: see [`BellCounters::read`](super::bells::BellCounters::read).
    pub fn doorbells(&self) -> (u64, u64) {
        let sum = |sums: (u64, u64), (in_vain, muted): (u64, u64)| (sums.0 + in_vain, sums.1 + muted);
        self.workers.iter().map(|worker| worker.bells().read()).fold((0, 0), sum)
    }

    /// Who reads the files.
    pub fn reader(&self) -> &dyn Reader {
        &*self.reader
    }

    /// Has the fillers complete a request with bytes that the control plane keeps until
    /// [`Filled`](super::events::Event::Filled); false if it was completed before.
    pub fn complete_with_files(&self, request: &Arc<HostRequest>, response: Vec<u8>, runs: Vec<Run>) -> bool {
        let claimed = request.claim_for_fill();
        if claimed {
            let fill = Fill { request: Arc::clone(request), response, runs, done: 0, held_by: None };
            self.filler.submit(Move::Fill(fill));
        }
        claimed
    }

    /// The requests that fillers complete; see [`Filler::reads`].
    pub fn reads(&self, limit: usize) -> (usize, Vec<Arc<HostRequest>>) {
        self.filler.reads(limit)
    }

    /// Has the fillers write a request's content to a file; [`Stored`](super::events::Event::Stored) follows.
    pub fn store(&self, store: Store) {
        self.filler.submit(Move::Store(store));
    }

    /// How full a channel's rings are; see [`HostChannel::ring_usage`].
    pub fn ring_usage(&self, key: u64) -> Option<[(u32, u32); 2]> {
        let channel = lock(&self.channels).get(&key).map(|serving| Arc::clone(&serving.channel));
        channel.and_then(|channel| channel.ring_usage())
    }

    /// What offload entries have answered a channel: requests and bytes; see [`HostChannel::hits`].
    pub fn hits(&self, key: u64) -> Option<[u64; 2]> {
        lock(&self.channels).get(&key).map(|serving| serving.channel.hits())
    }

    /// Has the entries of another policy scope answer a channel from now on.
    pub fn set_scope(&self, key: u64, scope: Option<u64>) {
        if let Some(serving) = lock(&self.channels).get(&key) {
            serving.channel.set_scope(scope);
        }
    }

    /// Opens a channel whose rings lie in the pages `pfns` of `memory`; returns the guest's ends of the doorbells.
    ///
    /// `downstream`: index in `pfns` of the first page of the host → guest ring. From now on these pages are the rings'
    /// alone: no request may name them.
    pub fn open_channel(
        &self,
        key: u64,
        guest: GuestSide<'_>,
        pfns: &[u64],
        downstream: usize,
        terms: Terms,
    ) -> Result<(OwnedFd, OwnedFd), OpenError> {
        if downstream < 2 || pfns.len() < downstream + 2 {
            return Err(OpenError::Split { pages: pfns.len(), downstream });
        }
        let memory = guest.memory;
        let (from_guest, to_guest) = {
            let mut memory = memory.write().unwrap_or_else(PoisonError::into_inner);
            let region = Arc::new(memory.map_linear(pfns).map_err(OpenError::Pages)?);
            memory.forbid(pfns);
            let split = downstream * vmbus::layout::PAGE_SIZE;
            let size = region.len();
            (MappedRing::new(Arc::clone(&region), 0, split), MappedRing::new(region, split, size - split))
        };
        let opened = self.serve(key, guest, pfns, terms, from_guest, to_guest);
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
        guest: GuestSide<'_>,
        pfns: &[u64],
        terms: Terms,
        from_guest: MappedRing,
        to_guest: MappedRing,
    ) -> io::Result<(OwnedFd, OwnedFd)> {
        let poller = self.polling.join(guest.host_page.map(Arc::clone));
        let memory = Arc::clone(guest.memory);
        let (channel, eventfd, socket) =
            HostChannel::open(key, terms, Arc::clone(&memory), from_guest, to_guest, poller)?;
        let (channel, worker) = (Arc::new(channel), Arc::clone(&self.workers[key as usize % self.workers.len()]));
        let serving =
            Serving { channel: Arc::clone(&channel), worker: Arc::clone(&worker), memory, pfns: pfns.to_vec() };
        lock(&self.channels).insert(key, serving);
        worker.add(channel)?;
        Ok((eventfd, socket))
    }

    /// Closes a channel: its rings are unmapped and their pages ordinary again, what still runs completes into nothing.
    pub fn close_channel(&self, key: u64) {
        if let Some(serving) = lock(&self.channels).remove(&key) {
            serving.worker.remove(&serving.channel);
            serving.channel.close();
            self.events.forget(key);
            self.polling.leave(serving.channel.poller());
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
        self.offload.clear();
    }
}
