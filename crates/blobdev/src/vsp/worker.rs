//! Worker threads: wait for doorbells with edge-triggered epoll, give every channel that rang its bounded turns.
//!
//! Edge-triggered, so the guest's eventfd is never read: nothing a guest does to its descriptor can block us or keep us
//! awake beyond one look at its ring per ring of the bell.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, epoll, eventfd};

use super::channel::{HostChannel, Turn};
use super::events::EventQueue;
use super::offload::responder::Responder;

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
    pub(super) fn run(&self, events: &EventQueue, mut responder: Responder) {
        let mut ready: VecDeque<Arc<HostChannel>> = VecDeque::new();
        let mut rung = Vec::with_capacity(64);
        while !self.stopping.load(Ordering::Acquire) {
            self.wait(&mut rung, ready.is_empty());
            for event in rung.drain(..) {
                self.rang(event.data.u64(), &mut ready);
            }
            if let Some(channel) = ready.pop_front()
                && channel.turn(events, &mut responder) == Turn::More
            {
                ready.push_back(channel);
            }
        }
    }

    fn wait(&self, rung: &mut Vec<epoll::Event>, may_sleep: bool) {
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        // EINTR and nothing else can happen; then the next round waits again.
        let spare = rustix::buffer::spare_capacity(rung);
        let _ = epoll::wait(&self.epoll, spare, if may_sleep { None } else { Some(&now) });
    }

    fn rang(&self, key: u64, ready: &mut VecDeque<Arc<HostChannel>>) {
        let mut push = |channel: Arc<HostChannel>| {
            if !ready.iter().any(|queued| Arc::ptr_eq(queued, &channel)) {
                ready.push_back(channel);
            }
        };
        if key == COMMANDS {
            lock(&self.added).drain(..).for_each(push);
        } else if let Some(channel) = lock(&self.channels).get(&key) {
            push(Arc::clone(channel));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
