//! `pvblob-limit`: the least that a host service over shared memory can do, as the measure of what ours does.
//!
//! Client processes put block numbers into words of shared memory; the threads of a host process pread those blocks of
//! plain files straight into the client's part of that memory; the client copies them out, or leaves them there. There
//! is no protocol, no check and no Azure: only the page cache, one copy and the waiting.
//!
//! ```text
//! coordinator ─ spawns ─▶ host, clients (memory as standard input)     stdin: "run SECONDS"    stdout: JSON lines
//! ```
//! The coordinator prints the process ids when all stand, and for each `run` what it took, from the start line to the
//! last byte of the slowest client; SECONDS 0 reads every block once. Its end is the end of all.

mod client;
mod histogram;
mod host;
mod shared;
mod waiting;

use std::env;
use std::error::Error;
use std::io::{self, BufRead};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::Ordering;

use crate::shared::{Job, Shared};

/// What may go wrong; every message says what and where.
type Failure = Box<dyn Error>;

const USAGE: &str = "usage: pvblob-limit DIRECTORY BLOBS BLOB_BYTES CLIENTS BLOCK_BYTES IN_FLIGHT spin|block copy|in-place\n\
    reads DIRECTORY/big0.bin and on; then on standard input: run SECONDS";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("as-host") => Job::parse(&arguments[1..]).and_then(|job| host::serve(&job)),
        Some("as-client") => Job::parse(&arguments[2..])
            .and_then(|job| client::serve(&job, arguments[1].parse()?).map(|never| match never {})),
        _ => Job::parse(&arguments).and_then(|job| coordinate(&job, &arguments)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("pvblob-limit: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Starts the processes, runs what standard input says, ends them.
fn coordinate(job: &Job, arguments: &[String]) -> Result<(), Failure> {
    let (shared, memory) = Shared::create(job)?;
    let mut children = Children(Vec::new());
    let spawn = |role: &[String]| -> io::Result<Child> {
        let memory = Stdio::from(memory.try_clone()?);
        Command::new("/proc/self/exe").args(role).args(arguments).stdin(memory).stdout(Stdio::null()).spawn()
    };
    children.0.push(spawn(&["as-host".into()])?);
    for number in 0..job.clients {
        children.0.push(spawn(&["as-client".into(), number.to_string()])?);
    }
    shared.await_count(shared.ready(), job.clients as u32 + 1, || children.all_live())?;
    let pids: Vec<String> = children.0[1..].iter().map(|child| child.id().to_string()).collect();
    println!("{{\"host_pid\":{},\"client_pids\":[{}]}}", children.0[0].id(), pids.join(","));
    for line in io::stdin().lock().lines() {
        let line = line?;
        let seconds: f64 = line.strip_prefix("run ").ok_or(USAGE)?.parse()?;
        run(job, &shared, &mut children, seconds)?;
    }
    Ok(())
}

/// Opens the gate, waits for every client, prints what they did.
fn run(job: &Job, shared: &Shared, children: &mut Children, seconds: f64) -> Result<(), Failure> {
    shared.finished().store(0, Ordering::SeqCst);
    let started = waiting::now_ns();
    let deadline = if seconds > 0.0 { started + (seconds * 1e9) as u64 } else { 0 };
    shared.set_deadline(deadline);
    shared.open_gate();
    shared.await_count(shared.finished(), job.clients as u32, || children.all_live())?;
    let (mut requests, mut last, mut total) = (0, started, histogram::Histogram::new());
    for number in 0..job.clients {
        let client = shared.client(number);
        requests += u64::from(client.requests().load(Ordering::SeqCst));
        last = last.max(client.finished_ns());
        total.add_words(|bucket| client.count(bucket).load(Ordering::Relaxed));
    }
    let seconds = (last - started) as f64 / 1e9;
    println!("{{\"seconds\":{seconds},\"requests\":{requests},\"latencies\":[{}]}}", total.as_pairs());
    Ok(())
}

/// The processes; killed and reaped with this.
struct Children(Vec<Child>);

impl Children {
    fn all_live(&mut self) -> Result<(), Failure> {
        for child in &mut self.0 {
            if let Some(status) = child.try_wait()? {
                return Err(format!("process {} ended: {status}", child.id()).into());
            }
        }
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself; there is nobody to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
