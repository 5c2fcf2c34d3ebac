//! A whole ring of a peer's making: any indices, any bytes (H4 to H8).
//!
//! Input: start index / 8 (u16), write index (u32), read index, mask, wish and feature bits (u32 each), then the data
//! area. The second opinion is a reader that knows only the linear bytes between the indices.

use std::sync::atomic::Ordering;

use vmbus::incoming::IncomingRing;
use vmbus::layout::Word;
use vmbus::outgoing::OutgoingRing;
use vmbus::ring::RingMemory;

use crate::memory::PlainRing;

/// Bytes of the data area: no power of two.
const DATA_SIZE: usize = 3000;
const HEAD_SIZE: usize = 22;

/// A packet as the naive reader sees it: kind, flags, transaction id, payload.
type Seen = (u16, u16, u64, Vec<u8>);

/// Reads everything from `linear` that is a legal packet; `None` at its end when the rest is corrupt.
fn naive(linear: &[u8]) -> (Vec<Seen>, bool) {
    let mut packets = Vec::new();
    let mut rest = linear;
    while !rest.is_empty() {
        let Some(packet) = naive_packet(rest) else { return (packets, false) };
        rest = &rest[usize::from(u16_at(rest, 4)) * 8 + 8..];
        packets.push(packet);
    }
    (packets, true)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn naive_packet(rest: &[u8]) -> Option<Seen> {
    if rest.len() < 24 {
        return None;
    }
    let (kind, flags) = (u16_at(rest, 0), u16_at(rest, 6));
    let (offset, length) = (usize::from(u16_at(rest, 2)) * 8, usize::from(u16_at(rest, 4)) * 8);
    let legal_type = matches!(kind, 6 | 9 | 0xa | 0xb);
    if length + 8 > rest.len() || offset < 16 || offset > length || flags > 1 || !legal_type {
        return None;
    }
    if kind == 9 && (offset < 24 || rest[20..24] == [0; 4]) {
        return None;
    }
    let id = u64::from_le_bytes(rest[8..16].try_into().ok()?);
    Some((kind, flags, id, rest[offset..length].to_vec()))
}

/// Runs both ends of a ring over the input.
pub fn check(data: &[u8]) {
    let Some((head, bytes)) = data.split_at_checked(HEAD_SIZE) else { return };
    let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes"));
    let start = usize::from(u16_at(head, 0)) * 8 % DATA_SIZE;
    let mut area = bytes[..bytes.len().min(DATA_SIZE)].to_vec();
    area.resize(DATA_SIZE, 0);
    // The bytes begin at the start index, so that inputs mean much the same wherever they wrap.
    area.rotate_right(start);
    let ring = &PlainRing::new(area);
    let mut incoming = IncomingRing::starting_at(ring, start as u32);
    let mut outgoing = OutgoingRing::starting_at(ring, start as u32);
    let names = [Word::WriteIndex, Word::ReadIndex, Word::InterruptMask, Word::PendingSendSize, Word::FeatureBits];
    names.into_iter().enumerate().for_each(|(at, name)| ring.word(name).store(word(2 + at * 4), Ordering::Relaxed));
    check_incoming(ring, &mut incoming, start, word(2) as usize);
    check_outgoing(&mut outgoing);
}

fn check_incoming(ring: &PlainRing, incoming: &mut IncomingRing<&PlainRing>, start: usize, write: usize) {
    let valid = write < DATA_SIZE && write.is_multiple_of(8);
    let available = if valid { (write + DATA_SIZE - start) % DATA_SIZE } else { 0 };
    let (expected, whole) = naive(&ring.linear(start, available));
    let mut scratch = Vec::new();
    let mut taken = Vec::new();
    let sound = loop {
        match incoming.next(&mut scratch) {
            Ok(Some(packet)) => {
                taken.push((packet.kind.code(), packet.flags, packet.transaction_id, packet.payload.to_vec()));
                let _ = packet.ranges().map(|ranges| ranges.flat_map(|range| range.pfns()).count());
            }
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    assert_eq!((&taken, sound), (&expected, valid && whole));
    let _ = incoming.commit();
    assert_eq!(incoming.next(&mut scratch).is_ok(), sound, "once corrupt, always corrupt");
    if sound {
        let _ = incoming.prepare_sleep();
    }
}

fn check_outgoing(outgoing: &mut OutgoingRing<&PlainRing>) {
    for length in [0, 12, 56, 2000] {
        let _ = outgoing.try_write_completion(7, &vec![0xab; length]);
        let _ = outgoing.commit();
        let _ = outgoing.want_room(length as u32 + 24);
        let _ = outgoing.has_room(40);
    }
    outgoing.clear_want();
}
