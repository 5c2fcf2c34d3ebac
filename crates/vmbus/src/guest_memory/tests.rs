//! The table of lent memory: overlaps, look-ups at every border, forbidden ring pages (design rule 1).

use std::os::fd::AsFd;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn lent(pages: usize) -> (Region, Arc<Region>) {
    let (guest, fd) = Region::create_sealed("lent", pages * PAGE_SIZE).unwrap();
    let host = Region::map_sealed(fd.as_fd(), (pages * PAGE_SIZE) as u64).unwrap();
    (guest, Arc::new(host))
}

fn resolve(
    memory: &GuestMemory,
    pfns: &[u64],
    byte_offset: u32,
    byte_count: u32,
) -> Result<Vec<(usize, usize)>, GpaError> {
    let list = memory.resolve_pages(pfns.iter().copied(), byte_offset, byte_count)?;
    assert_eq!(list.len(), byte_count as usize);
    Ok(list.spans().map(|span| (span.offset(), span.len())).collect())
}

#[test]
fn regions_that_overlap_are_refused_and_neighbours_are_not() {
    let mut memory = GuestMemory::new();
    memory.add(10, lent(4).1).unwrap();
    for (page, pages) in [(10, 4), (7, 4), (13, 1), (9, 6), (11, 2)] {
        assert_eq!(memory.add(page, lent(pages).1), Err(GpaError::Overlap { page }), "{page} {pages}");
    }
    memory.add(14, lent(1).1).unwrap();
    memory.add(8, lent(2).1).unwrap();
    assert_eq!((memory.region_count(), memory.lent_bytes()), (3, 7 * 4096));
    assert_eq!(memory.remove(10).unwrap().len(), 4 * PAGE_SIZE);
    assert!(memory.remove(10).is_none() && memory.remove(11).is_none());
    memory.add(11, lent(1).1).unwrap();
}

#[test]
fn rule_1_the_number_of_regions_is_bounded_and_page_numbers_do_not_overflow() {
    let mut memory = GuestMemory::new();
    let (_, region) = lent(1);
    assert_eq!(memory.add(u64::MAX, Arc::clone(&region)), Err(GpaError::PageNumber { page: u64::MAX }));
    memory.add(u64::MAX - 1, Arc::clone(&region)).unwrap();
    (1..REGIONS_MAX as u64).for_each(|page| memory.add(page, Arc::clone(&region)).unwrap());
    assert_eq!(memory.add(0, region), Err(GpaError::TooManyRegions));
    assert_eq!(resolve(&memory, &[u64::MAX - 1, u64::MAX], 0, 8192), Err(GpaError::NotLent { pfn: u64::MAX }));
    assert_eq!(resolve(&memory, &[u64::MAX, 0], 0, 8192), Err(GpaError::NotLent { pfn: u64::MAX }));
}

#[test]
fn a_range_is_found_where_its_pages_lie_with_its_first_and_last_page_cut() {
    let mut memory = GuestMemory::new();
    memory.add(100, lent(8).1).unwrap();
    assert_eq!(resolve(&memory, &[100, 101, 102], 0, 3 * 4096), Ok(vec![(0, 3 * 4096)]));
    assert_eq!(resolve(&memory, &[103], 4095, 1), Ok(vec![(3 * 4096 + 4095, 1)]));
    assert_eq!(resolve(&memory, &[101, 107], 4000, 100), Ok(vec![(4096 + 4000, 96), (7 * 4096, 4)]));
    // Buffers that share a page name it twice in a row (spec/azure-blob-device.md §2.4).
    assert_eq!(resolve(&memory, &[101, 101], 0, 8192), Ok(vec![(4096, 4096), (4096, 4096)]));
}

#[test]
fn a_range_may_cross_from_one_region_into_its_neighbour() {
    let mut memory = GuestMemory::new();
    memory.add(100, lent(2).1).unwrap();
    memory.add(102, lent(2).1).unwrap();
    assert_eq!(resolve(&memory, &[101, 102], 10, 8182), Ok(vec![(4106, 4086), (0, 4096)]));
}

#[test]
fn rule_1_pages_that_are_not_lent_are_errors_that_name_them() {
    let mut memory = GuestMemory::new();
    memory.add(100, lent(2).1).unwrap();
    for (pfns, pfn) in [([99, 100], 99), ([100, 102], 102), ([101, 102], 102), ([0, 1], 0)] {
        assert_eq!(resolve(&memory, &pfns, 0, 8192), Err(GpaError::NotLent { pfn }));
    }
    assert_eq!(resolve(&memory, &[100], 0, 4097), Err(GpaError::TooFewPages { needed: 2, named: 1 }));
    assert_eq!(resolve(&memory, &[100], 0, 0), Err(GpaError::EmptyRange));
    assert_eq!(resolve(&memory, &[100], 4096, 1), Err(GpaError::Offset { byte_offset: 4096 }));
}

#[test]
fn rule_1_pages_of_a_ring_are_in_no_request_and_no_second_ring() {
    let mut memory = GuestMemory::new();
    memory.add(100, lent(8).1).unwrap();
    memory.forbid(&[103, 102]);
    assert_eq!(resolve(&memory, &[101, 102], 0, 8192), Err(GpaError::Forbidden { pfn: 102 }));
    assert_eq!(memory.map_linear(&[105, 103]).unwrap_err(), GpaError::Forbidden { pfn: 103 });
    assert!(resolve(&memory, &[101, 104], 0, 8192).is_ok());
    memory.allow(&[102]);
    assert!(resolve(&memory, &[102], 0, 4096).is_ok());
    assert_eq!(resolve(&memory, &[103], 0, 4096), Err(GpaError::Forbidden { pfn: 103 }));
}

#[test]
fn pages_of_several_regions_in_any_order_are_one_linear_ring() {
    let mut memory = GuestMemory::new();
    let (first, second) = (lent(4), lent(2));
    memory.add(100, first.1).unwrap();
    memory.add(200, second.1).unwrap();
    let linear = memory.map_linear(&[201, 102, 103, 100]).unwrap();
    assert_eq!(linear.len(), 4 * PAGE_SIZE);
    (0..4).for_each(|page| linear.write(page * PAGE_SIZE, &[page as u8 + 1]));
    let byte = |region: &Region, page: usize| {
        let mut byte = [0];
        region.read(page * PAGE_SIZE, &mut byte);
        byte[0]
    };
    assert_eq!([byte(&second.0, 1), byte(&first.0, 2), byte(&first.0, 3), byte(&first.0, 0)], [1, 2, 3, 4]);
}

#[test]
fn h15_a_ring_names_each_page_once_in_memory_that_was_lent_in_few_runs() {
    let mut memory = GuestMemory::new();
    memory.add(100, lent(2 * MAPPING_RUNS_MAX + 4).1).unwrap();
    assert_eq!(memory.map_linear(&[100, 101, 100]).unwrap_err(), GpaError::Repeated { pfn: 100 });
    assert_eq!(memory.map_linear(&[99]).unwrap_err(), GpaError::NotLent { pfn: 99 });
    assert!(matches!(memory.map_linear(&[]).unwrap_err(), GpaError::Map { .. }));
    let every_second = |runs: usize| (0..runs as u64).map(|run| 100 + 2 * run).collect::<Vec<_>>();
    assert_eq!(memory.map_linear(&every_second(MAPPING_RUNS_MAX)).unwrap().len(), MAPPING_RUNS_MAX * PAGE_SIZE);
    let runs = MAPPING_RUNS_MAX + 1;
    assert_eq!(memory.map_linear(&every_second(runs)).unwrap_err(), GpaError::TooScattered { runs });
}

#[test]
fn what_was_resolved_outlives_the_removal_of_its_region() {
    let mut memory = GuestMemory::new();
    let (guest, host) = lent(1);
    memory.add(5, host).unwrap();
    let list = memory.resolve_pages([5].into_iter(), 0, 4096).unwrap();
    drop(memory.remove(5));
    list.write(0, b"late").unwrap();
    let mut copy = [0; 4];
    guest.read(0, &mut copy);
    assert_eq!(&copy, b"late");
}

proptest! {
    #[test]
    fn a_page_set_is_the_set_of_its_pages(
        changes in prop::collection::vec((any::<bool>(), 0_u64..24), 0..60),
        first in 0_u64..24,
        pages in 1_u64..8,
    ) {
        let mut set = PageSet::default();
        let mut model = std::collections::BTreeSet::new();
        for (insert, page) in changes {
            // The far end of the page numbers behaves like the near one.
            let page = if page % 2 == 0 { page } else { u64::MAX - page / 2 };
            if insert {
                set.insert(page);
                model.insert(page);
            } else {
                set.remove(page);
                model.remove(&page);
            }
            let members: Vec<u64> = set.runs.iter().flat_map(|(start, end)| *start..=*end).collect();
            prop_assert_eq!(&members, &model.iter().copied().collect::<Vec<_>>());
            prop_assert!(set.runs.iter().zip(set.runs.iter().skip(1)).all(|((_, end), (start, _))| end + 1 < *start));
        }
        let run = Run { first, pages };
        prop_assert_eq!(set.first_in(run), model.range(first..first + pages).next().copied());
    }

    #[test]
    fn resolving_finds_exactly_the_named_bytes(
        pfns in prop::collection::vec(98_u64..112, 1..9),
        byte_offset in 0_u32..4096,
        cut in 0_u32..4096,
        forbidden in 98_u64..112,
    ) {
        let mut memory = GuestMemory::new();
        let regions = [(100, lent(4)), (104, lent(3)), (108, lent(2))];
        for (page, (guest, host)) in &regions {
            memory.add(*page, Arc::clone(host)).unwrap();
            let pages = 0..guest.len() / PAGE_SIZE;
            pages.for_each(|at| guest.write(at * PAGE_SIZE, &[*page as u8 + at as u8; PAGE_SIZE]));
        }
        memory.forbid(&[forbidden]);
        let byte_count = (pfns.len() as u32 * 4096 - byte_offset).saturating_sub(cut).max(1);
        let needed = pages_spanned(byte_offset, byte_count).unwrap() as usize;
        let usable = |pfn: &u64| (100..110).contains(pfn) && *pfn != 107 && *pfn != forbidden;
        match memory.resolve_pages(pfns.iter().copied(), byte_offset, byte_count) {
            Ok(list) => {
                let mut copy = vec![0; list.len()];
                list.read(0, &mut copy).unwrap();
                let expected: Vec<u8> = pfns.iter().flat_map(|pfn| [*pfn as u8; PAGE_SIZE]).collect();
                prop_assert_eq!(&copy[..], &expected[byte_offset as usize..][..byte_count as usize]);
                prop_assert!(pfns[..needed].iter().all(usable));
            }
            Err(GpaError::NotLent { pfn } | GpaError::Forbidden { pfn }) => {
                prop_assert!(pfns[..needed].contains(&pfn) && !usable(&pfn));
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
