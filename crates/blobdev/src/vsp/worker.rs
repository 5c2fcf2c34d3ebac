//! Worker threads: wait for doorbells with edge-triggered epoll, give every channel that rang its bounded turns.
//!
//! A channel that rang stays *active*, its ring masked, and is served round after round without signals, until a whole
//! round has found nothing on any active channel. Then the worker spins for those that may be polled
//! ([`polling`](super::polling)), arms the rings and sleeps. So a busy guest costs no signal and no system call.
//!
//! Edge-triggered, so the guest's eventfd is never read: nothing a guest does to its descriptor can block us or keep us
//! awake beyond one look at its ring per ring of the bell.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, epoll, eventfd};

use super::channel::{HostChannel, Turn};
use super::events::EventQueue;
use super::offload::responder::Responder;
use super::polling::Polling;
use vmbus::poll::AdaptiveSpin;

/// How long active channels may be served before the signals of others are looked for.
const SIGNALS_PERIOD: Duration = Duration::from_micros(50);

/// The epoll data of the worker's own descriptor; channel keys begin at 1.
const COMMANDS: u64 = 0;

/// One worker: its epoll set and the channels in it.
pub(super) struct Worker {
    epoll: OwnedFd,
    commands: OwnedFd,
    channels: Mutex<HashMap<u64, Arc<HostChannel>>>,
    added: Mutex<Vec<Arc<HostChannel>>>,
    stopping: AtomicBool,
}

impl Worker {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let commands = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &epoll,
            &commands,
            epoll::EventData::new_u64(COMMANDS),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        Ok(Arc::new(Self {
            epoll,
            commands,
            channels: Mutex::default(),
            added: Mutex::default(),
            stopping: AtomicBool::new(false),
        }))
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.commands, &1_u64.to_ne_bytes());
    }

    /// Serves a channel from now on.
    pub(super) fn add(&self, channel: Arc<HostChannel>) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&self.epoll, channel.as_fd(), epoll::EventData::new_u64(channel.key()), flags)?;
        lock(&self.channels).insert(channel.key(), Arc::clone(&channel));
        // The guest may have written before we watched: look once without a ring of the bell.
        lock(&self.added).push(channel);
        self.wake();
        Ok(())
    }

    /// Serves a channel no longer.
    pub(super) fn remove(&self, channel: &HostChannel) {
        let _ = epoll::delete(&self.epoll, channel.as_fd());
        lock(&self.channels).remove(&channel.key());
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    /// The thread's life.
    pub(super) fn run(&self, events: &EventQueue, polling: &Polling, responder: Responder) {
        let mut round = Round { active: Vec::new(), responder, spin: AdaptiveSpin::default() };
        let mut rung = Vec::with_capacity(64);
        let mut looked_at = Instant::now();
        while !self.stopping.load(Ordering::Acquire) {
            if round.active.is_empty() || looked_at.elapsed() >= SIGNALS_PERIOD {
                self.wait(&mut rung, round.active.is_empty());
                for event in rung.drain(..) {
                    self.rang(event.data.u64(), &mut round.active);
                }
                looked_at = Instant::now();
            }
            if !round.serve(events, polling) {
                round.rest(polling);
            }
        }
    }

    fn wait(&self, rung: &mut Vec<epoll::Event>, may_sleep: bool) {
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        // EINTR and nothing else can happen; then the next round waits again.
        let spare = rustix::buffer::spare_capacity(rung);
        let _ = epoll::wait(&self.epoll, spare, if may_sleep { None } else { Some(&now) });
    }

    fn rang(&self, key: u64, active: &mut Vec<Arc<HostChannel>>) {
        let mut push = |channel: Arc<HostChannel>| {
            if !active.iter().any(|one| Arc::ptr_eq(one, &channel)) {
                active.push(channel);
            }
        };
        if key == COMMANDS {
            lock(&self.added).drain(..).for_each(push);
        } else if let Some(channel) = lock(&self.channels).get(&key) {
            push(Arc::clone(channel));
        }
    }
}

/// The channels a worker serves without signals.
struct Round {
    active: Vec<Arc<HostChannel>>,
    responder: Responder,
    spin: AdaptiveSpin,
}

impl Round {
    /// Gives every active channel a turn; false when none had anything.
    fn serve(&mut self, events: &EventQueue, polling: &Polling) -> bool {
        let mut found = false;
        self.active.retain(|channel| {
            let turn = channel.turn(events, &mut self.responder);
            if matches!(turn, Turn::Served | Turn::More) {
                found = true;
                polling.note(channel.poller());
            }
            // A stalled guest signals when it has made room, armed or not; a dead one is forgotten.
            matches!(turn, Turn::Idle | Turn::Served | Turn::More)
        });
        found
    }

    /// Arms every channel; those that may be polled only after a spin in vain. What has data stays active.
    fn rest(&mut self, polling: &Polling) {
        self.active.retain(|channel| channel.may_spin() || !channel.arm());
        if self.active.is_empty() {
            return;
        }
        let end = Instant::now() + Duration::from_micros(polling.spin_us().into());
        let active = &self.active;
        // A grant taken back meanwhile ends the spin like data does: the next round finds nothing and arms.
        let ready = || active.iter().any(|channel| channel.has_data() || !channel.may_spin());
        if !self.spin.until(polling.spin_us(), end, ready) {
            self.active.retain(|channel| !channel.arm());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
