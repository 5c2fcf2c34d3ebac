//! The leader rule (design rule 7): of all who wait on one channel, one watches the doorbell for everybody.
//!
//! Each waiting thread and each event loop is a [`Waiter`] with a descriptor of its own. [`Waiting`] knows who leads and
//! who waits; it never blocks and never reads the ring. Its one invariant: while somebody waits, either a thread leads, or
//! a parked thread has been signalled to take the lead, or (no thread waiting) every loop watches for itself. So nobody
//! sleeps on a channel that no one watches.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::pending::Token;

/// Somebody who waits: a thread in a blocking call, or an event loop. It is woken through a descriptor of its own.
pub struct Waiter {
    wake: OwnedFd,
    /// Requests completed since the owner last looked, for owners of several: event loops, batches.
    completed: Mutex<Vec<Token>>,
    /// The owner asks for its one token instead.
    has_one: bool,
    /// How many changes of the channel the owner has seen.
    seen: AtomicU64,
}

impl Waiter {
    /// Makes a waiter with a fresh descriptor.
    pub fn new() -> io::Result<Arc<Self>> {
        Self::make(false)
    }

    /// Makes a waiter that never has more than one request, and is told its token's end by the pending table alone.
    pub fn of_one() -> io::Result<Arc<Self>> {
        Self::make(true)
    }

    fn make(has_one: bool) -> io::Result<Arc<Self>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { wake, completed: Mutex::default(), has_one, seen: AtomicU64::new(0) }))
    }

    fn notes(&self) -> MutexGuard<'_, Vec<Token>> {
        self.completed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the descriptor readable. A full counter means that it is readable already.
    pub fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable until the next [`wake`](Self::wake).
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
    }

    /// Notes a completed request for the owner.
    pub fn note(&self, token: Token) {
        if !self.has_one {
            self.notes().push(token);
        }
    }

    /// Tells whether requests have completed since the last [`take_completed`](Self::take_completed).
    pub fn has_completed(&self) -> bool {
        !self.notes().is_empty()
    }

    /// Takes notice of the channel's changes so far; true when there were new ones.
    pub fn see(&self, changes: u64) -> bool {
        // Relaxed: only the owner touches it.
        self.seen.swap(changes, Ordering::Relaxed) != changes
    }

    /// Returns and forgets the requests completed since the last call.
    pub fn take_completed(&self) -> Vec<Token> {
        std::mem::take(&mut *self.notes())
    }
}

impl AsFd for Waiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[derive(Default)]
struct State {
    leader: Option<Arc<Waiter>>,
    parked: VecDeque<Arc<Waiter>>,
    loops: Vec<Arc<Waiter>>,
    /// Those of the above who wait for a change of the channel rather than for a completion of their own.
    for_change: Vec<Arc<Waiter>>,
}

/// Who leads and who waits, on one channel.
#[derive(Default)]
pub struct Waiting {
    state: Mutex<State>,
}

fn position(waiters: &[Arc<Waiter>], waiter: &Arc<Waiter>) -> Option<usize> {
    waiters.iter().position(|one| Arc::ptr_eq(one, waiter))
}

impl State {
    fn is_leader(&self, waiter: &Arc<Waiter>) -> bool {
        self.leader.as_ref().is_some_and(|leader| Arc::ptr_eq(leader, waiter))
    }

    fn unpark(&mut self, waiter: &Arc<Waiter>) {
        self.parked.retain(|parked| !Arc::ptr_eq(parked, waiter));
    }

    /// With nobody leading: wakes a thread to do it, or, when no thread waits, the loops.
    fn hand_on(&self) {
        match self.parked.front() {
            _ if self.leader.is_some() => {}
            Some(next) => next.wake(),
            None => self.loops.iter().for_each(|waiter| waiter.wake()),
        }
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread joins those who wait. Returns true when it leads from now on; false when another thread does.
    ///
    /// May be called again by one who waits or leads already. The caller must look at its own request once more *after*
    /// this call and before it sleeps: completions that came earlier are not announced again. `for_change`: it waits for
    /// a change of the channel, not (only) for a completion of its own.
    pub fn enter(&self, waiter: &Arc<Waiter>, for_change: bool) -> bool {
        let mut state = self.lock();
        if for_change && position(&state.for_change, waiter).is_none() {
            state.for_change.push(Arc::clone(waiter));
        }
        if state.is_leader(waiter) {
            return true;
        }
        if state.leader.is_some() {
            if !state.parked.iter().any(|parked| Arc::ptr_eq(parked, waiter)) {
                state.parked.push_back(Arc::clone(waiter));
            }
            return false;
        }
        state.unpark(waiter);
        state.leader = Some(Arc::clone(waiter));
        true
    }

    /// A thread takes the lead if nobody has it, and otherwise does not wait: for one who looks and spins, then leaves.
    pub fn try_lead(&self, waiter: &Arc<Waiter>) -> bool {
        let mut state = self.lock();
        let free = state.leader.is_none();
        if free {
            state.leader = Some(Arc::clone(waiter));
        }
        free
    }

    /// An event loop joins. Returns true when it must watch the doorbell itself, because no thread leads.
    ///
    /// A loop may be busy with user code, so it is never relied on while a thread waits: a thread always takes the
    /// lead, and several loops without a thread each watch for themselves.
    pub fn enter_loop(&self, waiter: &Arc<Waiter>, for_change: bool) -> bool {
        let mut state = self.lock();
        if for_change && position(&state.for_change, waiter).is_none() {
            state.for_change.push(Arc::clone(waiter));
        }
        if position(&state.loops, waiter).is_none() {
            state.loops.push(Arc::clone(waiter));
        }
        state.leader.is_none()
    }

    /// Leaves, for whatever reason. Who led hands on to one who waits, by waking it.
    pub fn leave(&self, waiter: &Arc<Waiter>) {
        let mut state = self.lock();
        state.unpark(waiter);
        if let Some(index) = position(&state.loops, waiter) {
            state.loops.swap_remove(index);
        }
        if let Some(index) = position(&state.for_change, waiter) {
            state.for_change.swap_remove(index);
        }
        if state.is_leader(waiter) {
            state.leader = None;
        }
        // Also when the caller did not lead: it may be the one that an earlier leader woke to take over, and it leaves
        // (answer, Ctrl-C, timeout) before it did so. Then the next one must be woken in its place.
        state.hand_on();
    }

    /// Wakes everyone who waits, the leader included: the channel ended, or room appeared.
    pub fn wake_all(&self) {
        let state = self.lock();
        state.leader.iter().chain(&state.parked).chain(&state.loops).for_each(|waiter| waiter.wake());
    }

    /// Wakes those who wait for a change, threads and loops alike.
    pub fn wake_for_change(&self) {
        self.lock().for_change.iter().for_each(|waiter| waiter.wake());
    }

    /// How many wait, the leader included.
    pub fn len(&self) -> usize {
        let state = self.lock();
        state.parked.len() + state.loops.len() + usize::from(state.leader.is_some())
    }

    /// Tells whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn is_woken(waiter: &Waiter) -> bool {
        let mut fds = [PollFd::new(waiter, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    fn waiters<const N: usize>() -> [Arc<Waiter>; N] {
        std::array::from_fn(|_| Waiter::new().unwrap())
    }

    #[test]
    fn rule_7_one_leads_and_a_leaving_leader_hands_on_to_one_that_waits() {
        let (waiting, [first, second, third]) = (Waiting::default(), waiters());
        assert!(waiting.enter(&first, false));
        assert!(waiting.enter(&first, false), "still the leader");
        assert!(!waiting.enter(&second, false));
        assert!(!waiting.enter(&third, false));
        waiting.leave(&first);
        assert!(is_woken(&second) && !is_woken(&third), "exactly one is woken to lead");
        assert!(waiting.enter(&second, false));
        assert!(!waiting.enter(&third, false));
    }

    #[test]
    fn rule_7_a_successor_that_leaves_before_it_leads_passes_the_lead_on() {
        let (waiting, [first, second, third]) = (Waiting::default(), waiters());
        waiting.enter(&first, false);
        waiting.enter(&second, false);
        waiting.enter(&third, false);
        waiting.leave(&first);
        waiting.leave(&second); // Ctrl-C, say, at the moment it was woken
        assert!(is_woken(&third));
    }

    #[test]
    fn rule_7_the_last_to_leave_leaves_nobody_behind() {
        let (waiting, [first, second]) = (Waiting::default(), waiters());
        waiting.enter(&first, false);
        waiting.enter(&second, false);
        waiting.leave(&second);
        waiting.leave(&first);
        assert!(waiting.is_empty());
        assert!(!is_woken(&second));
    }

    #[test]
    fn rule_7_an_event_loop_watches_only_while_no_thread_leads() {
        let (waiting, [thread, first, second]) = (Waiting::default(), waiters());
        assert!(waiting.enter_loop(&first, false));
        assert!(waiting.enter(&thread, false), "a loop may be busy, so a thread leads in spite of it");
        assert!(!waiting.enter_loop(&first, false) && !waiting.enter_loop(&second, false));
        waiting.leave(&thread);
        assert!(is_woken(&first) && is_woken(&second), "no thread is left to lead, so each loop watches");
        assert!(waiting.enter_loop(&first, false) && waiting.enter_loop(&second, false));
    }
}
