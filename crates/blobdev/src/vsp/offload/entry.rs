//! One offload entry: where the bytes lie, the ready heads, and the generations it depends on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::generation::Generation;
use super::parts::{Parts, Taken};
use super::table::Table;
use super::template::Template;
use crate::vsp::events::{Event, EventQueue};
use crate::vsp::files::{File, Run};

/// What the control plane lends an entry: it learns by [`Event::Released`] that nobody refers to the entry any more.
pub struct Pin {
    token: u64,
    events: Arc<EventQueue>,
}

impl Pin {
    /// Makes a pin; when it is dropped, `events` gets `Released(token)`.
    pub fn new(token: u64, events: Arc<EventQueue>) -> Self {
        Self { token, events }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.events.push(Event::Released(self.token));
    }
}

/// The heads an entry answers with.
pub struct Heads {
    /// GET without a range: 200.
    pub whole: Template,
    /// GET with a range: 206.
    pub part: Template,
    /// HEAD: 200.
    pub head: Template,
    /// The client's copy is still good: 304; `None` leaves that to Python.
    pub not_modified: Option<Template>,
}

/// Where an entry's bytes lie.
pub enum Bytes {
    /// All of them, in order.
    Whole(Vec<Run>),
    /// As many as are here: each part is a file of its own, or the beginning of one.
    Parts(Arc<Parts<Arc<File>>>),
}

/// What an entry says.
pub struct Content {
    /// Where the bytes lie.
    pub bytes: Bytes,
    /// The opaque tag of the ETag.
    pub etag: Vec<u8>,
    /// The version answered to a request that names none.
    pub version: Vec<u8>,
    /// The heads.
    pub heads: Heads,
}

/// An entry; immutable but for the mark that it was used.
pub struct Entry {
    pub(super) key: Box<[u8]>,
    pub(super) hash: u64,
    pub(super) content: Content,
    /// The bytes before the end of each run.
    ends: Box<[u64]>,
    generations: Box<[(Arc<Generation>, u64)]>,
    used: AtomicBool,
    table: Weak<Table>,
    _pin: Pin,
}

impl Entry {
    pub(super) fn new(
        key: Box<[u8]>,
        hash: u64,
        content: Content,
        generations: Vec<(Arc<Generation>, u64)>,
        table: Weak<Table>,
        pin: Pin,
    ) -> Self {
        let runs = if let Bytes::Whole(runs) = &content.bytes { &runs[..] } else { &[] };
        let ends = runs.iter().scan(0, |end, run| {
            *end += run.length;
            Some(*end)
        });
        let ends = ends.collect();
        let (generations, used) = (generations.into_boxed_slice(), AtomicBool::new(false));
        Self { key, hash, content, ends, generations, used, table, _pin: pin }
    }

    /// Bytes of the whole.
    pub fn size(&self) -> u64 {
        match &self.content.bytes {
            Bytes::Whole(_) => self.ends.last().copied().unwrap_or(0),
            Bytes::Parts(parts) => parts.size(),
        }
    }

    /// The opaque tag.
    pub fn etag(&self) -> &[u8] {
        &self.content.etag
    }

    /// The policy scope, and scheme, authority and path of its target.
    pub fn target(&self) -> (u64, [&[u8]; 3]) {
        let (scope, parts) = self.key.split_first_chunk().expect("a key begins with the scope");
        let mut parts = parts.split(|byte| *byte == 0);
        (u64::from_le_bytes(*scope), std::array::from_fn(|_| parts.next().unwrap_or(b"")))
    }

    /// What it costs of the table's bound: one, and one more for every 64 runs or places of parts.
    pub(super) fn cost(&self) -> usize {
        let count = match &self.content.bytes {
            Bytes::Whole(runs) => runs.len(),
            Bytes::Parts(parts) => parts.count(),
        };
        1 + count / 64
    }

    /// Tells whether it may answer at this moment (see `generation` for the ordering).
    pub fn holds(&self) -> bool {
        self.generations.iter().all(|(generation, expected)| generation.value() == *expected)
    }

    /// Has every generation invalidate this entry when it moves; false if one has moved already.
    pub(super) fn watch(self: &Arc<Self>) -> bool {
        let weak = Arc::downgrade(self);
        self.generations.iter().all(|(generation, expected)| generation.watch(*expected, &weak))
    }

    /// Takes the entry out of its table.
    pub(super) fn invalidate(self: &Arc<Self>) {
        if let Some(table) = self.table.upgrade() {
            table.invalidate(self);
        }
    }

    /// Marks it as used; a store only if the mark is not there, so that hits share the cache line for reading.
    pub(super) fn mark_used(&self) {
        // Relaxed: a hint for the eviction, ordered with nothing.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Takes the mark away; tells whether it was there.
    pub(super) fn unmark_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Takes what holds `length` bytes from `offset` on, if not the entry itself does; false if they are not all here.
    pub(super) fn take(&self, offset: u64, length: u64, taken: &mut Vec<Taken<Arc<File>>>) -> bool {
        match &self.content.bytes {
            Bytes::Whole(_) => true,
            Bytes::Parts(parts) => parts.take(offset, length, taken),
        }
    }

    /// Yields where `length` bytes from `offset` on lie, for which `taken` was taken: (file, offset in it, length).
    pub fn parts<'e>(
        &'e self,
        taken: &'e [Taken<Arc<File>>],
        offset: u64,
        length: u64,
    ) -> impl Iterator<Item = (&'e Arc<File>, u64, u64)> {
        let runs = if let Bytes::Whole(runs) = &self.content.bytes { &runs[..] } else { &[] };
        let first = self.ends.partition_point(|end| *end <= offset);
        let mut begin = if first == 0 { 0 } else { self.ends[first - 1] };
        let (mut at, mut left) = (offset, length);
        let of_runs = runs[first.min(runs.len())..].iter().map_while(move |run| {
            let skip = at - begin;
            let taken = left.min(run.length - skip);
            (begin, at, left) = (begin + run.length, at + taken, left - taken);
            (taken > 0).then_some((&run.file, run.offset + skip, taken))
        });
        of_runs.chain(taken.iter().map(|one| (&one.part, one.offset, one.length)))
    }
}
