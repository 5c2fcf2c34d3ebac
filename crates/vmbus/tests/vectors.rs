//! The golden vectors of tests/vectors/ring.json, which pytest reads too: what is written is what the vector says, byte
//! for byte, and what is read back means what it says.

#![cfg(not(feature = "loom"))]

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use vmbus::corruption::Corruption;
use vmbus::incoming::IncomingRing;
use vmbus::layout::{CONTROL_PAGE_SIZE, DESCRIPTOR_SIZE, PAGE_SIZE, Word};
use vmbus::mapped::MappedRing;
use vmbus::memory::Region;
use vmbus::outgoing::OutgoingRing;
use vmbus::packet::{OutgoingPacket, PacketKind};
use vmbus::ring::RingMemory;
use vmbus::sync::Ordering;

fn vectors(section: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/ring.json");
    let text = std::fs::read_to_string(path).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    all[section].as_array().unwrap().clone()
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let digits = hex.as_str().unwrap().as_bytes();
    assert!(digits.len().is_multiple_of(2));
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks_exact(2).map(pair).collect()
}

fn ring(data_size: u32) -> MappedRing {
    let size = CONTROL_PAGE_SIZE + data_size as usize;
    let (region, _fd) = Region::create_sealed("vectors", size).unwrap();
    let ring = MappedRing::new(Arc::new(region), 0, size);
    ring.initialise();
    ring
}

#[test]
fn section_7_packets_are_written_byte_for_byte() {
    for vector in vectors("packets") {
        let name = &vector["name"];
        let memory = ring(number(&vector["data_size"]));
        let start = number(&vector["start"]);
        let mut outgoing = OutgoingRing::starting_at(memory.clone(), start);
        let read_index = vector.get("read_index").map_or(start, number);
        memory.word(Word::ReadIndex).store(read_index, Ordering::Relaxed);
        let (payload, pfns) = (bytes(&vector["packet"]["payload"]), pfns_of(&vector["packet"]));
        outgoing.try_write(&packet_of(&vector["packet"], &pfns, &payload)).unwrap();
        assert_eq!(memory.word(Word::WriteIndex).load(Ordering::Relaxed), start, "{name}: not before the commit");
        assert_eq!(outgoing.commit(), vector["signal"].as_bool().unwrap(), "{name}: signal");
        let write_index = memory.word(Word::WriteIndex).load(Ordering::Relaxed);
        assert_eq!(write_index, number(&vector["write_index_after"]), "{name}: write index");
        for piece in vector["ring"].as_array().unwrap() {
            let expected = bytes(&piece["hex"]);
            let mut written = vec![0xee; expected.len()];
            memory.read(number(&piece["at"]), &mut written);
            assert_eq!(written, expected, "{name}");
        }
    }
}

fn pfns_of(packet: &Value) -> Vec<u64> {
    let pfns = packet.get("pfns").and_then(Value::as_array);
    pfns.into_iter().flatten().map(|pfn| pfn.as_u64().unwrap()).collect()
}

fn packet_of<'a>(packet: &Value, pfns: &'a [u64], payload: &'a [u8]) -> OutgoingPacket<'a> {
    let id = packet["transaction_id"].as_u64().unwrap();
    match PacketKind::from_code(number(&packet["type"]) as u16).unwrap() {
        PacketKind::InBand => OutgoingPacket::in_band(id, packet["flags"] == 1, payload),
        PacketKind::GpaDirect => OutgoingPacket::gpa_direct(id, pfns, payload),
        PacketKind::Cancel => OutgoingPacket::cancel(id),
        PacketKind::Completion => OutgoingPacket::completion(id, payload),
    }
}

#[test]
fn section_7_packets_are_understood() {
    for vector in vectors("packets") {
        let name = &vector["name"];
        let memory = ring(number(&vector["data_size"]));
        let mut incoming = IncomingRing::starting_at(memory.clone(), number(&vector["start"]));
        for piece in vector["ring"].as_array().unwrap() {
            memory.write(number(&piece["at"]), &bytes(&piece["hex"]));
        }
        memory.word(Word::WriteIndex).store(number(&vector["write_index_after"]), Ordering::Relaxed);
        let mut scratch = Vec::new();
        let packet = incoming.next(&mut scratch).unwrap().unwrap();
        let expected = &vector["packet"];
        assert_eq!(u32::from(packet.kind.code()), number(&expected["type"]), "{name}");
        assert_eq!(u32::from(packet.flags), number(&expected["flags"]), "{name}");
        assert_eq!(Some(packet.transaction_id), expected["transaction_id"].as_u64(), "{name}");
        let mut payload = bytes(&expected["payload"]);
        payload.resize(payload.len().next_multiple_of(8), 0);
        assert_eq!(packet.payload, payload, "{name}");
        let ranges: Vec<_> = packet.ranges().unwrap().collect();
        let pfns: Vec<u64> = ranges.iter().flat_map(|range| range.pfns()).collect();
        assert_eq!(pfns, pfns_of(expected), "{name}");
        if let [range] = ranges[..] {
            assert_eq!(
                (range.byte_count, range.byte_offset),
                (number(&expected["byte_count"]), number(&expected["byte_offset"]))
            );
        }
        assert!(incoming.next(&mut scratch).unwrap().is_none(), "{name}: one packet");
        let _ = incoming.commit();
        let read_index = memory.word(Word::ReadIndex).load(Ordering::Relaxed);
        assert_eq!(read_index, number(&vector["write_index_after"]), "{name}: the trailer is accounted for");
    }
}

#[test]
fn section_7_the_largest_request_has_the_stated_numbers() {
    for vector in vectors("numbers") {
        let pfns: Vec<u64> = (0..u64::from(number(&vector["pages"]))).collect();
        let payload = vec![0; number(&vector["payload_bytes"]) as usize];
        let packet = OutgoingPacket::gpa_direct(1, &pfns, &payload);
        assert_eq!(packet.length(), number(&vector["packet_bytes"]) as usize);
        let memory = ring(31 * PAGE_SIZE as u32);
        let mut outgoing = OutgoingRing::new(memory.clone());
        outgoing.try_write(&packet).unwrap();
        assert!(outgoing.try_write(&packet).is_err(), "spec/azure-blob-device.md §2.5: one at a time");
        let mut head = [0; DESCRIPTOR_SIZE];
        memory.read(0, &mut head);
        let field = |at: usize| u32::from(u16::from_le_bytes([head[at], head[at + 1]]));
        assert_eq!((field(2), field(4)), (number(&vector["offset8"]), number(&vector["length8"])));
        let mut incoming = IncomingRing::new(memory);
        let _ = outgoing.commit();
        let mut scratch = Vec::new();
        let packet = incoming.next(&mut scratch).unwrap().unwrap();
        let range = packet.ranges().unwrap().next().unwrap();
        assert_eq!((range.byte_count, range.pfns().len()), (32 << 20, 8192));
        assert!(range.pfns().eq(pfns));
    }
}

fn name_of(corruption: Corruption) -> &'static str {
    match corruption {
        Corruption::Index { .. } => "index",
        Corruption::Truncated { .. } => "truncated",
        Corruption::Length { .. } => "length",
        Corruption::PayloadOffset { .. } => "payload_offset",
        Corruption::Type(_) => "type",
        Corruption::Flags(_) => "flags",
        Corruption::NoRanges { .. } => "no_ranges",
    }
}

#[test]
fn h5_and_h6_packets_that_cannot_be_are_refused_wherever_they_start() {
    for vector in vectors("refused") {
        for start in [0, 4096 - 8] {
            let (memory, content) = (ring(4096), bytes(&vector["hex"]));
            assert_eq!(content.len() as u32, number(&vector["available"]), "{}", vector["name"]);
            let mut incoming = IncomingRing::starting_at(memory.clone(), start);
            for (at, byte) in content.iter().enumerate() {
                memory.write((start + at as u32) % 4096, &[*byte]);
            }
            let end = (start + content.len() as u32) % 4096;
            memory.word(Word::WriteIndex).store(end, Ordering::Relaxed);
            let corruption = incoming.next(&mut Vec::new()).unwrap_err();
            assert_eq!(name_of(corruption), vector["error"].as_str().unwrap(), "{}: {corruption}", vector["name"]);
        }
    }
}
