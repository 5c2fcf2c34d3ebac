//! The guest's channel and the host's engine joined in one process: what one sends, the other takes, over real rings,
//! real doorbells and real lent memory; only the control plane is the test's.

mod pair;

use std::sync::Arc;

use blobdev::hresult;
use blobdev::vsc::channel::Refused;
use blobdev::vsc::receiving::{Awaited, Woken};
use blobdev::vsc::waiting::Waiter;

use pair::{Exchange, Pair, WAIT, checksum, collect, pattern};

const RING: usize = 128 * 1024;
/// Two pages: one of control words, one of packets.
const SMALL_RING: usize = 8192;

fn waiter() -> Arc<Waiter> {
    Waiter::new().unwrap()
}

#[test]
fn a_request_is_answered_in_the_message_and_in_the_data_buffer() {
    let (pair, waiter) = (Pair::open(8, RING), waiter());
    let read = Exchange::new(&pair, "/fill/7", 5000, b"");
    let outcome = read.perform(&pair, &waiter);
    assert_eq!((outcome.status, read.answer(&outcome).len()), (0, 0));
    assert_eq!(read.data_bytes(), pattern(7, 5000));
    let content = pattern(8, 3000);
    let write = Exchange::new(&pair, "/sum", 0, &content);
    let outcome = write.perform(&pair, &waiter);
    assert_eq!(write.answer(&outcome), checksum(&content));
    assert_eq!(pair.guest.counts(), (0, 0, 0));
}

#[test]
fn a_body_as_large_as_a_packet_can_name_crosses_whole() {
    let (pair, waiter) = (Pair::open(4, RING), waiter());
    let length = (8192 - 2) * 4096;
    let content = pattern(3, length);
    let write = Exchange::new(&pair, "/sum", 0, &content);
    let outcome = write.perform(&pair, &waiter);
    assert_eq!((outcome.status, write.answer(&outcome)), (0, checksum(&content)));
    drop(write);
    let read = Exchange::new(&pair, "/fill/4", length, b"");
    assert_eq!(read.perform(&pair, &waiter).status, 0);
    assert_eq!(read.data_bytes(), pattern(4, length));
    drop(read);
    let beyond = Exchange::new(&pair, "/fill/4", length + 4096, b"");
    assert!(matches!(beyond.send(&pair, &waiter), Err(Refused::Invalid)));
}

#[test]
fn rule_5_a_cancelled_request_completes_once_and_its_slot_comes_back() {
    let (pair, waiter) = (Pair::open(2, RING), waiter());
    let forever = Exchange::new(&pair, "/wait", 4096, b"");
    let token = forever.send(&pair, &waiter).unwrap();
    pair.until("the host did not take it", |pair| pair.seen.lock().unwrap().requests == 1);
    let in_use = pair.lent.usage().in_use;
    drop(forever);
    assert_eq!(pair.lent.usage().in_use, in_use, "rule 2: from send to completion the buffers are the host's");
    pair.guest.abandon(token);
    pair.until("the cancellation did not arrive", |pair| pair.seen.lock().unwrap().cancelled.len() == 1);
    pair.until("its pages did not come back", |pair| {
        pair.guest.drain();
        pair.lent.usage().in_use == 0
    });
    assert!(pair.guest.take(token).is_none());
    assert_eq!(Exchange::new(&pair, "/fill/1", 10, b"").perform(&pair, &waiter).status, 0);
}

#[test]
fn rule_4_spent_credits_are_a_value_and_come_back_with_the_completions() {
    let (pair, waiter) = (Pair::open(3, RING), waiter());
    let requests: Vec<_> = (0..4).map(|_| Exchange::new(&pair, "/wait", 0, b"")).collect();
    let tokens: Vec<_> = requests[..3].iter().map(|one| one.send(&pair, &waiter).unwrap()).collect();
    assert!(matches!(requests[3].send(&pair, &waiter), Err(Refused::Busy)));
    pair.until("the host did not take them", |pair| pair.seen.lock().unwrap().requests == 3);
    pair.guest.abandon(tokens[1]);
    let answered = Exchange::new(&pair, "/fill/2", 64, b"");
    assert_eq!(answered.perform(&pair, &waiter).status, 0);
    assert_eq!(pair.guest.counts().0, 2);
}

#[test]
fn a_full_ring_is_waited_for_and_nothing_is_lost() {
    // A packet of this many pages takes a third of the ring's one page of data.
    let (pair, waiter) = (Pair::open(64, SMALL_RING), waiter());
    let pages = 150;
    let requests: Vec<_> =
        (0..60).map(|seed| Exchange::new(&pair, &format!("/fill/{seed}"), pages * 4096, b"")).collect();
    let mut tokens = Vec::new();
    for one in &requests {
        tokens.push(one.send_when_possible(&pair, &waiter));
    }
    for (seed, (one, token)) in requests.iter().zip(tokens).enumerate() {
        assert_eq!(collect(&pair, &waiter, token).status, 0);
        assert_eq!(one.data_bytes(), pattern(seed as u64, pages * 4096));
    }
}

#[test]
fn rule_7_many_threads_share_a_channel_and_each_gets_its_own_answer() {
    let pair = Pair::open(16, RING);
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let pair = &pair;
            scope.spawn(move || {
                let waiter = waiter();
                for round in 0..150 {
                    let (seed, length) = (thread * 1000 + round, 1 + (round as usize * 977) % 20_000);
                    let read = Exchange::new(pair, &format!("/fill/{seed}"), length, b"");
                    assert_eq!(read.perform(pair, &waiter).status, 0);
                    assert_eq!(read.data_bytes(), pattern(seed, length));
                    let content = pattern(seed, length);
                    let write = Exchange::new(pair, "/sum", 0, &content);
                    let outcome = write.perform(pair, &waiter);
                    assert_eq!(write.answer(&outcome), checksum(&content));
                }
            });
        }
    });
    assert_eq!((pair.guest.counts(), pair.lent.usage().in_use), ((0, 0, 0), 0));
    assert_eq!(pair.seen.lock().unwrap().requests, 2 * 8 * 150);
}

#[test]
fn rule_3_a_guest_that_closes_in_mid_flight_wakes_its_waiters_and_gets_its_pages_back() {
    let pair = Pair::open(8, RING);
    let waiters: Vec<_> = (0..4).map(|_| waiter()).collect();
    let sent: Vec<_> = waiters.iter().map(|one| Exchange::new(&pair, "/wait", 4096, b"").send(&pair, one)).collect();
    pair.until("the host did not take them", |pair| pair.seen.lock().unwrap().requests == 4);
    std::thread::scope(|scope| {
        for (one, token) in waiters.iter().zip(sent) {
            let (pair, token) = (&pair, token.unwrap());
            scope.spawn(move || {
                let woken = pair.guest.wait(one, Awaited::Completion(token), WAIT);
                assert!(matches!(woken, Woken::Closed), "{woken:?}");
            });
        }
        pair.guest.close();
    });
    assert!(matches!(Exchange::new(&pair, "/fill/1", 1, b"").send(&pair, &waiters[0]), Err(Refused::Closed)));
}

#[test]
fn rule_3_a_channel_that_the_host_closes_takes_late_completions_into_nothing() {
    let (pair, waiter) = (Pair::open(8, RING), waiter());
    let token = Exchange::new(&pair, "/wait", 4096, b"").send(&pair, &waiter).unwrap();
    pair.until("the host did not take it", |pair| pair.seen.lock().unwrap().requests == 1);
    pair.close_at_host();
    pair.guest.abandon(token);
    assert!(pair.seen.lock().unwrap().failed.is_empty());
    let pfns: Vec<u64> = (16..18).collect();
    assert!(pair.memory.read().unwrap().map_linear(&pfns).is_ok(), "the rings' pages are ordinary again");
}

#[test]
fn a_request_that_the_device_refuses_has_its_status_and_costs_nothing() {
    let (pair, waiter) = (Pair::open(2, RING), waiter());
    let broken = Exchange::new(&pair, "/fill/1", 64, b"");
    // The guest's library writes legal messages; this one is damaged after it was written.
    broken.request.pages.region().write(broken.request.pages.offset(), &[0xFF]);
    let outcome = broken.perform(&pair, &waiter);
    assert_eq!((outcome.status, outcome.response_length), (hresult::MALFORMED, 0));
    assert_eq!(pair.seen.lock().unwrap().requests, 0);
}
