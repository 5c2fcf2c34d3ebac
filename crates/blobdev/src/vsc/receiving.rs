//! How completions come in: `drain` takes them and wakes their owners, `wait` sleeps under the leader rule, `look` spins.
//!
//! Invariant: whoever sleeps on the doorbell has set the incoming ring's interrupt mask to 0 and looked at the ring since,
//! or is woken by the one who leads now (spec vmbus.md §1.5 step 5; design rule 7). While somebody spins or nobody waits,
//! the mask stays 1, for a signal would wake nobody: so short requests cost no system call on either side.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmbus::doorbell::GuestDoorbell;
use vmbus::incoming::IncomingRing;
use vmbus::mapped::MappedRing;
use vmbus::packet::PacketKind;
use vmbus::poll::{SpinBySize, granted_for, is_long};

use super::channel::{GuestChannel, lock};
use super::pending::{Matched, Token};
use super::waiting::Waiter;
use crate::wire::DeviceResponse;

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Woken {
    /// What was awaited is there.
    Ready,
    /// The control socket is readable.
    Control,
    /// The time is over.
    TimedOut,
    /// A signal arrived: let its handlers run, then wait again.
    Interrupted,
    /// The channel has ended.
    Closed,
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The completion of this request.
    Completion(Token),
    /// The completion of any request of this waiter's, which it then takes with `take_completed`.
    AnyCompletion,
    /// A change of the channel: credits, room, control messages.
    Change,
}

/// The incoming ring and what its reader uses again and again. Locked while it is drained and while a leader spins.
pub(super) struct Receiving {
    ring: IncomingRing<MappedRing>,
    spin: SpinBySize,
    scratch: Vec<u8>,
    woken: Vec<Arc<Waiter>>,
}

impl Receiving {
    pub fn new(ring: IncomingRing<MappedRing>) -> Self {
        Self { ring, spin: SpinBySize::default(), scratch: Vec::new(), woken: Vec::new() }
    }

    /// Spins while the grant holds and the host moves `bytes`; true when the ring has data. Leaves the ring masked.
    fn spin(&mut self, bytes: u64, granted_us: impl Fn() -> u32, deadline: Instant) -> bool {
        self.ring.mask();
        let granted = granted_for(granted_us(), bytes);
        self.spin.of(bytes).until(granted, deadline, || self.ring.has_data() || granted_us() == 0);
        self.ring.has_data()
    }
}

impl GuestChannel {
    // ---- draining

    /// Takes every completion that has arrived, wakes the owners, and leaves the ring armed: the next one signals.
    pub fn drain(&self) {
        self.drain_as(None, true);
    }

    /// The same on behalf of `own`, who looks for itself and needs no waking; armed only if it is to sleep.
    fn drain_as(&self, own: Option<&Arc<Waiter>>, arm: bool) {
        let changes_before = self.changes();
        let mut receiving = lock(&self.receiving);
        loop {
            receiving.ring.mask();
            let result = self.drain_once(&mut receiving, own);
            if receiving.ring.commit() {
                self.bell.signal();
            }
            if let Err(reason) = result {
                drop(receiving);
                self.corrupted(reason);
                return;
            }
            if !arm || receiving.ring.prepare_sleep() {
                break;
            }
        }
        receiving.woken.drain(..).for_each(|waiter| waiter.wake());
        drop(receiving);
        if self.changes() != changes_before {
            self.waiting.wake_for_change();
        }
    }

    fn drain_once(&self, receiving: &mut Receiving, own: Option<&Arc<Waiter>>) -> Result<(), String> {
        let Receiving { ring, scratch, woken, .. } = receiving;
        let mut table = None;
        while let Some(packet) = ring.next(scratch).map_err(|corruption| corruption.to_string())? {
            if packet.kind != PacketKind::Completion {
                return Err(format!("a packet of type {:?}, which no host sends", packet.kind));
            }
            let answer = DeviceResponse::parse(packet.payload).map_err(|error| error.to_string())?;
            let table = table.get_or_insert_with(|| lock(&self.table));
            self.changes.fetch_add(1, Ordering::SeqCst);
            match table.complete(packet.transaction_id, answer.error, answer.response_len) {
                Matched::Waited(waiter, token) => {
                    waiter.note(token);
                    let is_own = own.is_some_and(|own| Arc::ptr_eq(own, &waiter));
                    if !is_own && !woken.iter().any(|one| Arc::ptr_eq(one, &waiter)) {
                        woken.push(waiter);
                    }
                }
                Matched::Late => {}
                Matched::Unknown => {
                    self.unknown_completions.fetch_add(1, Ordering::Relaxed); // a counter, ordered with nothing
                }
            }
        }
        Ok(())
    }

    /// Notes that something happened that others may wait for, and wakes those who do.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst); // SeqCst: a change counted before the look is seen by the look
        self.waiting.wake_for_change();
    }

    /// How many changes there have been.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    // ---- waiting

    fn is_ready(&self, waiter: &Waiter, awaited: Awaited) -> bool {
        match awaited {
            Awaited::Completion(token) => lock(&self.table).is_done(token),
            Awaited::AnyCompletion => waiter.has_completed(),
            Awaited::Change => waiter.see(self.changes()),
        }
    }

    /// What the host has to move before the awaited can be there, as far as that is known.
    fn bytes_awaited(&self, awaited: Awaited) -> u64 {
        match awaited {
            Awaited::Completion(token) => lock(&self.table).room(token),
            Awaited::AnyCompletion | Awaited::Change => 0,
        }
    }

    /// How long this guest may spin now, in microseconds: the host's word (design §6). Advice, ordered with nothing.
    pub fn granted_us(&self) -> u32 {
        self.host_page.load_u32(0)
    }

    /// Looks whether the awaited is there, and spins for it if the host grants that and nobody else leads; never sleeps.
    ///
    /// Cheap enough to be tried before every [`wait`](Self::wait), which a caller in the interpreter must prepare for:
    /// hence only for requests that move few bytes, for the others' spins keep the interpreter for too long.
    pub fn look(&self, waiter: &Arc<Waiter>, awaited: Awaited) -> bool {
        let granted_us = self.granted_us();
        if granted_us == 0 || is_long(self.bytes_awaited(awaited)) || !self.waiting.try_lead(waiter) {
            return self.is_ready(waiter, awaited);
        }
        let deadline = Instant::now() + Duration::from_micros(granted_us.into());
        let mut ready = self.is_ready(waiter, awaited); // another thread may have drained it
        // Others' completions end a spin, not the wait.
        while !ready && lock(&self.receiving).spin(0, || self.granted_us(), deadline) {
            self.drain_as(Some(waiter), false);
            ready = self.is_ready(waiter, awaited);
        }
        self.waiting.leave(waiter);
        ready
    }

    /// Blocks the calling thread until the awaited is there, at most `timeout`.
    pub fn wait(&self, waiter: &Arc<Waiter>, awaited: Awaited, timeout: Duration) -> Woken {
        let woken = self.wait_entered(waiter, awaited, timeout);
        self.waiting.leave(waiter);
        if awaited != Awaited::AnyCompletion {
            waiter.take_completed(); // a thread asks for its one token; the notes are for owners of several
        }
        woken
    }

    fn wait_entered(&self, waiter: &Arc<Waiter>, awaited: Awaited, timeout: Duration) -> Woken {
        let began = Instant::now();
        let deadline = began + timeout;
        let mut has_spun = awaited == Awaited::Change;
        let bytes = self.bytes_awaited(awaited);
        loop {
            let leads = self.waiting.enter(waiter, awaited == Awaited::Change);
            if leads {
                let may_spin = !std::mem::replace(&mut has_spun, true) && self.granted_us() > 0;
                if may_spin && !self.is_ready(waiter, awaited) {
                    lock(&self.receiving).spin(bytes, || self.granted_us(), deadline);
                }
                self.drain_as(Some(waiter), true);
            }
            if self.is_closed() {
                return Woken::Closed;
            }
            if self.is_ready(waiter, awaited) {
                return Woken::Ready;
            }
            let (woken, rung) = self.sleep(waiter, leads, deadline);
            if rung {
                let granted = granted_for(self.granted_us(), bytes);
                lock(&self.receiving).spin.of(bytes).slept(granted, began.elapsed());
            }
            if let Some(woken) = woken {
                return woken;
            }
        }
    }

    /// Sleeps once; `None` means look again. Tells besides whether the host rang.
    fn sleep(&self, waiter: &Arc<Waiter>, leads: bool, deadline: Instant) -> (Option<Woken>, bool) {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let watched: [BorrowedFd<'_>; 3] = [waiter.as_fd(), self.bell.as_fd(), self.control.as_fd()];
        let mut fds = watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut fds[..if leads { 3 } else { 1 }], Some(&timeout)) {
            Ok(0) => return (Some(Woken::TimedOut), false),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return (Some(Woken::Interrupted), false),
            Err(error) => {
                self.corrupted(format!("waiting failed: {error}"));
                return (Some(Woken::Closed), false);
            }
        }
        let [own, bell, control] = fds.map(|fd| !fd.revents().is_empty());
        if own {
            waiter.clear();
        }
        if leads && bell {
            self.clear_bell();
        }
        ((leads && control).then_some(Woken::Control), leads && bell)
    }

    /// An event loop takes part in the waiting; true when it must watch the doorbell and the control socket itself.
    ///
    /// `for_change`: it waits for a change, not only for completions. It then calls [`drain`](Self::drain) once before it
    /// sleeps, and after each ring of the bell.
    pub fn watch(&self, waiter: &Arc<Waiter>, for_change: bool) -> bool {
        self.waiting.enter_loop(waiter, for_change)
    }

    /// An event loop (or a thread) takes part no longer.
    pub fn leave(&self, waiter: &Arc<Waiter>) {
        self.waiting.leave(waiter);
    }

    /// Wakes everyone who waits, to look again.
    pub fn wake_all(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.waiting.wake_all();
        if self.is_closed() {
            lock(&self.table).waiters().iter().for_each(|waiter| waiter.wake());
        }
    }

    /// Takes note of the host's signals. One may say that there is room in our ring, which is a change like any other.
    pub fn clear_bell(&self) {
        self.bell.clear();
        self.changed();
    }

    /// Our end of the doorbell: readable after the host signalled.
    pub fn bell(&self) -> &GuestDoorbell {
        &self.bell
    }

    /// The control socket, as this channel watches it.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}
