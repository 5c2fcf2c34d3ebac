//! From a packet to an answer or to a request in Python's queue: what a channel does with what it takes off its ring.
//!
//! Whatever the guest wrote is copied once and judged as a copy. A request that an offload entry answers is completed
//! here and now, its bytes read from the page cache straight into the guest's pages; what would wait goes to the filler
//! threads, everything else to the control plane.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use vmbus::gpa::GpaRange;
use vmbus::memory::SpanList;
use vmbus::packet::{Packet, PacketKind};

use super::channel::HostChannel;
use super::events::{Event, EventQueue};
use super::files::{File, Run, Target, read_parts};
use super::filler::{Fill, Move};
use super::offload::responder::{Plan, Responder, Room, Verdict};
use super::request::HostRequest;
use crate::bhttp;
use crate::hresult;
use crate::wire::{DeviceRequest, DeviceResponse, Layout};

/// Bytes moved inline above which what was found and completed before is handed on first.
const LARGE: u64 = 64 * 1024;

/// Completions written before the guest is shown them. It then works on these while the worker goes on with the next.
const COMPLETIONS_SHOWN: usize = 8;

static NEXT_REQUEST_ID: AtomicU64 = AtomicU64::new(1);

/// One turn on a channel: its means, what it found, and how many bytes it moved.
pub(super) struct Turning<'t> {
    pub(super) events: &'t EventQueue,
    pub(super) channel: u64,
    pub(super) responder: &'t mut Responder,
    pub(super) found: Vec<Event>,
    pub(super) moved: u64,
    /// Completions written that the guest was not shown.
    pub(super) unseen: usize,
}

impl Turning<'_> {
    /// Hands what was found to the control plane.
    pub(super) fn hand_over(&mut self) {
        if !self.found.is_empty() {
            self.events.push_from(self.channel, self.found.drain(..));
        }
    }
}

/// A request packet taken apart: judged, its buffers resolved.
struct Arrived<'a> {
    transaction_id: u64,
    device: DeviceRequest,
    layout: Layout,
    range: GpaRange<'a>,
    spans: SpanList,
    message: &'a [u8],
}

impl Arrived<'_> {
    fn part(&self, (offset, length): (usize, usize)) -> SpanList {
        self.spans.slice(offset, length)
    }
}

impl HostChannel {
    /// Judges one packet; true when it has (or had) a completion, so that its reservation is used.
    pub(super) fn judge(self: &Arc<Self>, packet: &Packet<'_>, turning: &mut Turning<'_>) -> Result<bool, String> {
        match packet.kind {
            PacketKind::Cancel => {
                if let Some(id) = self.cancel(packet.transaction_id) {
                    turning.found.push(Event::Cancel(id));
                }
                Ok(false)
            }
            PacketKind::GpaDirect if !packet.completion_requested() => Ok(false), // spec §2.4: it must get none
            PacketKind::GpaDirect => {
                let moved_before = turning.moved;
                let completed = match self.accept(packet, turning) {
                    Ok(completed) => completed,
                    Err(status) => Some(DeviceResponse { error: status, response_len: 0 }),
                };
                if let Some(response) = completed {
                    self.write_completion(packet.transaction_id, response);
                    turning.unseen += 1;
                    // A guest that polls needs no signal; another gets one for some at a time, but does not wait long.
                    let is_long = turning.unseen >= COMPLETIONS_SHOWN || turning.moved - moved_before > LARGE;
                    if is_long || self.poller().is_granted() {
                        self.show_completions();
                        turning.unseen = 0;
                    }
                }
                Ok(true)
            }
            kind => Err(format!("a packet of type {kind:?}, which no guest sends")),
        }
    }

    /// Answers a request, or makes a [`HostRequest`] of it and gives `None`; an error is the status it is refused with.
    fn accept(self: &Arc<Self>, packet: &Packet<'_>, turning: &mut Turning<'_>) -> Result<Option<DeviceResponse>, u32> {
        let device = DeviceRequest::parse(packet.payload).map_err(|_| hresult::MALFORMED)?;
        let mut ranges = packet.ranges().map_err(|_| hresult::MALFORMED)?;
        let (Some(range), None) = (ranges.next(), ranges.next()) else { return Err(hresult::MALFORMED) };
        let layout = device.validate(range.byte_count).map_err(|error| error.status())?;
        let spans = self.memory().read().unwrap_or_else(PoisonError::into_inner).resolve(&range);
        let spans = spans.map_err(|_| hresult::MALFORMED)?;
        let (at, length) = layout.request;
        // Design rule 1: memory that may shrink holds data buffers only.
        let is_sealed = spans.is_sealed(at, length) && spans.is_sealed(layout.response.0, layout.response.1);
        if length > bhttp::MESSAGE_SIZE_MAX || !is_sealed {
            return Err(hresult::MALFORMED);
        }
        let mut buffer = std::mem::take(&mut turning.responder.head);
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        let message = &mut buffer[..length];
        spans.read(at, message).map_err(|_| hresult::MALFORMED)?;
        let transaction_id = packet.transaction_id;
        let outcome = self.answer(&Arrived { transaction_id, device, layout, range, spans, message }, turning);
        turning.responder.head = buffer;
        outcome
    }

    fn answer(
        self: &Arc<Self>,
        arrived: &Arrived<'_>,
        turning: &mut Turning<'_>,
    ) -> Result<Option<DeviceResponse>, u32> {
        let head = bhttp::decode_request(arrived.message).map_err(|_| hresult::MALFORMED)?;
        let mut wanted = false;
        if let Some(scope) = self.scope() {
            let room = Room { data: arrived.layout.data.1, response: arrived.layout.response.1 };
            let responder = &mut *turning.responder;
            if arrived.device.content_length() > 0 {
                responder.refuse_content();
            } else {
                match responder.judge(scope, &head, room) {
                    Verdict::Ready(plan) => return self.place(arrived, plan, turning),
                    Verdict::Python { wanted: is_wanted } => wanted = is_wanted,
                }
            }
        }
        let mut request = self.request_of(arrived)?;
        request.wants_offload = wanted;
        turning.found.push(Event::Request(Arc::new(request)));
        Ok(None)
    }

    /// Places the bytes of an answer whose head is written, or lets a filler thread do it.
    fn place(
        self: &Arc<Self>,
        arrived: &Arrived<'_>,
        plan: Plan,
        turning: &mut Turning<'_>,
    ) -> Result<Option<DeviceResponse>, u32> {
        self.may_admit(arrived.transaction_id)?;
        if plan.length > LARGE {
            turning.hand_over();
            self.show_completions();
        }
        let responder = &mut *turning.responder;
        let Plan { entry, taken, offset, length, answer_at } = plan;
        let target = Target { pages: &arrived.spans, at: arrived.layout.data.0, may_wait: false };
        // An error is found again, and answered, by whoever may wait.
        let (done, complete) =
            read_parts(&*responder.reader, entry.parts(&taken, offset, length), target).unwrap_or((0, length == 0));
        turning.moved += done;
        let message = &responder.answer[answer_at..];
        if complete {
            arrived.spans.write(arrived.layout.response.0, message).map_err(|_| hresult::INTERNAL)?;
            let response_len = message.len() as u32;
            responder.count_hit(length);
            self.count_hit(length);
            responder.give_back(taken);
            return Ok(Some(DeviceResponse { error: 0, response_len }));
        }
        responder.count_cold();
        let request = Arc::new(self.request_of(arrived)?);
        request.claim_for_fill();
        let part = |(file, offset, length): (&Arc<File>, u64, u64)| Run { file: Arc::clone(file), offset, length };
        let runs = entry.parts(&taken, offset, length).map(part).collect();
        let response = message.to_vec();
        responder.filler.submit(Move::Fill(Fill { request, response, runs, done, held_by: Some(entry) }));
        Ok(None)
    }

    /// Admits the request and takes over what it needs beyond this turn.
    fn request_of(self: &Arc<Self>, arrived: &Arrived<'_>) -> Result<HostRequest, u32> {
        let id = NEXT_REQUEST_ID.fetch_add(1, Ordering::Relaxed);
        let buffers = (arrived.part(arrived.layout.data), arrived.part(arrived.layout.response));
        self.admit(arrived.transaction_id, id, buffers.0.spans().count() + buffers.1.spans().count())?;
        let head = arrived.message.to_vec();
        let Layout { request, response, data } = arrived.layout;
        let mut taken = HostRequest::new(id, arrived.transaction_id, arrived.device, head, Arc::clone(self), buffers);
        taken.addresses = [request, response, data].map(|(offset, _)| arrived.range.address(offset));
        Ok(taken)
    }
}
