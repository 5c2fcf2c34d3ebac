//! The parts of one version of a blob, as they come and go: what an entry answers from while not all of it is at hand.
//!
//! An entry's generations say whether the version may be answered at all; the parts say only which of its bytes are here.
//! Invariant: what is put in a place are the bytes of that place in that one version, so answering from a part that was
//! taken away meanwhile is late for nobody. Source: issue 5; docs/decisions/0014.
//!
//! Orderings. `put` writes under a place's lock what `take` reads under it, so whoever takes a part sees all that was
//! stored before it was put. `take` counts a reference under the lock and `remove` empties the place under it: a read
//! either has its own reference when `remove` returns, and the bytes stay until it is given up, or finds nothing. Space
//! is used again by whoever drops the last reference, never before. The marks beside are hints, ordered with nothing.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[cfg(feature = "loom")]
use loom::sync::RwLock;
#[cfg(not(feature = "loom"))]
use std::sync::RwLock;

/// One part's place.
struct Place<T> {
    held: RwLock<Option<T>>,
    /// The next read is the control plane's to answer.
    is_untold: AtomicBool,
    /// Where in the part a reader would go on.
    next: AtomicU64,
    /// Reads that did not go on where the one before had ended.
    uses: AtomicU64,
}

/// A part that was taken: what holds it, and which of its bytes are asked for.
pub struct Taken<T> {
    /// What was put.
    pub part: T,
    /// First byte of the part.
    pub offset: u64,
    /// Bytes of it.
    pub length: u64,
}

/// Places for `size` bytes in parts of `part_size` bytes, the last perhaps shorter. Generic, for its rules do not depend
/// on what holds a part.
pub struct Parts<T> {
    size: u64,
    part_size: u64,
    places: Box<[Place<T>]>,
}

impl<T: Clone> Parts<T> {
    /// Makes empty places; `None` where sizes are 0 or the places too many to be had.
    pub fn new(size: u64, part_size: u64) -> Option<Self> {
        let count = usize::try_from(size.checked_add(part_size)?.checked_sub(1)?.checked_div(part_size)?).ok()?;
        let mut places = Vec::new();
        places.try_reserve_exact(count).ok()?;
        places.extend((0..count).map(|_| Place {
            held: RwLock::new(None),
            is_untold: AtomicBool::new(false),
            next: AtomicU64::new(0),
            uses: AtomicU64::new(0),
        }));
        (count > 0).then(|| Self { size, part_size, places: places.into() })
    }

    /// Bytes of the whole.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many parts there are places for.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// Bytes of a part; 0 beyond the last one.
    pub fn length(&self, number: usize) -> u64 {
        self.size.saturating_sub((number as u64).saturating_mul(self.part_size)).min(self.part_size)
    }

    /// Puts a part in its place, in place of what was there; false beyond the last one.
    ///
    /// untold: its first read goes to the control plane, which wants to know how far readers are.
    pub fn put(&self, number: usize, part: T, untold: bool) -> bool {
        let Some(place) = self.places.get(number) else { return false };
        let mut held = place.held.write().unwrap_or_else(PoisonError::into_inner);
        place.next.store(0, Ordering::Relaxed);
        place.uses.store(0, Ordering::Relaxed);
        place.is_untold.store(untold, Ordering::Relaxed);
        let replaced = held.replace(part);
        drop(held);
        drop(replaced); // perhaps the last reference: not under the lock
        true
    }

    /// Empties a place: when this returns, nobody takes the part any more.
    pub fn remove(&self, number: usize) {
        if let Some(place) = self.places.get(number) {
            let removed = place.held.write().unwrap_or_else(PoisonError::into_inner).take();
            drop(removed);
        }
    }

    /// Takes what holds `length` bytes from `offset` on; false, and nothing is taken, when a part is missing or untold.
    pub fn take(&self, offset: u64, length: u64, taken: &mut Vec<Taken<T>>) -> bool {
        debug_assert!(taken.is_empty());
        let (mut at, end) = (offset, offset.saturating_add(length));
        let mut is_untold = false;
        if end > self.size {
            return false;
        }
        while at < end {
            let number = (at / self.part_size) as usize;
            let Some(place) = self.places.get(number) else { break };
            let Some(part) = place.held.read().unwrap_or_else(PoisonError::into_inner).clone() else { break };
            let skip = at % self.part_size;
            let wanted = (end - at).min(self.length(number) - skip);
            is_untold |= place.note(skip, skip + wanted);
            taken.push(Taken { part, offset: skip, length: wanted });
            at += wanted;
        }
        let is_taken = at == end && !is_untold;
        if !is_taken {
            taken.clear();
        }
        is_taken
    }

    /// Says how often a part was used since the last call, or since it was put. One pass from front to back is no use.
    pub fn take_uses(&self, number: usize) -> u64 {
        self.places.get(number).map_or(0, |place| place.uses.swap(0, Ordering::Relaxed))
    }
}

impl<T> Place<T> {
    /// Notes a read of bytes `begin` to `end`; true for the first one of a part that is untold.
    fn note(&self, begin: u64, end: u64) -> bool {
        // One use too few or too many is nothing; what is not there is not written, so that hits share the line.
        if self.next.load(Ordering::Relaxed) != begin {
            self.uses.store(self.uses.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        self.next.store(end, Ordering::Relaxed);
        self.is_untold.load(Ordering::Relaxed) && self.is_untold.swap(false, Ordering::Relaxed)
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    fn taken(parts: &Parts<char>, offset: u64, length: u64) -> Option<Vec<(char, u64, u64)>> {
        let mut taken = Vec::new();
        let complete = parts.take(offset, length, &mut taken);
        assert!(complete || taken.is_empty(), "what is not complete holds nothing");
        complete.then(|| taken.iter().map(|one| (one.part, one.offset, one.length)).collect())
    }

    #[test]
    fn a_read_is_answered_when_all_of_its_parts_are_here_and_only_then() {
        let parts = Parts::new(25, 10).unwrap();
        assert_eq!((parts.count(), parts.length(0), parts.length(2), parts.length(3)), (3, 10, 5, 0));
        assert_eq!(taken(&parts, 0, 1), None);
        assert!(parts.put(1, 'b', false) && parts.put(2, 'c', false) && !parts.put(3, 'd', false));
        assert_eq!(taken(&parts, 9, 2), None);
        assert_eq!(taken(&parts, 10, 15), Some(vec![('b', 0, 10), ('c', 0, 5)]));
        assert_eq!(taken(&parts, 19, 2), Some(vec![('b', 9, 1), ('c', 0, 1)]));
        assert_eq!(taken(&parts, 24, 2), None, "beyond the end there is nothing");
        parts.remove(1);
        parts.remove(7);
        assert_eq!((taken(&parts, 10, 1), taken(&parts, 24, 1)), (None, Some(vec![('c', 4, 1)])));
        assert!(Parts::<char>::new(0, 10).is_none() && Parts::<char>::new(10, 0).is_none());
    }

    #[test]
    fn the_first_read_of_an_untold_part_is_the_control_planes_and_no_other() {
        let parts = Parts::new(20, 10).unwrap();
        parts.put(0, 'a', false);
        parts.put(1, 'b', true);
        assert_eq!(taken(&parts, 0, 10), Some(vec![('a', 0, 10)]));
        assert_eq!(taken(&parts, 5, 10), None);
        assert_eq!(taken(&parts, 5, 10), Some(vec![('a', 5, 5), ('b', 0, 5)]));
    }

    #[test]
    fn one_pass_is_no_use_a_second_one_is_and_so_is_every_jump() {
        let parts = Parts::new(40, 40).unwrap();
        parts.put(0, 'a', false);
        (0..4).for_each(|step| assert!(taken(&parts, 10 * step, 10).is_some()));
        assert_eq!(parts.take_uses(0), 0);
        (0..4).for_each(|step| assert!(taken(&parts, 10 * step, 10).is_some()));
        assert_eq!((parts.take_uses(0), parts.take_uses(0)), (1, 0));
        [7, 3, 30].into_iter().for_each(|at| assert!(taken(&parts, at, 2).is_some()));
        assert_eq!((parts.take_uses(0), parts.take_uses(9)), (3, 0));
        parts.put(0, 'b', false);
        assert!(taken(&parts, 0, 40).is_some() && parts.take_uses(0) == 0);
    }
}
