//! A peer that violates anything (spec/vmbus.md §5, H4 to H8, H20): errors, never a panic, an endless loop or a second
//! look.

#![cfg(not(feature = "loom"))]

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use proptest::prelude::*;
use vmbus::corruption::Corruption;
use vmbus::incoming::IncomingRing;
use vmbus::layout::{CONTROL_PAGE_SIZE, PAGE_SIZE, Word};
use vmbus::mapped::MappedRing;
use vmbus::memory::Region;
use vmbus::outgoing::{OutgoingRing, WriteError};
use vmbus::ring::RingMemory;
use vmbus::sync::{AtomicU32, Ordering};

const DATA_SIZE: u32 = 4096;

fn ring() -> MappedRing {
    let size = CONTROL_PAGE_SIZE + DATA_SIZE as usize;
    let (region, _fd) = Region::create_sealed("hostile", size + 2 * PAGE_SIZE).unwrap();
    let ring = MappedRing::new(Arc::new(region), PAGE_SIZE, size);
    ring.initialise();
    ring
}

fn set(memory: &impl RingMemory, word: Word, value: u32) {
    memory.word(word).store(value, Ordering::Relaxed);
}

fn get(memory: &impl RingMemory, word: Word) -> u32 {
    memory.word(word).load(Ordering::Relaxed)
}

fn descriptor(kind: u16, offset8: u16, length8: u16, flags: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (at, field) in [kind, offset8, length8, flags].into_iter().enumerate() {
        bytes[2 * at..2 * at + 2].copy_from_slice(&field.to_le_bytes());
    }
    bytes
}

const BAD_INDICES: [u32; 8] = [DATA_SIZE, DATA_SIZE + 8, DATA_SIZE - 4, DATA_SIZE - 1, 1, 4, u32::MAX, u32::MAX - 7];

#[test]
fn h7_an_impossible_write_index_ends_the_ring_for_good() {
    for value in BAD_INDICES {
        let memory = ring();
        let mut incoming = IncomingRing::new(memory.clone());
        set(&memory, Word::WriteIndex, value);
        let corruption = Corruption::Index { word: Word::WriteIndex, value, data_size: DATA_SIZE };
        assert!(incoming.has_data(), "whoever spins must come and look");
        assert!(!incoming.prepare_sleep(), "whoever would sleep must come and look");
        assert_eq!(incoming.next(&mut Vec::new()).unwrap_err(), corruption);
        set(&memory, Word::WriteIndex, 0);
        assert_eq!(incoming.next(&mut Vec::new()).unwrap_err(), corruption, "repaired is still corrupt");
        assert!(incoming.has_data());
    }
}

#[test]
fn h7_an_impossible_read_index_ends_the_ring_for_good() {
    for value in BAD_INDICES {
        let memory = ring();
        let mut outgoing = OutgoingRing::new(memory.clone());
        set(&memory, Word::ReadIndex, value);
        let corruption = Corruption::Index { word: Word::ReadIndex, value, data_size: DATA_SIZE };
        assert_eq!(outgoing.free(), Err(corruption));
        set(&memory, Word::ReadIndex, 0);
        assert_eq!(outgoing.has_room(8), Err(corruption));
        assert_eq!(outgoing.want_room(8), Err(corruption));
        assert_eq!(outgoing.try_write_cancel(1), Err(WriteError::Corrupt(corruption)));
    }
}

#[test]
fn h7_the_last_possible_indices_are_accepted() {
    let memory = ring();
    let mut outgoing = OutgoingRing::new(memory.clone());
    set(&memory, Word::ReadIndex, DATA_SIZE - 8);
    assert_eq!(outgoing.free(), Ok(DATA_SIZE - 8));
    let mut incoming = IncomingRing::new(memory.clone());
    set(&memory, Word::WriteIndex, DATA_SIZE - 8);
    assert!(matches!(incoming.next(&mut Vec::new()), Err(Corruption::PayloadOffset { offset: 0, length: 0 })));
}

#[test]
fn h4_h5_h6_each_length_is_accepted_up_to_what_was_written_and_refused_beyond() {
    for (available, length8, accepted) in [
        (24, 2, true),
        (24, 3, false),
        (32, 3, true),
        (32, 4, false),
        (DATA_SIZE - 8, 510, true),
        (DATA_SIZE - 8, 511, false),
        (DATA_SIZE - 8, u16::MAX, false),
    ] {
        let memory = ring();
        let mut incoming = IncomingRing::new(memory.clone());
        memory.write(0, &descriptor(6, 2, length8, 0));
        set(&memory, Word::WriteIndex, available);
        let mut scratch = Vec::new();
        let taken = incoming.next(&mut scratch).map(|packet| packet.unwrap().payload.len());
        let expected = Corruption::Length { length: u32::from(length8) * 8, available };
        let payload = (usize::from(length8) * 8).saturating_sub(16);
        assert_eq!(taken, if accepted { Ok(payload) } else { Err(expected) });
        assert!(scratch.len() < DATA_SIZE as usize, "nothing is allocated for a length that is refused");
    }
}

#[test]
fn h5_each_payload_offset_is_accepted_inside_the_packet_and_refused_outside() {
    for (kind, offset8, accepted) in [
        (6, 0, false),
        (6, 1, false),
        (6, 2, true),
        (6, 7, true),
        (6, 8, false),
        (6, u16::MAX, false),
        (9, 2, false),
        (9, 3, true),
        (9, 7, true),
        (9, 8, false),
    ] {
        let memory = ring();
        let mut incoming = IncomingRing::new(memory.clone());
        memory.write(0, &descriptor(kind, offset8, 7, 1));
        memory.write(20, &1_u32.to_le_bytes());
        set(&memory, Word::WriteIndex, 64);
        assert_eq!(incoming.next(&mut Vec::new()).is_ok(), accepted, "{kind} {offset8}");
    }
}

#[test]
fn h5_only_the_four_types_and_the_one_flag_are_accepted() {
    let take = |kind, flags| {
        let memory = ring();
        let mut incoming = IncomingRing::new(memory.clone());
        memory.write(0, &descriptor(kind, 3, 3, flags));
        memory.write(20, &1_u32.to_le_bytes());
        set(&memory, Word::WriteIndex, 32);
        incoming.next(&mut Vec::new()).map(|packet| packet.unwrap().completion_requested())
    };
    for kind in (0..=0x20).chain([u16::MAX]) {
        let known = [0x6, 0x9, 0xa, 0xb].contains(&kind);
        assert_eq!(take(kind, 0), if known { Ok(false) } else { Err(Corruption::Type(kind)) });
    }
    assert_eq!(take(6, 1), Ok(true));
    for bit in 1..16 {
        assert_eq!(take(6, 1 << bit | 1), Err(Corruption::Flags(1 << bit | 1)));
    }
}

#[test]
fn h11_ranges_that_lie_are_the_packets_error_and_leave_the_ring_alive() {
    let memory = ring();
    let mut incoming = IncomingRing::new(memory.clone());
    memory.write(0, &descriptor(9, 5, 5, 1));
    memory.write(20, &2_u32.to_le_bytes()); // two ranges announced, room for one of one page
    memory.write(24, &[4096_u32.to_le_bytes(), 0_u32.to_le_bytes()].concat());
    memory.write(48, &descriptor(0xa, 2, 2, 0));
    set(&memory, Word::WriteIndex, 72);
    let mut scratch = Vec::new();
    let packet = incoming.next(&mut scratch).unwrap().unwrap();
    assert!(packet.ranges().is_err());
    assert!(packet.payload.is_empty());
    assert!(incoming.next(&mut scratch).unwrap().is_some(), "the next packet is taken");
}

#[test]
fn h8_own_indices_are_published_and_never_read_back() {
    let memory = ring();
    let (mut outgoing, mut incoming) = (OutgoingRing::new(memory.clone()), IncomingRing::new(memory.clone()));
    outgoing.try_write_in_band(1, false, b"12345678").unwrap();
    set(&memory, Word::WriteIndex, 0x100);
    let _ = outgoing.commit();
    assert_eq!(get(&memory, Word::WriteIndex), 32);
    set(&memory, Word::WriteIndex, 0x200);
    outgoing.try_write_in_band(2, false, b"abcdefgh").unwrap();
    let _ = outgoing.commit();
    assert_eq!(get(&memory, Word::WriteIndex), 64);
    let mut scratch = Vec::new();
    assert_eq!(incoming.next(&mut scratch).unwrap().unwrap().transaction_id, 1);
    let _ = incoming.commit();
    set(&memory, Word::ReadIndex, 0);
    assert_eq!(incoming.next(&mut scratch).unwrap().unwrap().transaction_id, 2);
    let _ = incoming.commit();
    assert_eq!(get(&memory, Word::ReadIndex), 64);
}

#[test]
fn h20_a_mask_set_while_we_sleep_is_noticed() {
    let memory = ring();
    let mut incoming = IncomingRing::new(memory.clone());
    assert!(!incoming.mask_tampered());
    assert!(incoming.prepare_sleep());
    assert!(!incoming.mask_tampered());
    set(&memory, Word::InterruptMask, 1);
    assert!(incoming.mask_tampered());
    incoming.mask();
    assert!(!incoming.mask_tampered(), "our own mask is none of their doing");
}

#[test]
fn section_1_1_without_the_feature_bit_a_sender_is_never_signalled() {
    for (features, signalled) in [(0, false), (1, true), (u32::MAX, true), (u32::MAX - 1, false)] {
        let memory = ring();
        let (mut outgoing, mut incoming) = (OutgoingRing::new(memory.clone()), IncomingRing::new(memory.clone()));
        outgoing.try_write_in_band(1, false, &[0; 4000]).unwrap();
        let _ = outgoing.commit();
        assert_eq!(outgoing.want_room(1000), Ok(false));
        set(&memory, Word::FeatureBits, features);
        assert!(incoming.next(&mut Vec::new()).unwrap().is_some());
        assert_eq!(incoming.commit(), signalled, "{features:#x}");
    }
}

#[test]
fn section_1_5_odd_wishes_are_rounded_down_and_none_overflows() {
    // D = 4096, 4024 written, then read: 72 bytes free before, all after.
    for (wanted, signalled) in
        [(1, false), (71, false), (72, true), (79, true), (4095, true), (4096, false), (u32::MAX, false)]
    {
        let memory = ring();
        let (mut outgoing, mut incoming) = (OutgoingRing::new(memory.clone()), IncomingRing::new(memory.clone()));
        outgoing.try_write_in_band(1, false, &[0; 4000]).unwrap();
        let _ = outgoing.commit();
        set(&memory, Word::PendingSendSize, wanted);
        assert!(incoming.next(&mut Vec::new()).unwrap().is_some());
        assert_eq!(incoming.commit(), signalled, "{wanted}");
    }
}

#[test]
fn a_write_index_moved_while_room_is_counted_is_no_reason_to_panic() {
    for write in [0, 8, 40, 4088, 4096, u32::MAX] {
        let memory = ring();
        let (mut outgoing, mut incoming) = (OutgoingRing::new(memory.clone()), IncomingRing::new(memory.clone()));
        outgoing.try_write_in_band(1, false, &[0; 3000]).unwrap();
        let _ = outgoing.commit();
        assert!(incoming.next(&mut Vec::new()).unwrap().is_some());
        set(&memory, Word::PendingSendSize, 500);
        set(&memory, Word::WriteIndex, write);
        let _ = incoming.commit();
        let mut scratch = Vec::new();
        let judged = incoming.next(&mut scratch);
        assert!(judged.is_err(), "garbage behind the packet: {judged:?}");
    }
}

/// Private memory that remembers how often each data byte was read, and turns every byte after its first reading.
struct Fickle {
    words: [AtomicU32; 5],
    data: RefCell<Vec<u8>>,
    reads: RefCell<Vec<u32>>,
    calls: Cell<u32>,
}

impl Fickle {
    fn new(data: Vec<u8>) -> Self {
        let reads = RefCell::new(vec![0; data.len()]);
        Self { words: [const { AtomicU32::new(0) }; 5], data: RefCell::new(data), reads, calls: Cell::new(0) }
    }
}

impl RingMemory for &Fickle {
    fn data_size(&self) -> u32 {
        self.data.borrow().len() as u32
    }

    fn word(&self, word: Word) -> &AtomicU32 {
        &self.words[word as usize]
    }

    fn read(&self, at: u32, into: &mut [u8]) {
        self.calls.set(self.calls.get() + 1);
        for (offset, byte) in into.iter_mut().enumerate() {
            let at = at as usize + offset;
            *byte = self.data.borrow()[at];
            self.data.borrow_mut()[at] ^= 0xff;
            self.reads.borrow_mut()[at] += 1;
        }
    }

    fn write(&self, at: u32, from: &[u8]) {
        self.data.borrow_mut()[at as usize..][..from.len()].copy_from_slice(from);
    }
}

#[test]
fn h4_h13_every_byte_of_a_packet_is_read_at_most_once() {
    let mut data = vec![0; 256];
    data[..16].copy_from_slice(&descriptor(9, 6, 8, 1));
    data[20..24].copy_from_slice(&1_u32.to_le_bytes());
    data[24..28].copy_from_slice(&8192_u32.to_le_bytes());
    data[32..48].copy_from_slice(&[7; 16]);
    data[48..64].copy_from_slice(&[9; 16]);
    let memory = Fickle::new(data);
    let mut incoming = IncomingRing::new(&memory);
    set(&&memory, Word::WriteIndex, 72);
    let mut scratch = Vec::new();
    let packet = incoming.next(&mut scratch).unwrap().unwrap();
    assert_eq!((packet.payload, packet.transaction_id), (&[9; 16][..], 0));
    assert!(packet.ranges().unwrap().all(|range| range.pfns().all(|pfn| pfn == 0x0707_0707_0707_0707)));
    let reads = memory.reads.borrow();
    assert!(reads[..64].iter().all(|count| *count == 1), "{reads:?}");
    assert!(reads[64..].iter().all(|count| *count == 0), "the trailer is never trusted");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_and_any_indices_are_errors_or_packets_and_end(
        words in prop::collection::vec(prop_oneof![any::<u32>(), (0_u32..512).prop_map(|at| at * 8)], 5),
        descriptors in prop::collection::vec((0_u16..16, 0_u16..8, 0_u16..24, 0_u16..3, any::<[u8; 8]>()), 1..64),
        start in 0_u32..512,
        noise in any::<u8>(),
    ) {
        let memory = ring();
        // Plausible descriptors, one behind the other, so that some are taken before one is refused.
        let mut at = start * 8;
        memory.write(0, &[noise; DATA_SIZE as usize]);
        for (kind, offset8, length8, flags, rest) in descriptors {
            let bytes = [&descriptor(kind, offset8, length8, flags)[..], &rest].concat();
            bytes.iter().enumerate().for_each(|(by, byte)| memory.write((at + by as u32) % DATA_SIZE, &[*byte]));
            at = (at + u32::from(length8) * 8 + 8) % DATA_SIZE;
        }
        let mut incoming = IncomingRing::starting_at(memory.clone(), start * 8);
        let mut outgoing = OutgoingRing::starting_at(memory.clone(), start * 8);
        let names = [Word::WriteIndex, Word::ReadIndex, Word::InterruptMask, Word::PendingSendSize, Word::FeatureBits];
        names.into_iter().zip(words).for_each(|(word, value)| set(&memory, word, value));
        let mut scratch = Vec::new();
        let mut packets = 0;
        while let Ok(Some(packet)) = incoming.next(&mut scratch) {
            packets += 1;
            prop_assert!(packets <= DATA_SIZE / 24, "more packets than a ring holds");
            if let Ok(ranges) = packet.ranges() {
                for range in ranges {
                    let spanned = (u64::from(range.byte_offset) + u64::from(range.byte_count)).div_ceil(4096);
                    prop_assert!(range.byte_count > 0 && range.pfns().len() as u64 == spanned);
                }
            }
        }
        let _ = incoming.commit();
        let _ = incoming.prepare_sleep();
        let _ = outgoing.try_write_in_band(1, true, &[1; 100]);
        let _ = outgoing.commit();
        let _ = outgoing.want_room(200);
        prop_assert!(scratch.len() < DATA_SIZE as usize);
        prop_assert_eq!(bytes_around(&memory), [0; 16]);
    }
}

/// The bytes just outside a ring that lies a page into its region: nothing may ever be written there.
fn bytes_around(memory: &MappedRing) -> [u8; 16] {
    let mut around = [0; 16];
    memory.region().read(0, &mut around);
    memory.region().read(PAGE_SIZE + CONTROL_PAGE_SIZE + DATA_SIZE as usize, &mut around[8..]);
    around
}
