//! GPA ranges of a peer's making against a guest's lent memory (H11, H12, H15, design rule 1).
//!
//! Input: a byte of choices, then the range area of a GPA-direct packet. Page numbers are taken modulo a few hundred
//! when the first choice is set, so that many of them are lent. The second opinion looks each page up by itself.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

use vmbus::gpa::{GpaRange, GuestMemory};
use vmbus::incoming::IncomingRing;
use vmbus::layout::{ALIGNMENT, DESCRIPTOR_SIZE, PAGE_SIZE, TYPE_GPA_DIRECT, Word};
use vmbus::memory::{Lent, Region, SpanList};
use vmbus::ring::RingMemory;

use crate::memory::PlainRing;

/// First page and number of pages of each lent region; two of them touch.
const LENT: [(u64, u64); 4] = [(4, 3), (7, 5), (64, 16), (1 << 40, 2)];
/// Pages of a ring.
const RING: [u64; 4] = [65, 66, 70, 9];
const AREA_MAX: usize = 4096;

static REGIONS: LazyLock<Vec<Arc<Region>>> = LazyLock::new(|| {
    let region = |pages| {
        let (_, fd) = Region::create_sealed("fuzz", pages as usize * PAGE_SIZE).expect("a memfd");
        Arc::new(Region::map_sealed(std::os::fd::AsFd::as_fd(&fd), pages * PAGE_SIZE as u64).expect("it is sealed"))
    };
    LENT.iter().map(|&(_, pages)| region(pages)).collect()
});

fn memory() -> GuestMemory {
    let mut memory = GuestMemory::new();
    for (&(first, _), region) in LENT.iter().zip(&*REGIONS) {
        memory.add(first, Arc::clone(region)).expect("they do not overlap");
    }
    memory.forbid(&RING);
    memory
}

fn place_of(pfn: u64) -> Option<(usize, usize)> {
    let region = LENT.iter().position(|&(first, pages)| pfn >= first && pfn - first < pages)?;
    (!RING.contains(&pfn)).then_some((region, (pfn - LENT[region].0) as usize * PAGE_SIZE))
}

/// Judges the ranges, finds their memory, and maps them as a ring would be.
pub fn check(data: &[u8]) {
    let Some((&choices, area)) = data.split_first() else { return };
    let mut area = area[..area.len().min(AREA_MAX) / 8 * 8].to_vec();
    if choices & 1 != 0 {
        soften(&mut area);
    }
    let length8 = ((DESCRIPTOR_SIZE + area.len()) / ALIGNMENT) as u16;
    let descriptor = [TYPE_GPA_DIRECT, length8, length8, 0, 0, 0, 0, 0].map(u16::to_le_bytes).concat();
    let packet = [descriptor, area].concat();
    let ring = &PlainRing::new([&packet[..], &[0; 64]].concat());
    let mut incoming = IncomingRing::new(ring);
    ring.word(Word::WriteIndex).store(packet.len() as u32 + 8, Ordering::Relaxed);
    let mut scratch = Vec::new();
    let Ok(Some(packet)) = incoming.next(&mut scratch) else { return };
    let memory = memory();
    let Ok(ranges) = packet.ranges() else { return };
    for range in ranges {
        check_range(&memory, &range);
        if choices & 2 != 0 {
            check_mapping(&memory, &range);
        }
    }
}

/// Makes page numbers small; the first 16 bytes are the packet's and the range's own words.
fn soften(area: &mut [u8]) {
    for (at, byte) in area.iter_mut().skip(16).enumerate() {
        *byte = if at % 8 == 0 { *byte % 96 } else { 0 };
    }
}

fn check_range(memory: &GuestMemory, range: &GpaRange<'_>) {
    let pfns: Vec<u64> = range.pfns().collect();
    let spanned = (u64::from(range.byte_offset) + u64::from(range.byte_count)).div_ceil(PAGE_SIZE as u64);
    assert!(range.byte_count > 0 && range.byte_offset < 4096 && pfns.len() as u64 == spanned);
    let places: Option<Vec<_>> = pfns.iter().map(|pfn| place_of(*pfn)).collect();
    match (memory.resolve(range), places) {
        (Ok(list), Some(places)) => check_list(&list, range, &places),
        (Err(_), None) => {}
        (found, expected) => panic!("{range:?}: {found:?}, page by page {expected:?}"),
    }
}

fn check_list(list: &SpanList, range: &GpaRange<'_>, places: &[(usize, usize)]) {
    assert_eq!(list.len(), range.byte_count as usize);
    let mut at = range.byte_offset as usize;
    for span in list.spans() {
        for offset in (0..span.len()).step_by(512) {
            let (region, page) = places[(at + offset) / PAGE_SIZE];
            assert!(matches!(span.memory(), Lent::Sealed(found) if Arc::ptr_eq(found, &REGIONS[region])));
            assert_eq!(span.offset() + offset, page + (at + offset) % PAGE_SIZE);
        }
        at += span.len();
    }
    let half = list.slice(list.len() / 2, list.len() - list.len() / 2);
    assert_eq!(half.len(), list.len() - list.len() / 2);
}

fn check_mapping(memory: &GuestMemory, range: &GpaRange<'_>) {
    let pfns: Vec<u64> = range.pfns().collect();
    let distinct = pfns.iter().collect::<BTreeSet<_>>().len() == pfns.len();
    let lent = pfns.iter().all(|pfn| place_of(*pfn).is_some());
    match memory.map_linear(&pfns) {
        Ok(region) => assert!(distinct && lent && region.len() == pfns.len() * PAGE_SIZE),
        Err(_) => assert!(!distinct || !lent || pfns.len() > 256),
    }
}
