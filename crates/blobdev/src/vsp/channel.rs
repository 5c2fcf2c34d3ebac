//! The host's end of one open channel: takes packets off its ring, judges them, writes completions.
//!
//! A packet is taken only when its completion has a reserved place in the guest's ring (design rule 1), so completing
//! never waits, and a guest that does not drain its ring stops its own requests and nothing else. Whatever the guest
//! writes is copied once and judged as a copy.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use vmbus::corruption::Corruption;
use vmbus::doorbell::{self, HostDoorbell};
use vmbus::gpa::GuestMemory;
use vmbus::incoming::IncomingRing;
use vmbus::mapped::MappedRing;
use vmbus::outgoing::OutgoingRing;
use vmbus::ring::usage;

use super::events::{Event, EventQueue};
use super::intake::Turning;
use super::offload::responder::Responder;
use super::polling::Poller;
use super::scatter;
use crate::hresult;
use crate::wire::{DeviceResponse, RESPONSE_SIZE};

/// Ring bytes of one completion: descriptor 16, device response 12 padded to 16, trailer 8 (spec device §2.5).
const COMPLETION_BYTES: u32 = 40;

/// Packets taken from one channel before the others have their turn.
const PACKETS_PER_TURN: usize = 32;

/// Bytes moved inline for one channel after which the others have their turn: the last read may pass it.
const BYTES_PER_TURN: u64 = 1024 * 1024;

/// No policy scope has this number.
const NO_SCOPE: u64 = u64::MAX;

/// The memory one guest lends: shared by all its channels, changed by the control plane.
pub type SharedGuestMemory = Arc<RwLock<GuestMemory>>;

/// What a channel may.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Requests in flight.
    pub credits: usize,
    /// The policy scope whose offload entries answer its requests; `None`: every request goes to Python.
    pub scope: Option<u64>,
}

/// What a turn on a channel left behind.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// The ring was empty. It stays masked: no packet rings until the channel is armed.
    Idle,
    /// There were packets and now there are none; masked as well.
    Served,
    /// There may be more packets.
    More,
    /// Packets wait, but completions have no room until the guest drains: it will ring then.
    Stalled,
    /// The channel is dead.
    Dead,
}

struct Sending {
    ring: OutgoingRing<MappedRing>,
    /// Completions promised and not yet written.
    reserved: u32,
}

/// A request taken and not yet completed.
struct InFlight {
    id: u64,
    /// The guest has asked for its end already.
    cancelled: bool,
    /// Runs of adjacent pages that its buffers consist of.
    runs: usize,
}

/// One open channel.
pub struct HostChannel {
    key: u64,
    credits: usize,
    /// Whose offload entries answer its requests; `NO_SCOPE`: nobody's.
    scope: AtomicU64,
    memory: SharedGuestMemory,
    /// `None` once closed: the mappings of the rings are gone, late completions go nowhere.
    receiving: Mutex<Option<IncomingRing<MappedRing>>>,
    sending: Mutex<Option<Sending>>,
    /// By transaction id.
    in_flight: Mutex<HashMap<u64, InFlight>>,
    /// Runs of pages of all of `in_flight`; changed under its lock.
    runs: AtomicUsize,
    /// Packets taken; changed by whoever holds `receiving`.
    packets: AtomicU64,
    /// Bytes that the last turn with packets moved inline; changed like `packets`.
    moved: AtomicU64,
    /// Requests that entries have answered, and the bytes of those; changed by whoever holds `receiving`.
    hits: [AtomicU64; 2],
    bell: HostDoorbell,
    poller: Arc<Poller>,
    closed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HostChannel {
    /// Takes over two mapped rings; returns the channel and the guest's ends of the doorbells.
    pub fn open(
        key: u64,
        terms: Terms,
        memory: SharedGuestMemory,
        from_guest: MappedRing,
        to_guest: MappedRing,
        poller: Arc<Poller>,
    ) -> io::Result<(Self, OwnedFd, OwnedFd)> {
        let (bell, guest_eventfd, guest_socket) = doorbell::pair()?;
        let incoming = IncomingRing::new(from_guest);
        let outgoing = OutgoingRing::new(to_guest);
        let channel = Self {
            key,
            credits: terms.credits,
            scope: AtomicU64::new(terms.scope.unwrap_or(NO_SCOPE)),
            memory,
            receiving: Mutex::new(Some(incoming)),
            sending: Mutex::new(Some(Sending { ring: outgoing, reserved: 0 })),
            in_flight: Mutex::new(HashMap::new()),
            runs: AtomicUsize::new(0),
            packets: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            hits: Default::default(),
            bell,
            poller,
            closed: AtomicBool::new(false),
        };
        Ok((channel, guest_eventfd, guest_socket))
    }

    /// The control plane's name for this channel.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// The scope now. Acquire, with the release in `set_scope`: whoever saw that a policy is in force, and then sends a
    /// request, is answered under it.
    pub(super) fn scope(&self) -> Option<u64> {
        Some(self.scope.load(Ordering::Acquire)).filter(|scope| *scope != NO_SCOPE)
    }

    pub(super) fn set_scope(&self, scope: Option<u64>) {
        self.scope.store(scope.unwrap_or(NO_SCOPE), Ordering::Release);
    }

    pub(super) fn memory(&self) -> &SharedGuestMemory {
        &self.memory
    }

    /// The id of the request in flight with this transaction id, the first time that its end is asked for.
    ///
    /// Once per request: a guest that repeats itself must not fill the control plane's queue (design rule 1).
    pub(super) fn cancel(&self, transaction_id: u64) -> Option<u64> {
        let mut in_flight = lock(&self.in_flight);
        let request = in_flight.get_mut(&transaction_id)?;
        (!std::mem::replace(&mut request.cancelled, true)).then_some(request.id)
    }

    /// Tells whether the channel has been closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends the channel: unmaps the rings. Requests still running complete into nothing.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        *lock(&self.receiving) = None;
        *lock(&self.sending) = None;
    }

    /// How full its rings are, guest → host first: (size, bytes used) of each. `None` once closed.
    pub fn ring_usage(&self) -> Option<[(u32, u32); 2]> {
        let from_guest = lock(&self.receiving).as_ref().map(|ring| usage(ring.memory()))?;
        let to_guest = lock(&self.sending).as_ref().map(|sending| usage(sending.ring.memory()))?;
        Some([from_guest, to_guest])
    }

    /// Requests taken and not yet completed.
    pub fn in_flight(&self) -> usize {
        lock(&self.in_flight).len()
    }

    /// Packets taken off its ring.
    pub(super) fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed) // a count, ordered with nothing
    }

    /// Bytes that the last turn with packets moved inline: what its guest works on before it asks for more.
    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed) // advice, ordered with nothing
    }

    /// Requests that offload entries have answered, and how many bytes.
    pub fn hits(&self) -> [u64; 2] {
        [0, 1].map(|which| self.hits[which].load(Ordering::Relaxed)) // counts, ordered with nothing
    }

    /// Counts an answer given from an entry.
    pub(super) fn count_hit(&self, bytes: u64) {
        for (count, amount) in self.hits.iter().zip([1, bytes]) {
            count.store(count.load(Ordering::Relaxed) + amount, Ordering::Relaxed); // one writer
        }
    }

    /// Who may poll this channel.
    pub(super) fn poller(&self) -> &Arc<Poller> {
        &self.poller
    }

    /// Tells whether a worker may spin for this channel's next packet: it is granted, and its guest waits for nothing.
    pub(super) fn may_spin(&self) -> bool {
        self.poller.is_granted() && self.in_flight() == 0
    }

    /// Tells whether packets have arrived that no turn has taken.
    pub(super) fn has_data(&self) -> bool {
        lock(&self.receiving).as_ref().is_some_and(IncomingRing::has_data)
    }

    /// Asks for a signal at the next packet; false when there is one already, and then no signal was asked for.
    pub(super) fn arm(&self) -> bool {
        lock(&self.receiving).as_mut().is_none_or(IncomingRing::prepare_sleep)
    }

    /// Takes a bounded number of packets, answers what entries answer, and pushes what the rest means; the guest need
    /// not signal meanwhile.
    pub fn turn(self: &Arc<Self>, events: &EventQueue, responder: &mut Responder) -> Turn {
        let mut receiving = lock(&self.receiving);
        let Some(ring) = receiving.as_mut() else { return Turn::Dead };
        ring.mask();
        let mut scratch = std::mem::take(&mut responder.packet);
        let mut turning = Turning { events, channel: self.key, responder, found: Vec::new(), moved: 0, unseen: 0 };
        let before = self.packets();
        let turn = self.take_packets(ring, &mut scratch, &mut turning);
        if self.packets() != before {
            self.moved.store(turning.moved, Ordering::Relaxed); // one writer, see `packets`
        }
        self.show_completions();
        if ring.commit() {
            self.bell.signal();
        }
        let turn = match turn {
            Ok(turn) => turn,
            Err(reason) => {
                events.push(Event::ChannelFailed(self.key, reason));
                Turn::Dead
            }
        };
        drop(receiving);
        turning.hand_over();
        turning.responder.packet = scratch;
        if turn == Turn::Dead {
            self.close();
        }
        turn
    }

    fn take_packets(
        self: &Arc<Self>,
        ring: &mut IncomingRing<MappedRing>,
        scratch: &mut Vec<u8>,
        turning: &mut Turning<'_>,
    ) -> Result<Turn, String> {
        let before = self.packets();
        for taken in 0..PACKETS_PER_TURN {
            if turning.moved >= BYTES_PER_TURN {
                break;
            }
            if !self.reserve().map_err(|corruption| corruption.to_string())? {
                return Ok(Turn::Stalled);
            }
            let has_completion = match ring.next(scratch) {
                Ok(Some(packet)) => self.judge(&packet, turning),
                Ok(None) => {
                    self.unreserve();
                    return Ok(if taken == 0 { Turn::Idle } else { Turn::Served });
                }
                Err(corruption) => return Err(corruption.to_string()),
            };
            if !has_completion? {
                self.unreserve();
            }
            self.packets.store(before + taken as u64 + 1, Ordering::Relaxed); // one writer, see `packets`
        }
        Ok(Turn::More)
    }

    /// Reserves the place of one completion; false when the guest's ring has none, and then the guest will ring.
    fn reserve(&self) -> Result<bool, Corruption> {
        let mut sending = lock(&self.sending);
        let Some(sending) = sending.as_mut() else { return Ok(false) };
        let needed = (sending.reserved + 1) * COMPLETION_BYTES;
        let mut has_room = sending.ring.has_room(needed)?;
        if !has_room {
            self.show(&mut sending.ring); // the guest makes room only of what it sees
            has_room = sending.ring.want_room(needed)?;
        }
        sending.reserved += u32::from(has_room);
        Ok(has_room)
    }

    fn unreserve(&self) {
        if let Some(sending) = lock(&self.sending).as_mut() {
            sending.reserved -= 1;
        }
    }

    /// Counts the request against the guest's credits; an id in flight already is the guest's error.
    ///
    /// runs: how many runs of adjacent pages its buffers are.
    pub(super) fn admit(&self, transaction_id: u64, id: u64, runs: usize) -> Result<(), u32> {
        let mut in_flight = lock(&self.in_flight);
        self.judge_admission(&in_flight, transaction_id)?;
        // Relaxed: the lock orders it.
        if !scatter::take(self.runs.load(Ordering::Relaxed), runs) {
            return Err(hresult::QUOTA);
        }
        self.runs.fetch_add(runs, Ordering::Relaxed);
        in_flight.insert(transaction_id, InFlight { id, cancelled: false, runs });
        Ok(())
    }

    /// Says what [`admit`](Self::admit) would: for a request that is completed before another one is looked at.
    pub(super) fn may_admit(&self, transaction_id: u64) -> Result<(), u32> {
        self.judge_admission(&lock(&self.in_flight), transaction_id)
    }

    fn judge_admission(&self, in_flight: &HashMap<u64, InFlight>, transaction_id: u64) -> Result<(), u32> {
        if in_flight.len() >= self.credits {
            return Err(hresult::QUOTA);
        }
        if in_flight.contains_key(&transaction_id) { Err(hresult::MALFORMED) } else { Ok(()) }
    }

    /// Writes a completion into its reserved place and signals the guest if it must be.
    pub(super) fn send_completion(&self, transaction_id: u64, answer: DeviceResponse) {
        self.write_completion(transaction_id, answer);
        self.show_completions();
    }

    /// Writes a completion into its reserved place; the guest sees it with the next that is sent, or is shown it.
    pub(super) fn write_completion(&self, transaction_id: u64, answer: DeviceResponse) {
        let mut sending = lock(&self.sending);
        let Some(sending) = sending.as_mut() else { return };
        sending.reserved = sending.reserved.saturating_sub(1);
        let payload: [u8; RESPONSE_SIZE] = answer.encode();
        // A guest that moved its read index back has taken the place away again: its own completions are lost to it.
        let _ = sending.ring.try_write_completion(transaction_id, &payload);
    }

    /// Shows the guest what was written, with one signal for all of it, if it needs one.
    pub(super) fn show_completions(&self) {
        if let Some(sending) = lock(&self.sending).as_mut() {
            self.show(&mut sending.ring);
        }
    }

    fn show(&self, ring: &mut OutgoingRing<MappedRing>) {
        if ring.commit() {
            self.bell.signal();
        }
    }

    pub(super) fn forget(&self, transaction_id: u64) {
        let mut in_flight = lock(&self.in_flight);
        if let Some(request) = in_flight.remove(&transaction_id) {
            self.runs.fetch_sub(request.runs, Ordering::Relaxed);
            scatter::give(request.runs);
        }
    }
}

impl AsFd for HostChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
