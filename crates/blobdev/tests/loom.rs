//! Offload entries against writes under every interleaving and every outdated value that the memory model allows (loom).
//!
//! `cargo test -p blobdev --features loom --test loom --release`. Generations, entries and the table are the real ones;
//! the catalog is a word of relaxed atomics behind the weakest publication that generations promise to hold for. Of the
//! table, the lock of installs and evictions is a step of the model's; the shards' locks are not, for nothing else is
//! done under them. The places of parts are real too, with their locks; what a part lies in is a word that whoever drops
//! its last reference overwrites.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;

use blobdev::vsp::events::EventQueue;
use blobdev::vsp::offload::entry::{Bytes, Content, Heads, Pin};
use blobdev::vsp::offload::generation::Generation;
use blobdev::vsp::offload::parts::Parts;
use blobdev::vsp::offload::table::Table;
use blobdev::vsp::offload::template::Template;

const TARGET: [&[u8]; 3] = [b"https", b"host", b"/blob"];

/// One blob: the version that looking shows, its generation, and the table that answers beside it.
struct Store {
    catalog: AtomicU64,
    generation: std::sync::Arc<Generation>,
    table: std::sync::Arc<Table>,
    events: std::sync::Arc<EventQueue>,
}

impl Store {
    fn new(events: &std::sync::Arc<EventQueue>) -> Arc<Self> {
        let generation = std::sync::Arc::new(Generation::new());
        let events = std::sync::Arc::clone(events);
        Arc::new(Self { catalog: AtomicU64::new(0), generation, table: Table::new(4), events })
    }

    fn write(&self, version: u64) {
        self.generation.begin();
        self.catalog.store(version, Ordering::Relaxed); // behind the full fence of `begin`
        self.generation.end();
    }

    /// Looks through Python, which acquires what it sees.
    fn look(&self) -> u64 {
        let version = self.catalog.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        version
    }

    /// Does what the control plane does: the generation first, then the data, then the install.
    fn install(&self) {
        let expected = self.generation.value();
        let version = self.look();
        let template = || Template::new(200, std::iter::empty()).unwrap();
        let heads = Heads { whole: template(), part: template(), head: template(), not_modified: None };
        let content = Content {
            bytes: Bytes::Whole(Vec::new()),
            etag: version.to_le_bytes().to_vec(),
            version: Vec::new(),
            heads,
        };
        let generations = vec![(std::sync::Arc::clone(&self.generation), expected)];
        self.table.install(1, TARGET, content, generations, Pin::new(version, std::sync::Arc::clone(&self.events)));
    }

    /// What an entry answers now.
    fn answer(&self) -> Option<u64> {
        let mut key = Vec::new();
        let hash = self.table.key(&mut key, 1, TARGET);
        let entry = self.table.find(hash, &key).filter(|entry| entry.holds())?;
        Some(u64::from_le_bytes(entry.etag().try_into().unwrap()))
    }

    /// What the table still holds once everybody is done is answered, and is the newest.
    fn is_settled_at(&self, version: u64) {
        assert!(self.answer().is_none_or(|answered| answered == version));
        let kept = self.table.changes();
        assert_eq!(
            kept.installs - kept.invalidations,
            u64::from(self.answer().is_some()),
            "a dead entry pins its bytes"
        );
    }
}

fn check(model: impl Fn(Arc<Store>) + Send + Sync + 'static) {
    let events = std::sync::Arc::new(EventQueue::new().unwrap());
    loom::model(move || {
        model(Store::new(&events));
        events.take(usize::MAX, usize::MAX);
    });
}

/// Design §7: whoever has seen a version is never answered from an entry of an older one.
#[test]
fn no_answer_is_older_than_what_was_seen_before_it() {
    check(|store| {
        store.install();
        let writer = {
            let store = Arc::clone(&store);
            thread::spawn(move || store.write(1))
        };
        let seen = store.look();
        let answered = store.answer();
        assert!(answered.is_none_or(|version| version >= seen), "{answered:?} after {seen} was seen");
        writer.join().unwrap();
        store.is_settled_at(1);
    });
}

/// Design §7: an install that comes late, with data from before a write, leaves no entry that answers.
#[test]
fn a_late_install_answers_nothing_old() {
    check(|store| {
        let writer = {
            let store = Arc::clone(&store);
            thread::spawn(move || store.write(1))
        };
        store.install();
        let (seen, answered) = (store.look(), store.answer());
        assert!(answered.is_none_or(|version| version >= seen), "{answered:?} after {seen} was seen");
        writer.join().unwrap();
        store.is_settled_at(1);
    });
}

/// Two writes, so that a value read between them is even and yet not the last.
#[test]
fn an_install_across_two_writes_answers_nothing_old() {
    check(|store| {
        let writer = {
            let store = Arc::clone(&store);
            thread::spawn(move || (1..=2).for_each(|version| store.write(version)))
        };
        store.install();
        writer.join().unwrap();
        store.is_settled_at(2);
    });
}

/// The same seen by a third: what one reader saw and told another bounds what the other is answered.
#[test]
fn two_readers_and_a_late_install_agree_on_the_order() {
    check(|store| {
        let writer = {
            let store = Arc::clone(&store);
            thread::spawn(move || store.write(1))
        };
        let installer = {
            let store = Arc::clone(&store);
            thread::spawn(move || store.install())
        };
        let seen = store.look();
        let answered = store.answer();
        assert!(answered.is_none_or(|version| version >= seen), "{answered:?} after {seen} was seen");
        writer.join().unwrap();
        installer.join().unwrap();
        store.is_settled_at(1);
    });
}

const STORED: u64 = 1;
const USED_AGAIN: u64 = 2;

/// A block on a disk: its space is used again when nobody refers to the block any more.
struct Block(Arc<AtomicU64>);

impl Drop for Block {
    fn drop(&mut self) {
        self.0.store(USED_AGAIN, Ordering::Relaxed);
    }
}

/// Stores a block and puts it in its place.
fn store_part(parts: &Parts<Arc<Block>>, space: &Arc<AtomicU64>) {
    space.store(STORED, Ordering::Relaxed);
    assert!(parts.put(0, Arc::new(Block(Arc::clone(space))), false));
}

/// What a read of the part finds in its space, at the beginning and at the end of the read; `None`: it is not here.
fn read_part(parts: &Parts<Arc<Block>>) -> Option<[u64; 2]> {
    let mut taken = Vec::new();
    let is_taken = parts.take(0, 1, &mut taken);
    is_taken.then(|| [0, 1].map(|_| taken[0].part.0.load(Ordering::Relaxed)))
}

/// Issue 5: a part is answered from when it is complete, and its space is not used again under a read.
#[test]
fn a_part_that_comes_and_goes_is_read_whole_or_not_at_all() {
    loom::model(|| {
        let (parts, space) = (Arc::new(Parts::new(1, 1).unwrap()), Arc::new(AtomicU64::new(0)));
        let evictor = {
            let (parts, space) = (Arc::clone(&parts), Arc::clone(&space));
            thread::spawn(move || {
                store_part(&parts, &space);
                parts.remove(0);
            })
        };
        let found = read_part(&parts);
        assert!(found.is_none_or(|words| words == [STORED; 2]), "{found:?} was read");
        evictor.join().unwrap();
        assert_eq!(read_part(&parts), None);
        assert_eq!(space.load(Ordering::Relaxed), USED_AGAIN, "a block that is gone still holds its space");
    });
}

/// Issue 5: when the cache has taken a block back, nobody who asks after that is answered from it.
#[test]
fn whoever_asks_after_a_part_was_taken_back_does_not_find_it() {
    loom::model(|| {
        let (parts, space) = (Arc::new(Parts::new(1, 1).unwrap()), Arc::new(AtomicU64::new(0)));
        store_part(&parts, &space);
        let gone = Arc::new(AtomicU64::new(0));
        let evictor = {
            let (parts, gone) = (Arc::clone(&parts), Arc::clone(&gone));
            thread::spawn(move || {
                parts.remove(0);
                gone.store(1, Ordering::Release);
            })
        };
        let was_gone = gone.load(Ordering::Acquire) == 1;
        let found = read_part(&parts);
        assert!(!(was_gone && found.is_some()), "a part was read after it was taken back");
        assert!(found.is_none_or(|words| words == [STORED; 2]), "{found:?} was read");
        evictor.join().unwrap();
    });
}

/// Issue 5: a place whose block is replaced (taken back, fetched again) gives the one or the other, each whole.
#[test]
fn a_part_that_is_replaced_under_readers_is_one_or_the_other() {
    loom::model(|| {
        let parts = Arc::new(Parts::new(1, 1).unwrap());
        let spaces = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        store_part(&parts, &spaces[0]);
        let reader = {
            let parts = Arc::clone(&parts);
            thread::spawn(move || read_part(&parts))
        };
        store_part(&parts, &spaces[1]);
        let found = [read_part(&parts), reader.join().unwrap()];
        assert_eq!(found, [Some([STORED; 2]); 2], "the place was never empty");
        assert_eq!(spaces[0].load(Ordering::Relaxed), USED_AGAIN);
    });
}
