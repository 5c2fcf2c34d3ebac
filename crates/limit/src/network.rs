//! `pvblob-network`: a network in between, for benchmarks: it carries TCP connections and delays every byte.
//!
//! What it carries it does not read. A byte that arrives leaves DELAY_MS later, in order; the first bytes of a connection
//! leave two delays later still, because over a network they could not have been sent before the handshake's round
//! trip, while here the kernel accepts at once. What is under way is bounded as a TCP window is.
//!
//! ```text
//! pvblob-network PORT DELAY_MS      stdout: {"port": …} once; for each line of stdin {"connections": …, "bytes_down": …}
//! ```
//! It ends with its standard input.

use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::net::sockopt::set_tcp_congestion;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, stdin};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

const USAGE: &str = "usage: pvblob-network PORT DELAY_MS\n\
    carries connections to 127.0.0.1:PORT, every byte DELAY_MS late; a line on standard input asks for its counters";
/// One read. Copied and not spliced: with splice(2) a carried GiB costs 0.15 CPU s less here, but processes that have a
/// connection each then spend 0.5 s more on receiving it, which no network would make them.
///
/// With [`READS_MAX`] of them under way, 4 MiB in each direction of a connection.
const READ_SIZE: usize = 128 * 1024;
const READS_MAX: usize = 32;

/// What was carried. Relaxed everywhere: counters for people.
#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    /// Content and heads of answers, as they were encrypted.
    bytes_down: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match carry().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("pvblob-network: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn carry() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [port, delay_ms] = &arguments[..] else { return Err(USAGE.into()) };
    let (port, delay) = (port.parse()?, Duration::from_millis(delay_ms.parse()?));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(&format!("{{\"port\": {}}}", listener.local_addr()?.port()))?;
    let counters = Arc::new(Counters::default());
    tokio::spawn(accept(listener, port, delay, Arc::clone(&counters)));
    let mut asked = BufReader::new(stdin()).lines();
    while asked.next_line().await?.is_some() {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (connections, bytes) = (of(&counters.connections), of(&counters.bytes_down));
        say(&format!("{{\"connections\": {connections}, \"bytes_down\": {bytes}}}"))?;
    }
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

async fn accept(listener: TcpListener, port: u16, delay: Duration, counters: Arc<Counters>) {
    // A descriptor that cannot be had now may be had later: the client waits in the backlog.
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        counters.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(connect(near, port, delay, Arc::clone(&counters)));
    }
}

/// Carries one connection until either side ends it: its other half is then ended too, when all has arrived.
async fn connect(near: TcpStream, port: u16, delay: Duration, counters: Arc<Counters>) {
    let established = Instant::now() + 2 * delay;
    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    if prepare(&near).and(prepare(&far)).is_err() {
        return;
    }
    let ((near_reads, near_writes), (far_reads, far_writes)) = (near.into_split(), far.into_split());
    tokio::spawn(direction(near_reads, far_writes, established, delay, None));
    direction(far_reads, near_writes, established, delay, Some(counters)).await;
}

/// Has the kernel send what it gets at once. A congestion control that paces (bbr, some machines' default) would be a
/// second network after this one, and wake whoever receives for every few pages.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    Ok(set_tcp_congestion(stream, "reno")?)
}

async fn direction(
    mut from: OwnedReadHalf,
    to: OwnedWriteHalf,
    established: Instant,
    delay: Duration,
    counters: Option<Arc<Counters>>,
) {
    let (sender, under_way) = mpsc::channel::<(Instant, Bytes)>(READS_MAX);
    let arriving = tokio::spawn(arrive(under_way, to));
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_SIZE);
        match from.read_buf(&mut buffer).await {
            Ok(count) if count > 0 => {
                if let Some(counters) = &counters {
                    counters.bytes_down.fetch_add(count as u64, Ordering::Relaxed);
                }
                let due = Instant::now().max(established) + delay;
                if sender.send((due, buffer.split().freeze())).await.is_err() {
                    break;
                }
            }
            _ => break,
        }
    }
    drop(sender);
    // Either way its end has been passed on.
    let _ = arriving.await;
}

async fn arrive(mut under_way: mpsc::Receiver<(Instant, Bytes)>, mut to: OwnedWriteHalf) {
    let Ok(alarm) = Alarm::new() else { return };
    while let Some((due, bytes)) = under_way.recv().await {
        if alarm.wait_until(due).await.is_err() {
            return;
        }
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// The kernel's timer: the runtime's own counts in milliseconds, and would make a delay of 5 one of 6. It is read as a
/// pipe is.
struct Alarm(pipe::Receiver);

impl Alarm {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self(pipe::Receiver::from_owned_fd_unchecked(timer)?))
    }

    async fn wait_until(&self, due: Instant) -> io::Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec {
            it_interval: never,
            it_value: Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() },
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        loop {
            self.0.readable().await?;
            match self.0.try_read(&mut [0; 8]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read.map(|_| ()),
            }
        }
    }
}
