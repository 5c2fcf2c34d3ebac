//! A client: keeps its requests in flight, copies the blocks out or leaves them, counts what it took.

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::pread;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::Failure;
use crate::histogram::{BUCKETS, Histogram};
use crate::shared::{ClientWords, IN_FLIGHT_MAX, Job, Shared};
use crate::waiting::{self, SPINS_MAX, now_ns};

/// Carries out runs until the coordinator kills it.
pub fn serve(job: &Job, number: usize) -> Result<Infallible, Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let shared = Shared::inherit(job)?;
    let mut client = Client::new(job, &shared, number);
    client.check()?;
    let never_told = AtomicU32::new(0);
    let mut gate = shared.gate().load(Ordering::SeqCst);
    shared.ready().fetch_add(1, Ordering::SeqCst);
    waiting::wake(shared.ready(), 1);
    loop {
        waiting::wait_while(shared.gate(), gate, &never_told, 0, true);
        gate = shared.gate().load(Ordering::SeqCst);
        client.run(shared.deadline_ns());
        shared.finished().fetch_add(1, Ordering::SeqCst);
        waiting::wake(shared.finished(), 1);
    }
}

struct Client<'a> {
    job: &'a Job,
    shared: &'a Shared,
    words: ClientWords<'a>,
    number: usize,
    thread: usize,
    /// Where blocks are copied to: reused, as a program would.
    private: Vec<u8>,
    random: u64,
    begun_ns: [u64; IN_FLIGHT_MAX],
}

impl<'a> Client<'a> {
    fn new(job: &'a Job, shared: &'a Shared, number: usize) -> Self {
        Self {
            job,
            shared,
            words: shared.client(number),
            number,
            thread: number % job.threads(),
            private: vec![1; job.block_bytes],
            random: 88_172_645_463_325_252 + number as u64 * 7919,
            begun_ns: [0; IN_FLIGHT_MAX],
        }
    }

    /// Reads one block and compares it with the file.
    fn check(&mut self) -> Result<(), Failure> {
        let block = self.any_block();
        self.submit(block);
        self.await_done(0);
        self.shared.copy_out(self.job, self.number, 0, &mut self.private);
        let (file, offset) = self.job.place(block);
        let mut expected = vec![0; self.job.block_bytes];
        let read = pread(self.job.open()?[file].as_fd(), &mut expected, offset)?;
        if read == expected.len() && expected == self.private {
            return Ok(());
        }
        Err(format!("big{file}.bin at {offset}: what came through shared memory is not what lies in the file").into())
    }

    /// xorshift: cheap, and far from any order that a cache would like.
    fn any_block(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % u64::from(self.job.blocks())) as u32
    }

    fn submit(&mut self, block: u32) {
        let submitted = self.words.submitted().load(Ordering::Relaxed);
        let slot = submitted as usize % self.job.in_flight;
        self.words.block(slot).store(block, Ordering::Relaxed);
        self.begun_ns[slot] = now_ns();
        self.words.submitted().store(submitted.wrapping_add(1), Ordering::SeqCst);
        self.shared.bell(self.thread).fetch_add(1, Ordering::SeqCst);
        if self.shared.host_sleeps(self.thread).load(Ordering::SeqCst) != 0 {
            waiting::wake(self.shared.bell(self.thread), 1);
        }
    }

    fn await_done(&self, done: u32) {
        let spins_max = if self.job.spins() { SPINS_MAX } else { 0 };
        waiting::wait_while(self.words.done(), done, self.words.sleeps(), spins_max, self.job.clients > 1);
    }

    /// Reads blocks until the deadline has passed, or, when it is 0, its share of all blocks once.
    fn run(&mut self, deadline_ns: u64) {
        let (job, stride) = (self.job, self.job.clients as u32);
        let share = (job.blocks() + stride - 1 - self.number as u32) / stride;
        let mut latencies = Histogram::new();
        let (mut begun, mut ended, mut now) = (0, 0, now_ns());
        loop {
            let more = if deadline_ns == 0 { begun < share } else { now < deadline_ns };
            if more && ((begun - ended) as usize) < job.in_flight {
                let block = if deadline_ns == 0 { self.number as u32 + begun * stride } else { self.any_block() };
                self.submit(block);
                begun += 1;
                continue;
            }
            if begun == ended {
                break;
            }
            let done = self.words.submitted().load(Ordering::Relaxed).wrapping_sub(begun - ended);
            self.await_done(done);
            let slot = done as usize % job.in_flight;
            if job.copy {
                self.shared.copy_out(job, self.number, slot, &mut self.private);
            }
            now = now_ns();
            latencies.record(now - self.begun_ns[slot]);
            ended += 1;
        }
        self.report(ended, now, &latencies);
    }

    fn report(&self, requests: u32, finished_ns: u64, latencies: &Histogram) {
        self.words.requests().store(requests, Ordering::SeqCst);
        self.words.set_finished_ns(finished_ns);
        for bucket in 0..BUCKETS {
            self.words.count(bucket).store(latencies.counts()[bucket], Ordering::Relaxed);
        }
    }
}
