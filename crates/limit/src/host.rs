//! The host: threads that look for requests in the clients' words and read blocks into their memory.

use std::convert::Infallible;
use std::fs::File;
use std::os::fd::AsFd;
use std::process;
use std::sync::atomic::Ordering;
use std::thread;

use rustix::process::{Signal, set_parent_process_death_signal};
use vmbus::memory::SpanList;

use crate::Failure;
use crate::shared::{Job, Shared};
use crate::waiting::{self, SPINS_MAX};

/// Serves until the coordinator kills it.
pub fn serve(job: &Job) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let shared = Shared::inherit(job)?;
    let files = job.open()?;
    thread::scope(|scope| {
        for number in 0..job.threads() {
            let (shared, files) = (&shared, &files);
            scope.spawn(move || {
                let Err(failure) = answer(job, shared, files, number);
                // The other threads would serve on; the coordinator has to see that one is missing.
                eprintln!("pvblob-limit: {failure}");
                process::exit(1);
            });
        }
        shared.ready().fetch_add(1, Ordering::SeqCst);
        waiting::wake(shared.ready(), 1);
    });
    Ok(())
}

/// One thread: every n-th client is its own. Returns only when a read fails.
fn answer(job: &Job, shared: &Shared, files: &[File], number: usize) -> Result<Infallible, String> {
    let mine: Vec<usize> = (number..job.clients).step_by(job.threads()).collect();
    let slots = |client| (0..job.in_flight).map(move |slot| shared.target(job, client, slot)).collect();
    let targets: Vec<Vec<SpanList>> = mine.iter().map(|client| slots(*client)).collect();
    let (bell, sleeps) = (shared.bell(number), shared.host_sleeps(number));
    let spins_max = if job.spins() { SPINS_MAX } else { 0 };
    let crowded = job.clients > 1;
    let mut idle = 0;
    loop {
        let rung = bell.load(Ordering::SeqCst);
        let mut worked = false;
        for (client, targets) in mine.iter().zip(&targets) {
            worked |= answer_one(job, shared, files, *client, targets)?;
        }
        if worked {
            idle = 0;
        } else if idle < spins_max {
            idle += 1;
            waiting::spin(idle, crowded);
        } else {
            waiting::wait_while(bell, rung, sleeps, 0, crowded);
            idle = 0;
        }
    }
}

/// Answers a client's next request; returns whether there was one.
fn answer_one(job: &Job, shared: &Shared, files: &[File], client: usize, targets: &[SpanList]) -> Result<bool, String> {
    let words = shared.client(client);
    let done = words.done().load(Ordering::Relaxed);
    if words.submitted().load(Ordering::Acquire) == done {
        return Ok(false);
    }
    let slot = done as usize % job.in_flight;
    let (file, offset) = job.place(words.block(slot).load(Ordering::Relaxed));
    let read = targets[slot].read_from_file(0, files[file].as_fd(), offset, job.block_bytes);
    match read {
        Ok(bytes) if bytes == job.block_bytes => {}
        Ok(bytes) => return Err(format!("big{file}.bin at {offset}: {bytes} bytes instead of {}", job.block_bytes)),
        Err(error) => return Err(format!("big{file}.bin at {offset}: {error}")),
    }
    // Pairs with wait_while: the answer is there before we look whether its owner sleeps.
    words.done().store(done.wrapping_add(1), Ordering::SeqCst);
    if words.sleeps().load(Ordering::SeqCst) != 0 {
        waiting::wake(words.done(), 1);
    }
    Ok(true)
}
