//! Worker threads: wait for doorbells with edge-triggered epoll, give every channel that rang its bounded turns.
//!
//! A channel that rang stays *active*, its ring masked, and is served round after round without signals, until a whole
//! round has found nothing on any active channel. Then the worker spins for those that may be polled
//! ([`polling`](super::polling)), arms the rings and sleeps. So a busy guest costs no signal and no system call.
//!
//! Edge-triggered, so the guest's eventfd is never read: nothing a guest does to its descriptor can block us or keep us
//! awake beyond one look at its ring per ring of the bell; who rings in vain is soon looked at less often
//! ([`bells`](super::bells)).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};

use super::bells::{BellCounters, Bells};
use super::channel::{HostChannel, Turn};
use super::events::EventQueue;
use super::offload::responder::Responder;
use super::polling::Polling;
use vmbus::poll::{SpinBySize, granted_for, is_long};

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
    bells: Arc<BellCounters>,
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
            bells: Arc::default(),
            stopping: AtomicBool::new(false),
        }))
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.commands, &1_u64.to_ne_bytes());
    }

    /// What its channels' doorbells have cost.
    pub(super) fn bells(&self) -> &BellCounters {
        &self.bells
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
        let bells = Bells::new(Arc::clone(&self.bells));
        let mut round = Round { active: Vec::new(), responder, spin: SpinBySize::default(), bells };
        let mut rung = Vec::with_capacity(64);
        let mut looked_at = Instant::now();
        while !self.stopping.load(Ordering::Acquire) {
            if round.active.is_empty() || looked_at.elapsed() >= SIGNALS_PERIOD {
                round.bells.unmute(self.epoll.as_fd());
                self.wait(&mut rung, &round);
                for event in rung.drain(..) {
                    self.rang(event.data.u64(), &mut round.active);
                }
                looked_at = Instant::now();
                self.forget_closed(&mut round.bells);
            }
            if !round.serve(events, polling, self.epoll.as_fd()) {
                round.rest(polling, self.epoll.as_fd());
            }
        }
    }

    fn wait(&self, rung: &mut Vec<epoll::Event>, round: &Round) {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let sleep = if round.active.is_empty() { round.bells.sleep() } else { Some(now) };
        // EINTR and nothing else can happen; then the next round waits again.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(rung), sleep.as_ref());
    }

    fn rang(&self, key: u64, active: &mut Vec<Active>) {
        let mut push = |channel: Arc<HostChannel>, rung: bool| {
            if !active.iter().any(|one| Arc::ptr_eq(&one.channel, &channel)) {
                active.push(Active { channel, rung });
            }
        };
        if key == COMMANDS {
            lock(&self.added).drain(..).for_each(|channel| push(channel, false));
        } else if let Some(channel) = lock(&self.channels).get(&key) {
            push(Arc::clone(channel), true);
        }
    }

    fn forget_closed(&self, bells: &mut Bells) {
        if bells.len() > 0 {
            let channels = lock(&self.channels);
            if bells.len() > channels.len() {
                bells.forget(|key| channels.contains_key(&key));
            }
        }
    }
}

/// A channel that is served without signals; `rung`: it has rung and was not looked at since.
struct Active {
    channel: Arc<HostChannel>,
    rung: bool,
}

/// The channels a worker serves without signals.
struct Round {
    active: Vec<Active>,
    responder: Responder,
    spin: SpinBySize,
    bells: Bells,
}

impl Round {
    /// Gives every active channel a turn; false when none had anything.
    fn serve(&mut self, events: &EventQueue, polling: &Polling, epoll: BorrowedFd<'_>) -> bool {
        let mut found = false;
        let (bells, responder) = (&mut self.bells, &mut self.responder);
        self.active.retain_mut(|Active { channel, rung }| {
            let taken = channel.packets();
            let turn = channel.turn(events, responder);
            if matches!(turn, Turn::Served | Turn::More) {
                found = true;
                polling.note(channel.poller());
            }
            // A stalled guest signals when it has made room, armed or not; a dead one is forgotten.
            let stays = matches!(turn, Turn::Idle | Turn::Served | Turn::More);
            if channel.packets() != taken {
                bells.worked(channel);
            } else if std::mem::take(rung)
                && turn != Turn::Dead
                && let Some(delay) = bells.in_vain(channel)
                && (!stays || channel.arm())
            {
                bells.mute(epoll, Arc::clone(channel), delay);
                return false;
            }
            *rung = false;
            stays
        });
        found
    }

    /// Arms every channel; those that may be polled only after a spin in vain. What has data stays active.
    ///
    /// A guest that was given many bytes works on them before it asks for more: then the spin may be longer, and looks
    /// for the signals of others meanwhile.
    fn rest(&mut self, polling: &Polling, epoll: BorrowedFd<'_>) {
        self.active.retain(|one| one.channel.may_spin() || !one.channel.arm());
        if self.active.is_empty() {
            return;
        }
        let active = &self.active;
        let bytes = active.iter().map(|one| one.channel.moved()).max().unwrap_or(0);
        let granted_us = granted_for(polling.spin_us(), bytes);
        let began = Instant::now();
        let mut looks_next = began + SIGNALS_PERIOD;
        let mut is_rung = || {
            let looks = is_long(bytes) && Instant::now() >= looks_next;
            if looks {
                looks_next = Instant::now() + SIGNALS_PERIOD;
            }
            looks && has_signals(epoll)
        };
        // A grant taken back meanwhile ends the spin like data does: the next round finds nothing and arms.
        let mut ready = || active.iter().any(|one| one.channel.has_data() || !one.channel.may_spin()) || is_rung();
        let end = began + Duration::from_micros(granted_us.into());
        if !self.spin.of(bytes).until(granted_us, end, &mut ready) {
            self.active.retain(|one| !one.channel.arm());
        }
    }
}

/// Tells whether signals wait in the epoll set.
fn has_signals(epoll: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(epoll, PollFlags::IN)];
    // An error is found again by the wait that takes the signals.
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
