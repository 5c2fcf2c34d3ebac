//! Offload entries without rings: templates against the encoder, generations under contention, the table's bound.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use blobdev::bhttp::{decode_response, encode_response};
use blobdev::vsp::events::{Event, EventQueue};
use blobdev::vsp::offload::entry::{Bytes, Content, Heads, Pin};
use blobdev::vsp::offload::generation::Generation;
use blobdev::vsp::offload::table::Table;
use blobdev::vsp::offload::template::{Filling, Slot, Template, Value};
use proptest::prelude::*;

const SLOTS: [Slot; 7] =
    [Slot::Length, Slot::Date, Slot::RequestId, Slot::Version, Slot::ClientRequestId, Slot::Range, Slot::Placed];

fn template() -> Template {
    Template::new(200, [(&b"content-length"[..], Value::Slot(Slot::Length))].into_iter()).unwrap()
}

/// Content whose ETag says which version it is.
fn content(version: u64) -> Content {
    let heads = Heads { whole: template(), part: template(), head: template(), not_modified: None };
    Content { bytes: Bytes::Whole(Vec::new()), etag: version.to_le_bytes().to_vec(), version: Vec::new(), heads }
}

fn target(name: &str) -> [&[u8]; 3] {
    [b"https", b"host", name.as_bytes()]
}

fn find(table: &Table, name: &str) -> Option<u64> {
    let mut key = Vec::new();
    let hash = table.key(&mut key, 1, target(name));
    let entry = table.find(hash, &key).filter(|entry| entry.holds())?;
    Some(u64::from_le_bytes(entry.etag().try_into().unwrap()))
}

fn released(events: &EventQueue) -> usize {
    events.take(usize::MAX, usize::MAX).iter().filter(|event| matches!(event, Event::Released(_))).count()
}

/// What stands in a slot; `None`: no line.
fn filled(slot: Slot, filling: &Filling<'_>) -> Option<Vec<u8>> {
    let last = filling.offset + filling.length.saturating_sub(1);
    Some(match slot {
        Slot::Length => filling.length.to_string().into_bytes(),
        Slot::Date => filling.date.to_vec(),
        Slot::RequestId => filling.request_id.to_vec(),
        Slot::Version => filling.version.to_vec(),
        Slot::ClientRequestId => filling.client_request_id?.to_vec(),
        Slot::Placed => (filling.placed > 0).then(|| filling.placed.to_string().into_bytes())?,
        Slot::Range => format!("bytes {}-{last}/{}", filling.offset, filling.total).into_bytes(),
    })
}

proptest! {
    /// Design: an entry's head is byte for byte what the encoder writes for the same fields.
    #[test]
    fn a_template_writes_what_the_encoder_writes(
        status in 200_u16..600,
        lines in proptest::collection::vec(("[a-z][a-z-]{0,70}", "[!-~]{0,80}", proptest::option::of(0_usize..7)), 0..12),
        numbers in (0_u64..1 << 45, 0_u64..1 << 45, 0_u64..1 << 45, 0_u64..1 << 45),
        client_id in proptest::option::of("[!-~]{0,300}"),
    ) {
        let filling = Filling {
            length: numbers.0,
            offset: numbers.1,
            total: numbers.2,
            placed: if numbers.3.is_multiple_of(2) { 0 } else { numbers.3 },
            date: b"Sun, 06 Nov 1994 08:49:37 GMT",
            request_id: b"0",
            version: b"2021-12-02",
            client_request_id: client_id.as_ref().map(|id| id.as_bytes()),
        };
        let values = lines.iter().map(|(name, text, slot)| {
            (name.as_bytes(), slot.map_or(Value::Fixed(text.as_bytes()), |slot| Value::Slot(SLOTS[slot])))
        });
        let template = Template::new(status, values).unwrap();
        let mut written = vec![1; 7];
        let at = template.write(&mut written, &filling);
        let fields: Vec<(&[u8], Vec<u8>)> = lines
            .iter()
            .filter_map(|(name, text, slot)| {
                let value = slot.map_or(Some(text.clone().into_bytes()), |slot| filled(SLOTS[slot], &filling))?;
                Some((name.as_bytes(), value))
            })
            .collect();
        let mut expected = vec![0; 1 << 16];
        let size = encode_response(&mut expected, status, fields.iter().map(|(name, value)| (*name, &value[..])), b"");
        prop_assert_eq!(&written[at..], &expected[..size.unwrap()]);
        prop_assert!(decode_response(&written[at..]).is_ok());
    }
}

#[test]
fn a_template_of_an_illegal_line_is_refused() {
    let one = |name: &'static [u8], value: &'static [u8]| {
        Template::new(200, [(name, Value::Fixed(value))].into_iter()).is_none()
    };
    assert!(one(b"Upper", b"x") && one(b"", b"x") && one(b"a", b"line\r\nbreak") && one(b"a", b" blank"));
    let many = (0..200).map(|_| (&b"a"[..], Value::Fixed(b"")));
    assert!(Template::new(200, many).is_none());
}

/// A store of one blob: its version, which is seen by looking, its generation, and the table that answers beside it.
struct Race {
    table: Arc<Table>,
    events: Arc<EventQueue>,
    generation: Arc<Generation>,
    catalog: Mutex<u64>,
    stop: AtomicBool,
    tokens: AtomicU64,
    hits: AtomicU64,
}

impl Race {
    fn install_until_the_end(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let expected = self.generation.value();
            let version = *self.catalog.lock().unwrap();
            if version.is_multiple_of(3) {
                std::thread::yield_now(); // a late install
            }
            let pin = Pin::new(self.tokens.fetch_add(1, Ordering::Relaxed), Arc::clone(&self.events));
            let generations = vec![(Arc::clone(&self.generation), expected)];
            self.table.install(1, target("b"), content(version), generations, pin);
        }
    }

    fn read_until_the_end(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let seen = *self.catalog.lock().unwrap();
            if let Some(version) = find(&self.table, "b") {
                assert!(version >= seen, "an entry of version {version} after {seen} was seen");
                self.hits.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Writes `times` at least, and on until enough reads found an entry: on few cores the writer may run alone for long.
    fn write(&self, times: usize) {
        let mut number = 0;
        while number < times || (self.hits.load(Ordering::Relaxed) < 100 && number < 100 * times) {
            number += 1;
            self.generation.begin();
            *self.catalog.lock().unwrap() += 1;
            self.generation.end();
            if number > times || number.is_multiple_of(50) {
                std::thread::yield_now();
            }
        }
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Design §7: odd before a change can be seen, even after; installed only if unchanged; purged at once.
///
/// Whoever has seen a version must never find an entry of an older one.
#[test]
fn no_entry_is_older_than_what_was_seen_before_the_look_up() {
    let (table, events) = (Table::new(4), Arc::new(EventQueue::new().unwrap()));
    let (generation, catalog, stop) = (Arc::new(Generation::new()), Mutex::new(0), AtomicBool::new(false));
    let (tokens, hits) = (AtomicU64::new(0), AtomicU64::new(0));
    let race = Race { table, events, generation, catalog, stop, tokens, hits };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| race.install_until_the_end());
            scope.spawn(|| race.read_until_the_end());
        }
        race.write(4_000);
    });
    race.generation.begin();
    race.generation.end();
    assert!(find(&race.table, "b").is_none() && race.table.entries().is_empty());
    assert_eq!(released(&race.events) as u64, race.tokens.load(Ordering::Relaxed), "every pin is released once");
    assert!(race.hits.load(Ordering::Relaxed) > 0, "no entry was ever found: nothing was tested");
}

#[test]
fn an_install_is_refused_when_its_generation_has_moved_or_is_moving() {
    let (table, events) = (Table::new(4), Arc::new(EventQueue::new().unwrap()));
    let (one, other) = (Arc::new(Generation::new()), Arc::new(Generation::new()));
    let install = |expected: u64| {
        let generations = vec![(Arc::clone(&one), one.value()), (Arc::clone(&other), expected)];
        table.install(1, target("b"), content(1), generations, Pin::new(7, Arc::clone(&events)))
    };
    other.begin();
    assert!(!install(0) && !install(1));
    other.end();
    assert!(!install(0));
    assert_eq!(released(&events), 3);
    assert!(install(2));
    assert_eq!(find(&table, "b"), Some(1));
    other.begin();
    other.begin(); // a second `begin` changes nothing
    assert_eq!((find(&table, "b"), other.value()), (None, 3));
    other.end();
    other.end();
    assert_eq!((other.value(), released(&events)), (4, 1));
}

#[test]
fn the_bound_holds_and_what_was_used_stays() {
    let (table, events) = (Table::new(8), Arc::new(EventQueue::new().unwrap()));
    let generation = Arc::new(Generation::new());
    for number in 0..100 {
        let name = format!("b{number}");
        let generations = vec![(Arc::clone(&generation), 0)];
        assert!(table.install(1, target(&name), content(number), generations, Pin::new(number, Arc::clone(&events))));
        assert_eq!(find(&table, "b0"), Some(0), "evicted although it is used between any two installs");
        assert!(table.entries().len() <= 8);
    }
    assert_eq!((released(&events), table.changes().evictions), (92, 92));
    generation.begin();
    generation.end();
    assert_eq!((released(&events), table.changes().invalidations), (8, 8));
}

#[test]
fn another_scope_or_target_finds_nothing() {
    let (table, events) = (Table::new(8), Arc::new(EventQueue::new().unwrap()));
    table.install(1, target("b"), content(1), vec![], Pin::new(1, events));
    let mut key = Vec::new();
    for (scope, target) in [(2, target("b")), (1, target("B")), (1, [&b"http"[..], b"host", b"b"])] {
        let hash = table.key(&mut key, scope, target);
        assert!(table.find(hash, &key).is_none());
    }
    assert_eq!(find(&table, "b"), Some(1));
    assert!(!Table::new(0).install(
        1,
        target("b"),
        content(1),
        vec![],
        Pin::new(1, Arc::new(EventQueue::new().unwrap()))
    ));
}
