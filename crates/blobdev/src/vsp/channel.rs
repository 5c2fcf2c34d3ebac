//! The host's end of one open channel: takes packets off its ring, judges them, writes completions.
//!
//! A packet is taken only when its completion has a reserved place in the guest's ring (design rule 1), so completing
//! never waits, and a guest that does not drain its ring stops its own requests and nothing else. Whatever the guest
//! writes is copied once and judged as a copy.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use vmbus::corruption::Corruption;
use vmbus::doorbell::{self, HostDoorbell};
use vmbus::gpa::GuestMemory;
use vmbus::incoming::IncomingRing;
use vmbus::mapped::MappedRing;
use vmbus::memory::SpanList;
use vmbus::outgoing::OutgoingRing;
use vmbus::packet::{Packet, PacketKind};

use super::events::{Event, EventQueue};
use super::request::HostRequest;
use crate::bhttp;
use crate::hresult;
use crate::wire::{DeviceRequest, DeviceResponse, RESPONSE_SIZE};

/// Ring bytes of one completion: descriptor 16, device response 12 padded to 16, trailer 8 (spec device §2.5).
const COMPLETION_BYTES: u32 = 40;

/// Packets taken from one channel before the others have their turn.
const PACKETS_PER_TURN: usize = 32;

static NEXT_REQUEST_ID: AtomicU64 = AtomicU64::new(1);

/// The memory one guest lends: shared by all its channels, changed by the control plane.
pub type SharedGuestMemory = Arc<RwLock<GuestMemory>>;

/// What a turn on a channel left behind.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// The ring is empty and armed: the next packet rings.
    Idle,
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
}

/// One open channel.
pub struct HostChannel {
    key: u64,
    credits: usize,
    memory: SharedGuestMemory,
    /// `None` once closed: the mappings of the rings are gone, late completions go nowhere.
    receiving: Mutex<Option<IncomingRing<MappedRing>>>,
    sending: Mutex<Option<Sending>>,
    /// By transaction id.
    in_flight: Mutex<HashMap<u64, InFlight>>,
    bell: HostDoorbell,
    closed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HostChannel {
    /// Takes over two mapped rings; returns the channel and the guest's ends of the doorbells.
    pub fn open(
        key: u64,
        credits: usize,
        memory: SharedGuestMemory,
        from_guest: MappedRing,
        to_guest: MappedRing,
    ) -> io::Result<(Self, OwnedFd, OwnedFd)> {
        let (bell, guest_eventfd, guest_socket) = doorbell::pair()?;
        let incoming = IncomingRing::new(from_guest);
        let outgoing = OutgoingRing::new(to_guest);
        let channel = Self {
            key,
            credits,
            memory,
            receiving: Mutex::new(Some(incoming)),
            sending: Mutex::new(Some(Sending { ring: outgoing, reserved: 0 })),
            in_flight: Mutex::new(HashMap::new()),
            bell,
            closed: AtomicBool::new(false),
        };
        Ok((channel, guest_eventfd, guest_socket))
    }

    /// The control plane's name for this channel.
    pub fn key(&self) -> u64 {
        self.key
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

    /// Requests taken and not yet completed.
    pub fn in_flight(&self) -> usize {
        lock(&self.in_flight).len()
    }

    /// Takes a bounded number of packets and pushes what they mean.
    pub fn turn(self: &Arc<Self>, events: &EventQueue, scratch: &mut Vec<u8>) -> Turn {
        let mut receiving = lock(&self.receiving);
        let Some(ring) = receiving.as_mut() else { return Turn::Dead };
        let mut found = Vec::new();
        let turn = self.take_packets(ring, scratch, &mut found);
        if ring.commit() {
            self.bell.signal();
        }
        let turn = match turn {
            Ok(Turn::Idle) if !ring.prepare_sleep() => Turn::More,
            Ok(turn) => turn,
            Err(reason) => {
                found.push(Event::ChannelFailed(self.key, reason));
                Turn::Dead
            }
        };
        drop(receiving);
        events.push(found);
        if turn == Turn::Dead {
            self.close();
        }
        turn
    }

    fn take_packets(
        self: &Arc<Self>,
        ring: &mut IncomingRing<MappedRing>,
        scratch: &mut Vec<u8>,
        found: &mut Vec<Event>,
    ) -> Result<Turn, String> {
        for _ in 0..PACKETS_PER_TURN {
            if !self.reserve().map_err(|corruption| corruption.to_string())? {
                return Ok(Turn::Stalled);
            }
            let taken = match ring.next(scratch) {
                Ok(Some(packet)) => self.judge(&packet, found),
                Ok(None) => {
                    self.unreserve();
                    return Ok(Turn::Idle);
                }
                Err(corruption) => return Err(corruption.to_string()),
            };
            if !taken? {
                self.unreserve();
            }
        }
        Ok(Turn::More)
    }

    /// Reserves the place of one completion; false when the guest's ring has none, and then the guest will ring.
    fn reserve(&self) -> Result<bool, Corruption> {
        let mut sending = lock(&self.sending);
        let Some(sending) = sending.as_mut() else { return Ok(false) };
        let needed = (sending.reserved + 1) * COMPLETION_BYTES;
        let has_room = sending.ring.has_room(needed)? || sending.ring.want_room(needed)?;
        sending.reserved += u32::from(has_room);
        Ok(has_room)
    }

    fn unreserve(&self) {
        if let Some(sending) = lock(&self.sending).as_mut() {
            sending.reserved -= 1;
        }
    }

    /// Judges one packet; true when it has (or had) a completion, so that its reservation is used.
    fn judge(self: &Arc<Self>, packet: &Packet<'_>, found: &mut Vec<Event>) -> Result<bool, String> {
        match packet.kind {
            PacketKind::Cancel => {
                // Once per request: a guest that repeats itself must not fill the control plane's queue (design rule 1).
                if let Some(request) = lock(&self.in_flight).get_mut(&packet.transaction_id)
                    && !std::mem::replace(&mut request.cancelled, true)
                {
                    found.push(Event::Cancel(request.id));
                }
                Ok(false)
            }
            PacketKind::GpaDirect if !packet.completion_requested() => Ok(false), // spec §2.4: it must get none
            PacketKind::GpaDirect => {
                match self.accept(packet) {
                    Ok(request) => found.push(Event::Request(request)),
                    Err(status) => {
                        self.send_completion(packet.transaction_id, DeviceResponse { error: status, response_len: 0 })
                    }
                }
                Ok(true)
            }
            kind => Err(format!("a packet of type {kind:?}, which no guest sends")),
        }
    }

    /// Makes a request of a packet, or says with which status it is refused.
    fn accept(self: &Arc<Self>, packet: &Packet<'_>) -> Result<Arc<HostRequest>, u32> {
        let device = DeviceRequest::parse(packet.payload).map_err(|_| hresult::MALFORMED)?;
        let mut ranges = packet.ranges().map_err(|_| hresult::MALFORMED)?;
        let (Some(range), None) = (ranges.next(), ranges.next()) else { return Err(hresult::MALFORMED) };
        let layout = device.validate(range.byte_count).map_err(|error| error.status())?;
        let spans = self.memory.read().unwrap_or_else(PoisonError::into_inner).resolve(&range);
        let spans = spans.map_err(|_| hresult::MALFORMED)?;
        let part = |(offset, length): (usize, usize)| -> SpanList { spans.slice(offset, length) };
        if layout.request.1 > bhttp::MESSAGE_SIZE_MAX {
            return Err(hresult::MALFORMED);
        }
        let mut head = vec![0; layout.request.1];
        part(layout.request).read(0, &mut head);
        bhttp::decode_request(&head).map_err(|_| hresult::MALFORMED)?;
        let id = NEXT_REQUEST_ID.fetch_add(1, Ordering::Relaxed);
        self.admit(packet.transaction_id, id)?;
        let buffers = (part(layout.data), part(layout.response));
        let channel = Arc::clone(self);
        Ok(Arc::new(HostRequest::new(id, packet.transaction_id, device, head, channel, buffers)))
    }

    /// Counts the request against the guest's credits; an id in flight already is the guest's error.
    fn admit(&self, transaction_id: u64, id: u64) -> Result<(), u32> {
        let mut in_flight = lock(&self.in_flight);
        if in_flight.len() >= self.credits {
            return Err(hresult::QUOTA);
        }
        match in_flight.entry(transaction_id) {
            std::collections::hash_map::Entry::Occupied(_) => Err(hresult::MALFORMED),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(InFlight { id, cancelled: false });
                Ok(())
            }
        }
    }

    /// Writes a completion into its reserved place and signals the guest if it must be.
    pub(super) fn send_completion(&self, transaction_id: u64, answer: DeviceResponse) {
        let mut sending = lock(&self.sending);
        let Some(sending) = sending.as_mut() else { return };
        sending.reserved = sending.reserved.saturating_sub(1);
        let payload: [u8; RESPONSE_SIZE] = answer.encode();
        // A guest that moved its read index back has taken the place away again: its own completions are lost to it.
        let written = sending.ring.try_write_completion(transaction_id, &payload).is_ok();
        if written && sending.ring.commit() {
            self.bell.signal();
        }
    }

    pub(super) fn forget(&self, transaction_id: u64) {
        lock(&self.in_flight).remove(&transaction_id);
    }
}

impl AsFd for HostChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
