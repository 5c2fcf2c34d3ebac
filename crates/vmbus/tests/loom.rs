//! The ring protocol under every interleaving and every outdated value that the memory model allows (loom).
//!
//! `cargo test -p vmbus --features loom --test loom --release`. The data area is relaxed atomics: a missing order
//! between bytes and index shows as wrong bytes. A lost wake-up shows as a deadlock, which loom reports. Rings are tiny
//! so that they wrap.

use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use vmbus::incoming::IncomingRing;
use vmbus::layout::Word;
use vmbus::outgoing::{OutgoingRing, WriteError};
use vmbus::ring::RingMemory;

/// Ring bytes of one packet with 8 bytes of payload: descriptor 16, payload 8, trailer 8.
const PACKET: u32 = 32;

struct Memory {
    words: [AtomicU32; 5],
    data: Vec<AtomicU64>,
}

#[derive(Clone)]
struct Shared(Arc<Memory>);

impl Shared {
    /// Room for two packets and 8 bytes more; the third wraps.
    fn new() -> Self {
        let data = (0..(2 * PACKET + 8) / 8).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Memory { words: std::array::from_fn(|_| AtomicU32::new(0)), data }))
    }

    fn ends(&self) -> (OutgoingRing<Self>, IncomingRing<Self>) {
        (OutgoingRing::new(self.clone()), IncomingRing::new(self.clone()))
    }
}

impl RingMemory for Shared {
    fn data_size(&self) -> u32 {
        self.0.data.len() as u32 * 8
    }

    fn word(&self, word: Word) -> &AtomicU32 {
        &self.0.words[word as usize]
    }

    fn read(&self, at: u32, into: &mut [u8]) {
        for (bytes, cell) in into.chunks_exact_mut(8).zip(&self.0.data[at as usize / 8..]) {
            bytes.copy_from_slice(&cell.load(Ordering::Relaxed).to_le_bytes());
        }
    }

    fn write(&self, at: u32, from: &[u8]) {
        for (bytes, cell) in from.chunks_exact(8).zip(&self.0.data[at as usize / 8..]) {
            cell.store(u64::from_le_bytes(bytes.try_into().unwrap()), Ordering::Relaxed);
        }
    }
}

/// A doorbell: signals merge, none is lost, it says nothing about the ring.
///
/// A mutex orders more than an eventfd need do; `flag` is therefore touched only by those who really signal or sleep.
#[derive(Default)]
struct Bell {
    flag: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn signal(&self) {
        *self.flag.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn sleep(&self) {
        let mut flag = self.flag.lock().unwrap();
        while !*flag {
            flag = self.changed.wait(flag).unwrap();
        }
        *flag = false;
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// The payload of packet `id`: different in every byte from that of its predecessors in the same place.
fn payload(id: u64) -> [u8; 8] {
    (id.wrapping_mul(0x0101_0101_0101_0101)).to_le_bytes()
}

fn put(ring: &mut OutgoingRing<Shared>, id: u64) -> Result<(), WriteError> {
    ring.try_write_in_band(id, false, &payload(id))
}

/// Takes one packet, if there is one, and checks that it is packet `id`, whole.
fn take(ring: &mut IncomingRing<Shared>, id: u64) -> bool {
    let mut scratch = Vec::new();
    let Some(packet) = ring.next(&mut scratch).unwrap() else { return false };
    assert_eq!((packet.transaction_id, packet.payload), (id, &payload(id)[..]));
    true
}

/// Receives packets 1..=count, asleep whenever the ring is empty; commits after each batch.
fn receive_all(mut ring: IncomingRing<Shared>, count: u64, bell: &Bell, sender: &Bell) {
    let mut next = 1;
    while next <= count {
        ring.mask();
        while take(&mut ring, next) {
            next += 1;
        }
        if ring.commit() {
            sender.signal();
        }
        if next <= count && ring.prepare_sleep() {
            bell.sleep();
        }
    }
}

/// Sends packets 1..=count, each committed on its own, asleep whenever the ring is full.
fn send_all(mut ring: OutgoingRing<Shared>, count: u64, bell: &Bell, receiver: &Bell) {
    for id in 1..=count {
        while let Err(error) = put(&mut ring, id) {
            let WriteError::Full { needed } = error else { panic!("{error}") };
            if !ring.want_room(needed).unwrap() {
                bell.sleep();
            }
            ring.clear_want();
        }
        if ring.commit() {
            receiver.signal();
        }
    }
}

#[test]
fn section_1_4_bytes_are_in_the_ring_before_the_index_that_shows_them() {
    check(|| {
        let (mut outgoing, mut incoming) = Shared::new().ends();
        let sender = thread::spawn(move || {
            for id in 1..=2 {
                put(&mut outgoing, id).unwrap();
                let _ = outgoing.commit();
            }
        });
        let mut next = 1;
        for _ in 0..3 {
            next += u64::from(take(&mut incoming, next));
        }
        sender.join().unwrap();
        (next..=2).for_each(|id| assert!(take(&mut incoming, id)));
        assert!(!take(&mut incoming, 3));
    });
}

#[test]
fn section_1_5_bytes_are_read_before_the_index_that_frees_them() {
    check(|| {
        let (mut outgoing, mut incoming) = Shared::new().ends();
        (1..=2).for_each(|id| put(&mut outgoing, id).unwrap());
        let _ = outgoing.commit();
        // The third packet overwrites the first as soon as its place is free, and the sender just tries.
        let sender = thread::spawn(move || {
            let written = (0..2).any(|_| put(&mut outgoing, 3).is_ok());
            let _ = outgoing.commit();
            written
        });
        for id in 1..=2 {
            assert!(take(&mut incoming, id));
            let _ = incoming.commit();
        }
        if sender.join().unwrap() {
            assert!(take(&mut incoming, 3));
        }
        assert!(!take(&mut incoming, 4));
    });
}

#[test]
fn section_1_5_step_5_no_wake_up_is_lost_between_mask_and_sleep() {
    check(|| {
        let (outgoing, incoming) = Shared::new().ends();
        let (sender_bell, receiver_bell) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let bells = (Arc::clone(&sender_bell), Arc::clone(&receiver_bell));
        let sender = thread::spawn(move || send_all(outgoing, 2, &bells.0, &bells.1));
        receive_all(incoming, 2, &receiver_bell, &sender_bell);
        sender.join().unwrap();
    });
}

#[test]
fn section_1_6_no_wake_up_is_lost_between_the_wish_for_room_and_sleep() {
    check(|| {
        let (mut outgoing, mut incoming) = Shared::new().ends();
        (1..=2).for_each(|id| put(&mut outgoing, id).unwrap());
        let _ = outgoing.commit();
        let bell = Arc::new(Bell::default());
        let sleeper = Arc::clone(&bell);
        let sender = thread::spawn(move || {
            while put(&mut outgoing, 3).is_err() {
                if !outgoing.want_room(PACKET).unwrap() {
                    sleeper.sleep();
                }
            }
            let _ = outgoing.commit();
        });
        for id in 1..=2 {
            assert!(take(&mut incoming, id));
            if incoming.commit() {
                bell.signal();
            }
        }
        sender.join().unwrap();
        assert!(take(&mut incoming, 3));
    });
}

#[test]
fn section_1_6_a_wish_for_more_than_one_batch_frees_is_met_by_the_batch_that_reaches_it() {
    check(|| {
        let (mut outgoing, mut incoming) = Shared::new().ends();
        (1..=2).for_each(|id| put(&mut outgoing, id).unwrap());
        let _ = outgoing.commit();
        let bell = Arc::new(Bell::default());
        let sleeper = Arc::clone(&bell);
        let sender = thread::spawn(move || {
            while !outgoing.has_room(2 * PACKET).unwrap() && !outgoing.want_room(2 * PACKET).unwrap() {
                sleeper.sleep();
            }
            (3..=4).for_each(|id| put(&mut outgoing, id).unwrap());
            let _ = outgoing.commit();
        });
        for id in 1..=2 {
            assert!(take(&mut incoming, id));
            if incoming.commit() {
                bell.signal();
            }
        }
        sender.join().unwrap();
        (3..=4).for_each(|id| assert!(take(&mut incoming, id)));
    });
}

#[test]
fn both_sides_asleep_in_turn_still_pass_more_than_the_ring_holds() {
    check(|| {
        let (outgoing, incoming) = Shared::new().ends();
        let (sender_bell, receiver_bell) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let bells = (Arc::clone(&sender_bell), Arc::clone(&receiver_bell));
        let sender = thread::spawn(move || send_all(outgoing, 3, &bells.0, &bells.1));
        receive_all(incoming, 3, &receiver_bell, &sender_bell);
        sender.join().unwrap();
    });
}
