//! The guest's end of one open channel: submit, drain, wait, cancel.
//!
//! `submit` writes a packet and rings if the ring asks for it; `drain` takes completions and wakes their owners; `wait`
//! puts the calling thread to sleep under the leader rule. Locks are held for a packet's time only, never across a wait.
//! Invariant: outside of `drain` and of the leader's short spin the incoming ring's interrupt mask is 0 and the ring has
//! been looked at since, so whoever sleeps is signalled (spec vmbus.md §1.5 step 5).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmbus::doorbell::GuestDoorbell;
use vmbus::incoming::IncomingRing;
use vmbus::mapped::MappedRing;
use vmbus::memory::Region;
use vmbus::outgoing::{OutgoingRing, WriteError};
use vmbus::packet::PacketKind;
use vmbus::poll::AdaptiveSpin;

use super::pending::{Matched, Outcome, PendingTable, Token};
use super::submission::{Submission, describe};
use super::waiting::{Waiter, Waiting};
use crate::wire::DeviceResponse;

/// Why a request was not sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// No credit or no room in the ring now: wait for a change and try again.
    Busy,
    /// The buffers break a limit of the device: too large, or empty.
    Invalid,
    /// The channel has ended.
    Closed,
}

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Woken {
    /// The awaited request is done; or, when none was named, something happened.
    Ready,
    /// The control socket is readable.
    Control,
    /// The time is over.
    TimedOut,
    /// A signal arrived: let its handlers run, then wait again.
    Interrupted,
    /// The channel has ended.
    Closed,
}

/// Descriptors and memory of a channel that the handshake has produced.
pub struct Wiring {
    /// Both rings, guest → host first.
    pub rings: Arc<Region>,
    /// Our doorbells.
    pub bell: GuestDoorbell,
    /// The socket of control messages, to be watched while waiting.
    pub control: OwnedFd,
    /// The read-only page with the host's polling grant.
    pub host_page: Region,
    /// Requests we may have in flight.
    pub credits: usize,
}

/// The guest's end of one open channel. All methods may be called from any thread.
pub struct GuestChannel {
    outgoing: Mutex<OutgoingRing<MappedRing>>,
    incoming: Mutex<IncomingRing<MappedRing>>,
    table: Mutex<PendingTable>,
    waiting: Waiting,
    spin: Mutex<AdaptiveSpin>,
    bell: GuestDoorbell,
    control: OwnedFd,
    host_page: Region,
    closed: AtomicBool,
    corruption: Mutex<Option<String>>,
    /// Counts what a caller may wait for besides its own completion: credits, room, control messages.
    changes: AtomicU64,
    unknown_completions: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GuestChannel {
    /// Takes over what the handshake produced. The rings were initialised when they were made.
    pub fn new(wiring: Wiring) -> Self {
        let half = wiring.rings.len() / 2;
        let outgoing = OutgoingRing::new(MappedRing::new(Arc::clone(&wiring.rings), 0, half));
        let incoming = IncomingRing::new(MappedRing::new(wiring.rings, half, half));
        Self {
            outgoing: Mutex::new(outgoing),
            incoming: Mutex::new(incoming),
            table: Mutex::new(PendingTable::new(wiring.credits)),
            waiting: Waiting::default(),
            spin: Mutex::new(AdaptiveSpin::default()),
            bell: wiring.bell,
            control: wiring.control,
            host_page: wiring.host_page,
            closed: AtomicBool::new(false),
            corruption: Mutex::new(None),
            changes: AtomicU64::new(0),
            unknown_completions: AtomicU64::new(0),
        }
    }

    // ---- sending

    /// Sends one request on behalf of `waiter`, who is woken by its completion.
    pub fn submit(&self, waiter: &Arc<Waiter>, submission: &Submission<'_>) -> Result<Token, Refused> {
        if self.is_closed() {
            return Err(Refused::Closed);
        }
        // Before the attempt: a change that makes it succeed next time is one that came after this look.
        waiter.see(self.changes());
        let (device, pfns) = describe(submission).ok_or(Refused::Invalid)?;
        let buffers = [Some(submission.request), Some(submission.response), submission.data];
        let pages = buffers.into_iter().flatten().map(|slice| Arc::clone(&slice.pages)).collect();
        let capacity = submission.response.length as u32;
        let Some(token) = lock(&self.table).insert(Arc::clone(waiter), capacity, pages) else {
            return Err(Refused::Busy);
        };
        let mut ring = lock(&self.outgoing);
        let sent = ring.try_write_gpa_direct(token.transaction_id(), &pfns, &device.encode());
        match sent {
            Ok(()) => {
                if ring.commit() {
                    self.bell.signal();
                }
                Ok(token)
            }
            Err(error) => {
                let refused = self.not_sent(&mut ring, error);
                drop(ring);
                lock(&self.table).withdraw(token);
                Err(refused)
            }
        }
    }

    fn not_sent(&self, ring: &mut OutgoingRing<MappedRing>, error: WriteError) -> Refused {
        match error {
            WriteError::Full { needed } => {
                // The host signals when that much room is there; if it is there now, the caller looks again at once.
                if ring.want_room(needed) == Ok(true) {
                    ring.clear_want();
                    self.changed();
                }
                Refused::Busy
            }
            WriteError::TooLarge => Refused::Invalid,
            WriteError::Corrupt(corruption) => {
                self.corrupted(corruption.to_string());
                Refused::Closed
            }
        }
    }

    /// Stops waiting for a request; if the host still has it, asks it to stop (design rule 5).
    ///
    /// A cancel that finds no room in the ring is not sent: the request then ends by its deadline.
    pub fn abandon(&self, token: Token) {
        if lock(&self.table).abandon(token) && !self.is_closed() {
            let mut ring = lock(&self.outgoing);
            if ring.try_write_cancel(token.transaction_id()).is_ok() && ring.commit() {
                self.bell.signal();
            }
        }
    }

    // ---- receiving

    /// Takes every completion that has arrived, wakes the owners, and leaves the ring armed: the next one signals.
    pub fn drain(&self) {
        let mut scratch = Vec::new();
        let mut woken: Vec<Arc<Waiter>> = Vec::new();
        let changes_before = self.changes();
        let mut ring = lock(&self.incoming);
        loop {
            ring.mask();
            let result = self.drain_once(&mut ring, &mut scratch, &mut woken);
            if ring.commit() {
                self.bell.signal();
            }
            if let Err(reason) = result {
                drop(ring);
                self.corrupted(reason);
                return;
            }
            if ring.prepare_sleep() {
                break;
            }
        }
        drop(ring);
        woken.iter().for_each(|waiter| waiter.wake());
        if self.changes() != changes_before {
            self.waiting.wake_for_change();
        }
    }

    /// Notes that something happened that others may wait for, and wakes those who do.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst); // SeqCst: a change counted before the look is seen by the look
        self.waiting.wake_for_change();
    }

    /// How many changes there have been.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    fn drain_once(
        &self,
        ring: &mut IncomingRing<MappedRing>,
        scratch: &mut Vec<u8>,
        woken: &mut Vec<Arc<Waiter>>,
    ) -> Result<(), String> {
        while let Some(packet) = ring.next(scratch).map_err(|corruption| corruption.to_string())? {
            if packet.kind != PacketKind::Completion {
                return Err(format!("a packet of type {:?}, which no host sends", packet.kind));
            }
            let answer = DeviceResponse::parse(packet.payload).map_err(|error| error.to_string())?;
            let matched = lock(&self.table).complete(packet.transaction_id, answer.error, answer.response_len);
            self.changes.fetch_add(1, Ordering::SeqCst);
            match matched {
                Matched::Waited(waiter, token) => {
                    waiter.note(token);
                    if !woken.iter().any(|one| Arc::ptr_eq(one, &waiter)) {
                        woken.push(waiter);
                    }
                }
                Matched::Late => {}
                Matched::Unknown => {
                    self.unknown_completions.fetch_add(1, Ordering::Relaxed); // a counter, ordered with nothing
                }
            }
        }
        Ok(())
    }

    /// Returns and frees a completed request's outcome; `None` while it is in flight.
    pub fn take(&self, token: Token) -> Option<Outcome> {
        lock(&self.table).take(token)
    }

    // ---- waiting

    /// Blocks the calling thread until `token` is done (or, without one, until anything happens), at most `timeout`.
    pub fn wait(&self, waiter: &Arc<Waiter>, token: Option<Token>, timeout: Duration) -> Woken {
        let deadline = Instant::now() + timeout;
        let woken = self.wait_entered(waiter, token, deadline);
        self.waiting.leave(waiter);
        waiter.take_completed(); // a thread asks for its one token; the notes are for event loops
        woken
    }

    fn wait_entered(&self, waiter: &Arc<Waiter>, token: Option<Token>, deadline: Instant) -> Woken {
        loop {
            let leads = self.waiting.enter(waiter, token.is_none());
            if leads {
                self.lead(token.is_some(), deadline);
            }
            if self.is_closed() {
                return Woken::Closed;
            }
            let ready = match token {
                Some(token) => lock(&self.table).is_done(token),
                None => waiter.see(self.changes()),
            };
            if ready {
                return Woken::Ready;
            }
            if let Some(woken) = self.sleep(waiter, leads, deadline) {
                return woken;
            }
        }
    }

    /// The leader's part before sleeping: spin as long as the host grants it and it pays, then drain and arm.
    fn lead(&self, may_spin: bool, deadline: Instant) {
        let granted_us = self.host_page.load_u32(0); // advice, ordered with nothing
        if may_spin && granted_us > 0 {
            let ring = lock(&self.incoming);
            lock(&self.spin).until(granted_us, deadline, || ring.has_data());
        }
        self.drain();
    }

    /// Sleeps once; `None` means look again.
    fn sleep(&self, waiter: &Arc<Waiter>, leads: bool, deadline: Instant) -> Option<Woken> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let watched: [BorrowedFd<'_>; 3] = [waiter.as_fd(), self.bell.as_fd(), self.control.as_fd()];
        let watched = if leads { &watched[..] } else { &watched[..1] };
        let mut fds: Vec<PollFd<'_>> = watched.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Some(Woken::TimedOut),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Some(Woken::Interrupted),
            Err(error) => {
                self.corrupted(format!("waiting failed: {error}"));
                return Some(Woken::Closed);
            }
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            waiter.clear();
        }
        if leads && ready[1] {
            self.clear_bell();
        }
        (leads && ready[2]).then_some(Woken::Control)
    }

    /// An event loop takes part in the waiting; true when it must watch the doorbell and the control socket itself.
    ///
    /// `for_change`: it waits for a change, not only for completions. It then calls [`drain`](Self::drain) once before it sleeps, and after each ring of the bell.
    pub fn watch(&self, waiter: &Arc<Waiter>, for_change: bool) -> bool {
        self.waiting.enter_loop(waiter, for_change)
    }

    /// An event loop (or a thread) takes part no longer.
    pub fn leave(&self, waiter: &Arc<Waiter>) {
        self.waiting.leave(waiter);
    }

    /// Wakes everyone who waits, to look again.
    pub fn wake_all(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.waiting.wake_all();
        if self.is_closed() {
            lock(&self.table).waiters().iter().for_each(|waiter| waiter.wake());
        }
    }

    /// Takes note of the host's signals. One may say that there is room in our ring, which is a change like any other.
    pub fn clear_bell(&self) {
        self.bell.clear();
        self.changed();
    }

    /// Our end of the doorbell: readable after the host signalled.
    pub fn bell(&self) -> &GuestDoorbell {
        &self.bell
    }

    /// The control socket, as this channel watches it.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    // ---- the end

    /// Ends the channel: nothing is sent any more, everyone who waits is woken.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake_all();
    }

    /// Tells whether the channel has ended.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn corrupted(&self, reason: String) {
        lock(&self.corruption).get_or_insert(reason);
        self.close();
    }

    /// Why the channel is corrupt, if it is.
    pub fn corruption(&self) -> Option<String> {
        lock(&self.corruption).clone()
    }

    /// (requests the host has not completed, those of them nobody waits for, completions that matched nothing).
    pub fn counts(&self) -> (usize, usize, u64) {
        let table = lock(&self.table);
        (table.in_flight(), table.abandoned(), self.unknown_completions.load(Ordering::Relaxed))
    }
}

/// Makes the memory of both rings, initialised and sealed; returns it with the descriptor to share.
pub fn create_rings(bytes_each: usize) -> io::Result<(Arc<Region>, OwnedFd)> {
    let (region, fd) = Region::create_sealed("pvblob-rings", 2 * bytes_each)?;
    let region = Arc::new(region);
    for base in [0, bytes_each] {
        MappedRing::new(Arc::clone(&region), base, bytes_each).initialise();
    }
    Ok((region, fd))
}
