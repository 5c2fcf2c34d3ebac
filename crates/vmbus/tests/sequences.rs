//! Any sequence of writes and reads over rings of any size, against a model that counts bytes without ever wrapping:
//! nothing is lost, repeated or reordered, room is what the spec says, and both signal rules hold (spec/vmbus.md §1.2,
//! §1.4, §1.5 table, §1.6).

#![cfg(not(feature = "loom"))]

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;
use vmbus::incoming::IncomingRing;
use vmbus::layout::{CONTROL_PAGE_SIZE, PAGE_SIZE};
use vmbus::mapped::MappedRing;
use vmbus::memory::Region;
use vmbus::outgoing::{OutgoingRing, WriteError};
use vmbus::packet::{OutgoingPacket, PacketKind};

#[derive(Clone, Debug)]
enum Step {
    InBand { length: usize, completion_requested: bool },
    GpaDirect { pages: usize, byte_offset: u32, length: usize },
    Cancel,
    Completion { length: usize },
    Publish,
    Take { packets: usize },
    Free,
    Mask,
    Sleep,
    Want { bytes: u32 },
    ClearWant,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_usize..600, any::<bool>())
            .prop_map(|(length, completion_requested)| Step::InBand { length, completion_requested }),
        1 => (0_usize..9000).prop_map(|length| Step::InBand { length, completion_requested: true }),
        2 => (1_usize..200, 0_u32..4096, 0_usize..80)
            .prop_map(|(pages, byte_offset, length)| Step::GpaDirect { pages, byte_offset, length }),
        1 => Just(Step::Cancel),
        2 => (0_usize..40).prop_map(|length| Step::Completion { length }),
        4 => Just(Step::Publish),
        4 => (1_usize..12).prop_map(|packets| Step::Take { packets }),
        4 => Just(Step::Free),
        1 => Just(Step::Mask),
        2 => Just(Step::Sleep),
        2 => (1_u32..9000).prop_map(|bytes| Step::Want { bytes }),
        1 => Just(Step::ClearWant),
    ];
    prop::collection::vec(step, 1..120)
}

/// A packet as the model remembers it.
#[derive(Debug)]
struct Sent {
    kind: PacketKind,
    id: u64,
    flags: u16,
    payload: Vec<u8>,
    range: (u32, u32),
    pfns: Vec<u64>,
}

impl Sent {
    fn packet(&self) -> OutgoingPacket<'_> {
        match self.kind {
            PacketKind::InBand => OutgoingPacket::in_band(self.id, self.flags == 1, &self.payload),
            PacketKind::GpaDirect => OutgoingPacket::gpa_direct_range(self.id, self.range, &self.pfns, &self.payload),
            PacketKind::Cancel => OutgoingPacket::cancel(self.id),
            PacketKind::Completion => OutgoingPacket::completion(self.id, &self.payload),
        }
    }

    /// Ring bytes, by the spec's formulas (§2.1, §2.3) and not by the code's.
    fn total(&self) -> u64 {
        let head = if self.kind == PacketKind::GpaDirect { 32 + 8 * self.pfns.len() } else { 16 };
        (head + self.payload.len()).div_ceil(8) as u64 * 8 + 8
    }
}

/// Both ends of a ring and, beside them, totals that only grow.
struct Model {
    outgoing: OutgoingRing<MappedRing>,
    incoming: IncomingRing<MappedRing>,
    data_size: u64,
    /// Written by the sender and not yet published, then published and not yet taken.
    unpublished: VecDeque<Sent>,
    published: VecDeque<Sent>,
    written_total: u64,
    published_total: u64,
    taken_total: u64,
    freed_total: u64,
    masked: bool,
    wanted: u64,
    next_id: u64,
    scratch: Vec<u8>,
}

impl Model {
    fn new(data_pages: usize, start: u32) -> Self {
        let size = CONTROL_PAGE_SIZE + data_pages * PAGE_SIZE;
        // The ring lies somewhere in the middle, so that an access outside shows.
        let (region, _fd) = Region::create_sealed("sequences", size + 2 * PAGE_SIZE).unwrap();
        let memory = MappedRing::new(Arc::new(region), PAGE_SIZE, size);
        memory.initialise();
        let data_size = (data_pages * PAGE_SIZE) as u64;
        Self {
            outgoing: OutgoingRing::starting_at(memory.clone(), start % data_size as u32 / 8 * 8),
            incoming: IncomingRing::starting_at(memory, start % data_size as u32 / 8 * 8),
            data_size,
            unpublished: VecDeque::new(),
            published: VecDeque::new(),
            written_total: 0,
            published_total: 0,
            taken_total: 0,
            freed_total: 0,
            masked: true,
            wanted: 0,
            next_id: 0,
            scratch: Vec::new(),
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::InBand { length, completion_requested } => {
                self.write(PacketKind::InBand, u16::from(completion_requested), length, &[], 0);
            }
            Step::GpaDirect { pages, byte_offset, length } => {
                let pfns: Vec<u64> = (0..pages as u64).map(|page| (page + self.next_id) << 40 | page).collect();
                self.write(PacketKind::GpaDirect, 1, length, &pfns, byte_offset);
            }
            Step::Cancel => self.write(PacketKind::Cancel, 0, 0, &[], 0),
            Step::Completion { length } => self.write(PacketKind::Completion, 0, length, &[], 0),
            Step::Publish => self.publish(),
            Step::Take { packets } => (0..packets).for_each(|_| self.take()),
            Step::Free => {
                self.free();
            }
            Step::Mask => {
                self.incoming.mask();
                self.masked = true;
            }
            Step::Sleep => self.sleep(),
            Step::Want { bytes } => self.want(bytes),
            Step::ClearWant => {
                self.outgoing.clear_want();
                self.wanted = 0;
            }
        }
    }

    fn write(&mut self, kind: PacketKind, flags: u16, length: usize, pfns: &[u64], byte_offset: u32) {
        self.next_id += 1;
        let id = self.next_id;
        let payload = (0..length).map(|at| (at as u64 * 31 + id * 7) as u8).collect();
        // At most what the pages hold, at least one byte into the last of them.
        let range = (byte_offset, (pfns.len() as u32 * 4096).saturating_sub(byte_offset));
        let sent = Sent { kind, id, flags, payload, range, pfns: pfns.to_vec() };
        let free = self.data_size - (self.written_total - self.freed_total);
        let expected = if sent.total() > self.data_size - 16 {
            Err(WriteError::TooLarge)
        } else if free > sent.total() {
            Ok(())
        } else {
            Err(WriteError::Full { needed: sent.total() as u32 })
        };
        assert_eq!(self.outgoing.try_write(&sent.packet()), expected, "free {free}, needed {}", sent.total());
        if expected.is_ok() {
            self.written_total += sent.total();
            self.unpublished.push_back(sent);
        }
        assert_eq!(u64::from(self.outgoing.free().unwrap()), self.data_size - (self.written_total - self.freed_total));
    }

    fn publish(&mut self) {
        let was_empty = self.freed_total == self.published_total;
        let signal = self.written_total > self.published_total && !self.masked && was_empty;
        assert_eq!(self.outgoing.commit(), signal, "§1.4: signal exactly an unmasked receiver that had read all");
        self.published_total = self.written_total;
        self.published.append(&mut self.unpublished);
    }

    fn take(&mut self) {
        assert_eq!(self.incoming.has_data(), !self.published.is_empty());
        let Some(packet) = self.incoming.next(&mut self.scratch).unwrap() else {
            assert!(self.published.is_empty(), "a published packet was not delivered");
            return;
        };
        let sent = self.published.pop_front().expect("a packet that was never published");
        assert_eq!((packet.kind, packet.transaction_id, packet.flags), (sent.kind, sent.id, sent.flags));
        let (content, padding) = packet.payload.split_at(sent.payload.len());
        assert_eq!(content, sent.payload);
        assert!(padding.len() < 8 && padding.iter().all(|byte| *byte == 0));
        let ranges: Vec<_> = packet.ranges().unwrap().collect();
        let range = ranges.first().map(|range| (range.byte_offset, range.byte_count));
        assert_eq!(range, (sent.kind == PacketKind::GpaDirect).then_some(sent.range));
        assert!(ranges.iter().flat_map(|range| range.pfns()).eq(sent.pfns.iter().copied()));
        self.taken_total += sent.total();
    }

    /// Returns whether the sender is signalled.
    fn free(&mut self) -> bool {
        let read = self.taken_total - self.freed_total;
        let free = self.data_size - (self.published_total - self.taken_total);
        let wanted = self.wanted;
        let signal = read > 0 && wanted > 0 && free > wanted && free.saturating_sub(read) <= wanted;
        assert_eq!(self.incoming.commit(), signal, "§1.5 (f): {wanted} wanted, {free} free, {read} of it new");
        self.freed_total = self.taken_total;
        signal
    }

    fn sleep(&mut self) {
        self.free();
        let empty = self.published.is_empty();
        assert_eq!(self.incoming.prepare_sleep(), empty, "§1.5 step 5");
        assert!(!self.incoming.mask_tampered());
        self.masked = !empty;
    }

    fn want(&mut self, bytes: u32) {
        self.publish();
        let free = self.data_size - (self.written_total - self.freed_total);
        let has_room = free > u64::from(bytes);
        assert_eq!(self.outgoing.has_room(bytes), Ok(has_room));
        assert_eq!(self.outgoing.want_room(bytes), Ok(has_room), "§1.6");
        let attainable = u64::from(bytes.next_multiple_of(8)).min(self.data_size - 8);
        self.wanted = if has_room { 0 } else { attainable };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_delivers_each_packet_once_in_order_and_signals_when_it_must(
        data_pages in 1_usize..=9,
        start in any::<u32>(),
        steps in steps(),
    ) {
        let mut model = Model::new(data_pages, start);
        steps.into_iter().for_each(|step| model.apply(step));
        model.publish();
        while !model.published.is_empty() {
            model.take();
        }
        model.take();
        model.free();
        prop_assert_eq!(model.outgoing.free().unwrap() as u64, model.data_size);
    }
}

#[test]
fn section_1_2_a_ring_is_never_filled_to_the_last_byte_and_takes_its_largest_packet() {
    for start in [0, 8, 4088] {
        let mut model = Model::new(1, start);
        model.write(PacketKind::InBand, 0, 4080 - 24, &[], 0);
        assert_eq!(model.written_total, 4080);
        model.write(PacketKind::Cancel, 0, 0, &[], 0);
        model.publish();
        model.take();
        model.write(PacketKind::InBand, 0, 4080 - 23, &[], 0);
        assert_eq!(model.written_total, 4080, "8 bytes more fit in no ring of this size");
    }
}

#[test]
fn section_1_5_a_wish_is_met_by_one_signal_on_the_transition_and_none_after() {
    let mut model = Model::new(1, 0);
    (0..100).for_each(|_| model.write(PacketKind::InBand, 0, 16, &[], 0));
    model.want(88);
    assert_eq!(model.wanted, 0, "96 bytes are free still");
    model.want(96);
    assert_eq!(model.wanted, 96, "but one word is never used");
    model.want(200);
    let signals: Vec<bool> = (0..6)
        .map(|_| {
            model.take();
            model.free()
        })
        .collect();
    // 96 + 40 = 136, 176, then 216 > 200.
    assert_eq!(signals, [false, false, true, false, false, false]);
}
