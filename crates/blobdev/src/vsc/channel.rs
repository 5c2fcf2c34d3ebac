//! The guest's end of one open channel: submit, cancel, close. How completions come in: `receiving`.
//!
//! `submit` writes a packet and rings if the ring asks for it; `enqueue` leaves that to a later `flush`, so that many
//! packets cost one signal. Locks are held for a packet's time only, never across a wait, and no step of a request
//! allocates.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmbus::doorbell::GuestDoorbell;
use vmbus::incoming::IncomingRing;
use vmbus::mapped::MappedRing;
use vmbus::memory::Region;
use vmbus::outgoing::{OutgoingRing, WriteError};

use super::fork;
use super::guid::GuidSource;
use super::pending::{Outcome, PendingTable, Token};
use super::receiving::Receiving;
use super::seats::Seat;
use super::submission::{Submission, describe};
use super::waiting::{Waiter, Waiting};

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

/// The outgoing ring, with room for one packet's page list.
struct Sending {
    ring: OutgoingRing<MappedRing>,
    pfns: Vec<u64>,
}

/// The guest's end of one open channel. All methods may be called from any thread.
pub struct GuestChannel {
    sending: Mutex<Sending>,
    pub(super) receiving: Mutex<Receiving>,
    pub(super) table: Mutex<PendingTable>,
    pub(super) waiting: Waiting,
    pub(super) bell: GuestDoorbell,
    pub(super) control: OwnedFd,
    pub(super) host_page: Region,
    guids: GuidSource,
    /// The process it belongs to, as `fork` counts them.
    generation: u64,
    pub(super) seats: Mutex<Vec<Seat>>,
    closed: AtomicBool,
    corruption: Mutex<Option<String>>,
    /// Counts what a caller may wait for besides its own completion: credits, room, control messages.
    pub(super) changes: AtomicU64,
    pub(super) unknown_completions: AtomicU64,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GuestChannel {
    /// Takes over what the handshake produced. The rings were initialised when they were made.
    pub fn new(wiring: Wiring) -> io::Result<Self> {
        let half = wiring.rings.len() / 2;
        let outgoing = OutgoingRing::new(MappedRing::new(Arc::clone(&wiring.rings), 0, half));
        let incoming = IncomingRing::new(MappedRing::new(wiring.rings, half, half));
        Ok(Self {
            sending: Mutex::new(Sending { ring: outgoing, pfns: Vec::new() }),
            receiving: Mutex::new(Receiving::new(incoming)),
            table: Mutex::new(PendingTable::new(wiring.credits)),
            waiting: Waiting::default(),
            bell: wiring.bell,
            control: wiring.control,
            host_page: wiring.host_page,
            guids: GuidSource::new()?,
            generation: fork::generation(),
            seats: Mutex::default(),
            closed: AtomicBool::new(false),
            corruption: Mutex::new(None),
            changes: AtomicU64::new(0),
            unknown_completions: AtomicU64::new(0),
        })
    }

    // ---- sending

    /// Returns a GUID for a request that only reads: unique, its beginning random (design rule 4 wants more of a write).
    pub fn next_guid(&self) -> [u8; 16] {
        self.guids.next()
    }

    /// Sends one request on behalf of `waiter`, who is woken by its completion.
    pub fn submit(&self, waiter: &Arc<Waiter>, submission: &Submission<'_>) -> Result<Token, Refused> {
        self.write(waiter, submission, true)
    }

    /// Writes one request that the host sees at the next [`flush`](Self::flush), or at anybody's next `submit`.
    pub fn enqueue(&self, waiter: &Arc<Waiter>, submission: &Submission<'_>) -> Result<Token, Refused> {
        self.write(waiter, submission, false)
    }

    /// Shows the host what was enqueued, with at most one signal for all of it.
    pub fn flush(&self) {
        if lock(&self.sending).ring.commit() {
            self.bell.signal();
        }
    }

    fn write(&self, waiter: &Arc<Waiter>, submission: &Submission<'_>, commit: bool) -> Result<Token, Refused> {
        if self.is_closed() {
            return Err(Refused::Closed);
        }
        // Before the attempt: a change that makes it succeed next time is one that came after this look.
        waiter.see(self.changes());
        let capacity = submission.response.length as u32;
        // Content for the host says nothing about its answer, which comes when Python has stored it.
        let placed = submission.data.filter(|_| submission.data_valid == 0).map_or(0, |data| data.length as u64);
        let inserted = lock(&self.table).insert(Arc::clone(waiter), capacity, placed, submission.held());
        let Some(token) = inserted else { return Err(Refused::Busy) };
        let mut sending = lock(&self.sending);
        let Sending { ring, pfns } = &mut *sending;
        let sent = describe(submission, pfns)
            .ok_or(WriteError::TooLarge)
            .and_then(|device| ring.try_write_gpa_direct(token.transaction_id(), pfns, &device.encode()));
        match sent {
            Ok(()) => {
                if commit && ring.commit() {
                    self.bell.signal();
                }
                Ok(token)
            }
            Err(error) => {
                let refused = self.not_sent(ring, error);
                drop(sending);
                lock(&self.table).withdraw(token);
                Err(refused)
            }
        }
    }

    fn not_sent(&self, ring: &mut OutgoingRing<MappedRing>, error: WriteError) -> Refused {
        match error {
            WriteError::Full { needed } => {
                // What is enqueued must be seen first, or the host could make no room of it.
                if ring.commit() {
                    self.bell.signal();
                }
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
        if self.is_inherited() {
            return; // It is the parent's request, and the table's lock may be held for ever.
        }
        if lock(&self.table).abandon(token) && !self.is_closed() {
            let ring = &mut lock(&self.sending).ring;
            if ring.try_write_cancel(token.transaction_id()).is_ok() && ring.commit() {
                self.bell.signal();
            }
        }
    }

    /// Returns and frees a completed request's outcome; `None` while it is in flight.
    pub fn take(&self, token: Token) -> Option<Outcome> {
        lock(&self.table).take(token)
    }

    // ---- the end

    /// Ends the channel: nothing is sent any more, everyone who waits is woken.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake_all();
    }

    /// Tells whether this process is a fork's child and the channel its parent's: then none of its locks may be taken.
    pub fn is_inherited(&self) -> bool {
        self.generation != fork::generation()
    }

    /// Tells whether the channel has ended.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn corrupted(&self, reason: String) {
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
