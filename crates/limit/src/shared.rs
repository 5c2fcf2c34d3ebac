//! The memory that all processes share, and where what lies in it.
//!
//! One page of words for all, three pages for each client (its channel, its results), then the data. Words that
//! different processes write have cache lines of their own.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use vmbus::layout::PAGE_SIZE;
use vmbus::memory::{Region, Span, SpanList};

use crate::waiting;
use crate::{Failure, USAGE};

/// Most requests of a client at a time.
pub const IN_FLIGHT_MAX: usize = 16;
/// Most threads of the host.
const THREADS_MAX: usize = 16;
/// From this block size on, waiting processes spin only while a core is free: spinning takes time from copying.
const SPIN_BLOCK_MAX: usize = 64 << 10;

const GATE: usize = 0;
const READY: usize = 64;
const DEADLINE: usize = 128;
const FINISHED: usize = 192;
const BELLS: usize = 256;
const BELL_STRIDE: usize = 128;
const CLIENT_STRIDE: usize = 3 * PAGE_SIZE;

/// What is to be done; the same in every process.
pub struct Job {
    /// Where `big0.bin` and on lie.
    pub directory: String,
    /// How many files.
    pub blobs: usize,
    /// Size of each.
    pub blob_bytes: usize,
    /// Client processes.
    pub clients: usize,
    /// Size of one request.
    pub block_bytes: usize,
    /// Requests of a client at a time.
    pub in_flight: usize,
    /// Whether waiting begins with bounded spinning.
    pub spin: bool,
    /// Whether clients copy the bytes out.
    pub copy: bool,
}

impl Job {
    /// Reads the arguments in the order of the usage text.
    pub fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let [directory, blobs, blob_bytes, clients, block_bytes, in_flight, wait, place] = arguments else {
            return Err(USAGE.into());
        };
        let job = Self {
            directory: directory.clone(),
            blobs: blobs.parse()?,
            blob_bytes: blob_bytes.parse()?,
            clients: clients.parse()?,
            block_bytes: block_bytes.parse()?,
            in_flight: in_flight.parse()?,
            spin: wait == "spin",
            copy: place == "copy",
        };
        let sound = job.blobs > 0
            && job.clients > 0
            && (1..=IN_FLIGHT_MAX).contains(&job.in_flight)
            && job.block_bytes > 0
            && job.block_bytes.is_multiple_of(PAGE_SIZE)
            && job.blob_bytes.is_multiple_of(job.block_bytes);
        if sound { Ok(job) } else { Err(USAGE.into()) }
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> u32 {
        (self.blobs * (self.blob_bytes / self.block_bytes)) as u32
    }

    /// (file, offset) of a block.
    pub fn place(&self, block: u32) -> (usize, u64) {
        let per_blob = self.blob_bytes / self.block_bytes;
        (block as usize / per_blob, (block as usize % per_blob * self.block_bytes) as u64)
    }

    /// Opens the files.
    pub fn open(&self) -> Result<Vec<File>, Failure> {
        let open = |number| {
            let path = format!("{}/big{number}.bin", self.directory);
            File::open(&path).map_err(|error| format!("{path}: {error}").into())
        };
        (0..self.blobs).map(open).collect()
    }

    /// Threads of the host: one serves up to three clients best, more need the cores.
    pub fn threads(&self) -> usize {
        if self.clients < 4 { 1 } else { cores().min(THREADS_MAX) }
    }

    /// Whether waits begin with spinning.
    pub fn spins(&self) -> bool {
        self.spin && (self.block_bytes <= SPIN_BLOCK_MAX || self.clients + self.threads() <= cores())
    }

    fn memory_bytes(&self) -> usize {
        self.data(self.clients, 0)
    }

    fn data(&self, client: usize, slot: usize) -> usize {
        PAGE_SIZE + self.clients * CLIENT_STRIDE + (client * self.in_flight + slot) * self.block_bytes
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The mapping.
pub struct Shared(Arc<Region>);

impl Shared {
    /// Makes the memory, all of it touched.
    pub fn create(job: &Job) -> io::Result<(Self, OwnedFd)> {
        let (region, fd) = Region::create_sealed("pvblob-limit", job.memory_bytes())?;
        region.fill_zero(0, region.len());
        Ok((Self(Arc::new(region)), fd))
    }

    /// Maps the memory that the coordinator gave as standard input.
    pub fn inherit(job: &Job) -> Result<Self, Failure> {
        let region = Region::map_sealed(io::stdin().as_fd(), job.memory_bytes() as u64)?;
        Ok(Self(Arc::new(region)))
    }

    /// Counts runs; changes when one begins.
    pub fn gate(&self) -> &AtomicU32 {
        self.0.atomic_u32(GATE)
    }

    /// Begins the next run.
    pub fn open_gate(&self) {
        self.gate().fetch_add(1, Ordering::SeqCst);
        waiting::wake(self.gate(), u32::MAX);
        for thread in 0..THREADS_MAX {
            waiting::wake(self.bell(thread), 1);
        }
    }

    /// Processes that stand.
    pub fn ready(&self) -> &AtomicU32 {
        self.0.atomic_u32(READY)
    }

    /// Clients that have finished the run.
    pub fn finished(&self) -> &AtomicU32 {
        self.0.atomic_u32(FINISHED)
    }

    /// When the run ends, CLOCK_MONOTONIC in ns; 0 when every block is read once.
    pub fn deadline_ns(&self) -> u64 {
        self.wide(DEADLINE)
    }

    /// Sets it; the gate is opened afterwards.
    pub fn set_deadline(&self, ns: u64) {
        self.set_wide(DEADLINE, ns);
    }

    /// Counts what was submitted to a thread of the host.
    pub fn bell(&self, thread: usize) -> &AtomicU32 {
        self.0.atomic_u32(BELLS + thread * BELL_STRIDE)
    }

    /// Whether that thread sleeps.
    pub fn host_sleeps(&self, thread: usize) -> &AtomicU32 {
        self.0.atomic_u32(BELLS + thread * BELL_STRIDE + 64)
    }

    /// A client's words.
    pub fn client(&self, number: usize) -> ClientWords<'_> {
        ClientWords { shared: self, base: PAGE_SIZE + number * CLIENT_STRIDE }
    }

    /// A client's place for one block, as the target of file reads.
    pub fn target(&self, job: &Job, client: usize, slot: usize) -> SpanList {
        let mut list = SpanList::new();
        list.push(Span::new(Arc::clone(&self.0), job.data(client, slot), job.block_bytes));
        list
    }

    /// Copies a client's block out.
    pub fn copy_out(&self, job: &Job, client: usize, slot: usize, into: &mut [u8]) {
        self.0.read(job.data(client, slot), into);
    }

    /// Waits until *count* of the processes have counted themselves; `live` fails when one of them is gone.
    pub fn await_count(
        &self,
        word: &AtomicU32,
        count: u32,
        mut live: impl FnMut() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        loop {
            let found = word.load(Ordering::SeqCst);
            if found >= count {
                return Ok(());
            }
            waiting::sleep_while(word, found, Some(Duration::from_millis(500)));
            live()?;
        }
    }

    fn wide(&self, at: usize) -> u64 {
        let word = |at| u64::from(self.0.atomic_u32(at).load(Ordering::SeqCst));
        word(at) | word(at + 4) << 32
    }

    fn set_wide(&self, at: usize, value: u64) {
        self.0.atomic_u32(at).store(value as u32, Ordering::SeqCst);
        self.0.atomic_u32(at + 4).store((value >> 32) as u32, Ordering::SeqCst);
    }
}

/// The words of one client: its channel to the host, its results for the coordinator.
#[derive(Clone, Copy)]
pub struct ClientWords<'a> {
    shared: &'a Shared,
    base: usize,
}

impl<'a> ClientWords<'a> {
    fn word(self, at: usize) -> &'a AtomicU32 {
        self.shared.0.atomic_u32(self.base + at)
    }

    /// Requests submitted so far; the client's.
    pub fn submitted(self) -> &'a AtomicU32 {
        self.word(0)
    }

    /// The block each slot asks for; the client's.
    pub fn block(self, slot: usize) -> &'a AtomicU32 {
        self.word(64 + slot * 4)
    }

    /// Requests done so far; the host's.
    pub fn done(self) -> &'a AtomicU32 {
        self.word(192)
    }

    /// Whether the client sleeps; the client's.
    pub fn sleeps(self) -> &'a AtomicU32 {
        self.word(256)
    }

    /// Requests of the run.
    pub fn requests(self) -> &'a AtomicU32 {
        self.word(320)
    }

    /// When the last byte was there.
    pub fn finished_ns(self) -> u64 {
        self.shared.wide(self.base + 384)
    }

    /// Says when.
    pub fn set_finished_ns(self, ns: u64) {
        self.shared.set_wide(self.base + 384, ns);
    }

    /// Requests in a bucket of latencies.
    pub fn count(self, bucket: usize) -> &'a AtomicU32 {
        self.word(PAGE_SIZE + bucket * 4)
    }
}
