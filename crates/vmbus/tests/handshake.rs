//! Two threads, real shared mappings, real doorbells: a guest and a host pass far more than the rings hold, asleep in
//! between.
//!
//! A wake-up lost shows as a wait that times out. Loom proves the protocol; this shows that mappings, eventfd, epoll
//! and socket keep what the model assumes.

#![cfg(not(feature = "loom"))]

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use vmbus::doorbell::{GuestDoorbell, HostDoorbell, pair};
use vmbus::gpa::GuestMemory;
use vmbus::incoming::IncomingRing;
use vmbus::layout::PAGE_SIZE;
use vmbus::mapped::MappedRing;
use vmbus::memory::Region;
use vmbus::outgoing::{OutgoingRing, WriteError};
use vmbus::packet::PacketKind;
use vmbus::poll::AdaptiveSpin;

/// Longer than any wake-up takes on a busy machine; reached only when one was lost.
const LOST: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Ring bytes of one completion with 16 bytes of payload.
const COMPLETION: u32 = 40;

const REQUESTS: u64 = 20_000;

struct Guest {
    outgoing: OutgoingRing<MappedRing>,
    incoming: IncomingRing<MappedRing>,
    bell: GuestDoorbell,
}

struct Host {
    incoming: IncomingRing<MappedRing>,
    outgoing: OutgoingRing<MappedRing>,
    bell: HostDoorbell,
    spin_us: u32,
}

/// Opens a channel as the two sides do: the guest lends memory, the host maps the ring pages it was told, in their
/// order.
fn open(spin_us: u32) -> (Guest, Host) {
    let (guest, fd) = Region::create_sealed("rings", 5 * PAGE_SIZE).unwrap();
    let guest = Arc::new(guest);
    let ring = |region: &Arc<Region>, base: usize, pages: usize| {
        MappedRing::new(Arc::clone(region), base * PAGE_SIZE, pages * PAGE_SIZE)
    };
    let (to_host, from_host) = (ring(&guest, 0, 3), ring(&guest, 3, 2));
    to_host.initialise();
    from_host.initialise();
    let mut memory = GuestMemory::new();
    memory.add(64, Arc::new(Region::map_sealed(fd.as_fd(), 5 * PAGE_SIZE as u64).unwrap())).unwrap();
    let linear = Arc::new(memory.map_linear(&[64, 65, 66, 67, 68]).unwrap());
    let (host_bell, eventfd, socket) = pair().unwrap();
    let guest = Guest {
        outgoing: OutgoingRing::new(to_host),
        incoming: IncomingRing::new(from_host),
        bell: GuestDoorbell::new(eventfd, socket).unwrap(),
    };
    let host = Host {
        incoming: IncomingRing::new(ring(&linear, 0, 3)),
        outgoing: OutgoingRing::new(ring(&linear, 3, 2)),
        bell: host_bell,
        spin_us,
    };
    (guest, host)
}

impl Host {
    /// Answers every request, taking one only when its completion has room (design rule 1).
    fn serve(mut self) {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &self.bell, epoll::EventData::new_u64(1), flags).unwrap();
        let mut spin = AdaptiveSpin::default();
        let mut served = 0;
        while served < REQUESTS {
            let (count, stalled) = self.turn(served + 1);
            served += count;
            let idle = count == 0 && (stalled || self.incoming.prepare_sleep());
            let deadline = Instant::now() + Duration::from_secs(1);
            if !idle || (!stalled && spin.until(self.spin_us, deadline, || self.incoming.has_data())) {
                continue;
            }
            let mut events = Vec::with_capacity(4);
            epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&LOST)).unwrap();
            assert!(!events.is_empty() || served == REQUESTS, "the host was not woken after {served}");
        }
    }

    /// Serves what there is; returns how many, and whether it stopped for want of room.
    fn turn(&mut self, first: u64) -> (u64, bool) {
        self.incoming.mask();
        let (mut count, mut stalled) = (0, false);
        let mut scratch = Vec::new();
        loop {
            if !self.outgoing.has_room(COMPLETION).unwrap() && !self.outgoing.want_room(COMPLETION).unwrap() {
                stalled = true;
                break;
            }
            let Some(packet) = self.incoming.next(&mut scratch).unwrap() else { break };
            assert_eq!((packet.kind, packet.transaction_id), (PacketKind::GpaDirect, first + count));
            let pages: u64 = packet.ranges().unwrap().flat_map(|range| range.pfns()).sum();
            let answer = [packet.transaction_id.to_le_bytes(), pages.to_le_bytes()].concat();
            self.outgoing.try_write_completion(packet.transaction_id, &answer).unwrap();
            count += 1;
            if self.outgoing.commit() {
                self.bell.signal();
            }
        }
        if self.incoming.commit() {
            self.bell.signal();
        }
        (count, stalled)
    }
}

impl Guest {
    /// Sends every request as fast as the ring takes them and collects every answer.
    fn ask(mut self) {
        let (mut sent, mut answered) = (0, 0);
        while answered < REQUESTS {
            let full = self.send(&mut sent);
            let drained = self.drain(&mut answered);
            if drained == 0 && (full || sent == REQUESTS) && answered < REQUESTS && self.incoming.prepare_sleep() {
                let woken = poll(&mut [PollFd::new(&self.bell, PollFlags::IN)], Some(&LOST)).unwrap();
                assert_eq!(woken, 1, "the guest was not woken: {sent} sent, {answered} answered");
                assert!(self.bell.clear());
            }
        }
        assert_eq!(sent, REQUESTS);
    }

    /// Returns whether it stopped for want of room, which it then asked for.
    fn send(&mut self, sent: &mut u64) -> bool {
        while *sent < REQUESTS {
            let id = *sent + 1;
            let pages: Vec<u64> = (0..id % 90 + 1).map(|page| page + id).collect();
            match self.outgoing.try_write_gpa_direct(id, &pages, &id.to_le_bytes()) {
                Ok(()) => *sent = id,
                Err(WriteError::Full { needed }) => {
                    if !self.outgoing.want_room(needed).unwrap() {
                        return true;
                    }
                }
                Err(error) => panic!("{error}"),
            }
            if self.outgoing.commit() {
                self.bell.signal();
            }
        }
        false
    }

    fn drain(&mut self, answered: &mut u64) -> u64 {
        self.incoming.mask();
        let (before, mut scratch) = (*answered, Vec::new());
        while let Some(packet) = self.incoming.next(&mut scratch).unwrap() {
            let id = *answered + 1;
            assert_eq!((packet.kind, packet.transaction_id), (PacketKind::Completion, id), "exactly one, in order");
            let pages: u64 = (0..id % 90 + 1).map(|page| page + id).sum();
            assert_eq!(packet.payload, [id.to_le_bytes(), pages.to_le_bytes()].concat());
            *answered = id;
        }
        if self.incoming.commit() {
            self.bell.signal();
        }
        *answered - before
    }
}

fn run(spin_us: u32) {
    let (guest, host) = open(spin_us);
    let host = thread::spawn(move || host.serve());
    guest.ask();
    host.join().unwrap();
}

#[test]
fn no_wake_up_is_lost_when_both_sides_sleep() {
    run(0);
}

#[test]
fn no_wake_up_is_lost_when_the_host_spins_before_it_sleeps() {
    run(50);
}
