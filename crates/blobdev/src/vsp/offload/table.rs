//! The entries by target and policy scope: found without a lock that guests wait for, bounded, oldest unused out first.
//!
//! A hit takes one of many read locks for the time of a look-up, counts a reference, and writes nothing else. Installs
//! and evictions, which are rare, queue behind one mutex. Eviction is CLOCK: an entry that was used since the hand last
//! passed stays for another round, which approximates least recently used and costs hits nothing.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard, Weak};

#[cfg(feature = "loom")]
use loom::sync::Mutex;
#[cfg(not(feature = "loom"))]
use std::sync::Mutex;

use super::entry::{Content, Entry, Pin};
use super::generation::Generation;

const SHARDS: usize = 64;
/// Targets that were missed lately, remembered by their hash.
const MISSED: usize = 1 << 14;

/// The keys are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 keys are hashed");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// A cache line (and its neighbour, which is fetched with it) for each lock.
#[repr(align(128))]
#[derive(Default)]
struct Shard(RwLock<HashMap<u64, Arc<Entry>, BuildHasherDefault<Hashed>>>);

impl Shard {
    fn write(&self) -> RwLockWriteGuard<'_, HashMap<u64, Arc<Entry>, BuildHasherDefault<Hashed>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Clock {
    /// In the order of their install or their last reprieve. Dead ones are swept when they are many.
    hand: VecDeque<Weak<Entry>>,
    /// Of the entries in the table.
    cost: usize,
}

/// What happened to entries since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// Entries that were installed.
    pub installs: u64,
    /// Installs that came too late: a generation had moved.
    pub late: u64,
    /// Entries that made room.
    pub evictions: u64,
    /// Entries whose generation moved.
    pub invalidations: u64,
}

/// The table of one engine.
pub struct Table {
    shards: Box<[Shard]>,
    missed: Box<[AtomicU64]>,
    clock: Mutex<Clock>,
    cost_max: usize,
    hasher: RandomState,
    changes: Mutex<Changes>,
}

impl Table {
    /// Makes a table of at most `entries_max` entries (of up to 64 runs; longer ones count more). 0: no entry is taken.
    pub fn new(entries_max: usize) -> Arc<Self> {
        let on = usize::from(entries_max > 0);
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            missed: (0..MISSED * on).map(|_| AtomicU64::new(0)).collect(),
            clock: Mutex::default(),
            cost_max: entries_max,
            hasher: RandomState::new(),
            changes: Mutex::default(),
        })
    }

    /// Tells whether entries are taken at all.
    pub fn is_on(&self) -> bool {
        self.cost_max > 0
    }

    /// Writes the key of a target into `key` and returns its hash. The parts hold no NUL (RFC 9292 control data).
    pub fn key(&self, key: &mut Vec<u8>, scope: u64, target: [&[u8]; 3]) -> u64 {
        key.clear();
        key.extend_from_slice(&scope.to_le_bytes());
        for part in target {
            key.extend_from_slice(part);
            key.push(0);
        }
        self.hasher.hash_one(&key[..])
    }

    fn shard(&self, hash: u64) -> &Shard {
        // The map inside takes its buckets from the other end of the hash.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// Finds the entry of a key.
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<Arc<Entry>> {
        let shard = self.shard(hash).0.read().unwrap_or_else(PoisonError::into_inner);
        let entry = shard.get(&hash).filter(|entry| *entry.key == *key)?;
        entry.mark_used();
        Some(Arc::clone(entry))
    }

    /// Notes a miss; true when the same target was missed lately, so that an entry is worth its install.
    pub fn missed(&self, hash: u64) -> bool {
        // Relaxed: a hint. Two targets that share a place forget each other.
        let place = &self.missed[hash as usize % MISSED];
        let again = place.load(Ordering::Relaxed) == hash;
        if !again {
            place.store(hash, Ordering::Relaxed);
        }
        again
    }

    /// Installs an entry, in place of any of the same key; false if a generation is not at its expected value any more.
    ///
    /// Whether it is taken or not, `pin` is dropped when nobody refers to the entry any more.
    pub fn install(
        self: &Arc<Self>,
        scope: u64,
        target: [&[u8]; 3],
        content: Content,
        generations: Vec<(Arc<Generation>, u64)>,
        pin: Pin,
    ) -> bool {
        let mut key = Vec::new();
        let hash = self.key(&mut key, scope, target);
        let entry = Entry::new(key.into(), hash, content, generations, Arc::downgrade(self), pin);
        let entry = Arc::new(entry);
        if entry.cost() > self.cost_max || !entry.watch() {
            self.change(|changes| changes.late += 1);
            return false;
        }
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = self.shard(hash).write().insert(hash, Arc::clone(&entry));
        clock.cost += entry.cost();
        clock.cost -= replaced.as_ref().map_or(0, |entry| entry.cost());
        clock.hand.push_back(Arc::downgrade(&entry));
        drop(clock);
        self.change(|changes| changes.installs += 1);
        // A generation that moved between `watch` and the insertion looked for the entry and did not find it: it moved
        // before it took the shard's lock and we took that lock after it, so we see its new value here.
        if !entry.holds() {
            self.invalidate(&entry);
        }
        self.make_room();
        true
    }

    /// Takes an entry out because a generation moved.
    pub(super) fn invalidate(&self, entry: &Arc<Entry>) {
        if self.remove(entry) {
            self.change(|changes| changes.invalidations += 1);
        }
    }

    fn remove(&self, entry: &Arc<Entry>) -> bool {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shard = self.shard(entry.hash).write();
        if !shard.get(&entry.hash).is_some_and(|found| Arc::ptr_eq(found, entry)) {
            return false;
        }
        let removed = shard.remove(&entry.hash);
        clock.cost -= entry.cost();
        drop((shard, clock)); // dropping the last reference tells the control plane: not under a lock
        drop(removed);
        true
    }

    /// Evicts until the bound holds.
    fn make_room(&self) {
        // Hits may mark entries as fast as the hand unmarks them; one round of reprieves is enough.
        let mut reprieves = self.cost_max;
        while let Some(victim) = self.pass_hand() {
            if reprieves > 0 && victim.unmark_used() {
                reprieves -= 1;
                self.reprieve(&victim);
            } else if self.remove(&victim) {
                self.change(|changes| changes.evictions += 1);
            }
        }
    }

    /// Returns the entry under the hand while the table is over its bound.
    fn pass_hand(&self) -> Option<Arc<Entry>> {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if clock.hand.len() > 2 * self.cost_max + 64 {
            clock.hand.retain(|entry| entry.strong_count() > 0);
        }
        while clock.cost > self.cost_max {
            let found = clock.hand.pop_front()?.upgrade();
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn reprieve(&self, entry: &Arc<Entry>) {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.hand.push_back(Arc::downgrade(entry));
    }

    /// Takes every entry out: the host stops.
    pub fn clear(&self) {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let removed: Vec<_> = self.shards.iter().map(|shard| std::mem::take(&mut *shard.write())).collect();
        *clock = Clock::default();
        drop(clock);
        drop(removed);
    }

    fn change(&self, change: impl FnOnce(&mut Changes)) {
        change(&mut self.changes.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What happened since the start.
    pub fn changes(&self) -> Changes {
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entries that hold now, in no order.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        let of = |shard: &Shard| -> Vec<_> {
            shard.0.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
        };
        self.shards.iter().flat_map(of).filter(|entry| entry.holds()).collect()
    }
}
