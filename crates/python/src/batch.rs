//! Many reads at once: packets are written one by one and shown to the host together, answers are taken as they come.
//!
//! Each read is made and interpreted like a single one (`reads`); a batch only knows which of its reads an answer is for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use blobdev::vsc::channel::GuestChannel as Channel;
use blobdev::vsc::pending::Token;
use blobdev::vsc::read::{NotBegun, Read};
use blobdev::vsc::receiving::{Awaited, Woken};
use blobdev::vsc::waiting::Waiter as Wait;
use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::buffer::OutBuffer;
use crate::guest::{GuestChannel, Waiter, wait};
use crate::pending::{length_of, memory_of};
use crate::reads::{ReadPlan, Target};

/// One read under way.
struct Item {
    /// What the caller calls it.
    name: Py<PyAny>,
    plan: Py<ReadPlan>,
    read: Read,
    /// The program's memory to be filled; `None`: the content becomes bytes.
    out: Option<Py<PyAny>>,
}

#[derive(Default)]
struct State {
    /// By the token's place in the pending table.
    items: Vec<Option<Item>>,
    in_flight: usize,
    /// Tokens in the order they were sent, with the moment each one is given up.
    deadlines: VecDeque<(Token, Instant)>,
    scratch: Vec<u8>,
}

impl State {
    fn put(&mut self, item: Item, deadline: Instant) {
        let (token, at) = (item.read.token, place(item.read.token));
        if self.items.len() <= at {
            self.items.resize_with(at + 1, || None);
        }
        self.items[at] = Some(item);
        self.in_flight += 1;
        self.deadlines.push_back((token, deadline));
    }

    fn remove(&mut self, token: Token) -> Option<Item> {
        let item = self.items.get_mut(place(token))?.take_if(|item| item.read.token == token)?;
        self.in_flight -= 1;
        Some(item)
    }

    /// The earliest deadline of a read that is still under way.
    fn deadline(&mut self) -> Option<Instant> {
        while let Some((token, deadline)) = self.deadlines.front() {
            let item = self.items.get(place(*token)).and_then(Option::as_ref);
            if item.is_some_and(|item| item.read.token == *token) {
                return Some(*deadline);
            }
            self.deadlines.pop_front();
        }
        None
    }

    fn drain(&mut self) -> Vec<Item> {
        (self.in_flight, self.deadlines) = (0, VecDeque::new());
        self.items.drain(..).flatten().collect()
    }
}

fn place(token: Token) -> usize {
    token.transaction_id() as usize - 1
}

/// Reads of one connection that are awaited together.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct ReadBatch {
    channel: Arc<Channel>,
    waiter: Arc<Wait>,
    pump: Py<PyAny>,
    /// Locked with the GIL held, and never while waiting.
    state: Mutex<State>,
}

type Done = Vec<(Py<PyAny>, Option<Py<PyAny>>)>;

#[pymethods]
impl ReadBatch {
    #[new]
    fn new(channel: &GuestChannel, pump: Py<PyAny>, waiter: &Waiter) -> Self {
        Self { channel: Arc::clone(&channel.0), waiter: Arc::clone(&waiter.0), pump, state: Mutex::default() }
    }

    fn __len__(&self) -> usize {
        self.lock().in_flight
    }

    /// Writes one read; `target`: a number of bytes, or memory to be filled whole. It is sent at the next flush.
    ///
    /// True: done. False: no credit, no room or no pages now. None: it must go the general way.
    fn add(&self, plan: &Bound<'_, ReadPlan>, name: Py<PyAny>, offset: u64, target: Bound<'_, PyAny>) -> Option<bool> {
        let this = plan.get();
        let of_this_channel = Arc::ptr_eq(&this.plan.channel, &self.channel) && !self.channel.is_inherited();
        let length = length_of(this, &target)?;
        if !of_this_channel || !this.is_one_piece(length) {
            return None;
        }
        let state = &mut *self.lock();
        let own = this.own_slice(&target);
        match this.plan.begin(&self.waiter, (offset, length), own, &mut state.scratch, false) {
            Ok(read) => {
                let out = memory_of(target).map(Bound::unbind);
                let item = Item { name, plan: plan.clone().unbind(), read, out };
                state.put(item, Instant::now() + this.give_up_after);
                Some(true)
            }
            Err(NotBegun::Busy) => Some(false),
            Err(NotBegun::Never) => None,
        }
    }

    /// Shows the host what was added, with one signal if it needs one.
    fn flush(&self) {
        if !self.channel.is_inherited() {
            self.channel.flush();
        }
    }

    /// Waits until at least one read is done; returns (name, value) of all that are, as the plan's own methods give it.
    ///
    /// Empty only when nothing is under way.
    fn wait(&self, py: Python<'_>) -> PyResult<Done> {
        loop {
            let done = self.take(py)?;
            if !done.is_empty() {
                return Ok(done);
            }
            if self.channel.is_inherited() || self.channel.is_closed() {
                return Ok(self.expire(py));
            }
            let Some(deadline) = self.lock().deadline() else { return Ok(done) };
            if self.channel.look(&self.waiter, Awaited::AnyCompletion) {
                continue;
            }
            match wait(py, &self.channel, &self.waiter, Awaited::AnyCompletion, deadline)? {
                Woken::Control => drop(self.pump.call0(py)?),
                Woken::TimedOut => return Ok(self.expire(py)),
                Woken::Ready | Woken::Interrupted | Woken::Closed => {}
            }
        }
    }

    /// Takes what is done without waiting, for event loops.
    fn take(&self, py: Python<'_>) -> PyResult<Done> {
        let mut done = Vec::new();
        if self.channel.is_inherited() {
            return Ok(done);
        }
        // Taken out, for other threads may run during a copy and must not find the lock held.
        let mut scratch = std::mem::take(&mut self.lock().scratch);
        for token in self.waiter.take_completed() {
            let Some(outcome) = self.channel.take(token) else { continue };
            let Some(item) = self.lock().remove(token) else { continue };
            let value = match item.plan.get().answer(&item.read, outcome, &mut scratch) {
                Ok(answer) => item_value(py, item.read, item.out.as_ref(), |read, target| {
                    answer.value(py, &scratch[..answer.size], read, target)
                })?,
                Err(ended) => ended.value(py),
            };
            done.push((item.name, value));
        }
        self.lock().scratch = scratch;
        Ok(done)
    }

    /// Gives up the reads whose time is over; all of them, for the general way, when the channel has ended.
    fn expire(&self, py: Python<'_>) -> Done {
        if self.channel.is_inherited() || self.channel.is_closed() {
            return self.lock().drain().into_iter().map(|item| (item.name, None)).collect();
        }
        let now = Instant::now();
        let mut done = Vec::new();
        let state = &mut *self.lock();
        while state.deadline().is_some_and(|deadline| deadline <= now) {
            let Some((token, _)) = state.deadlines.pop_front() else { break };
            self.channel.abandon(token);
            if let Some(item) = state.remove(token) {
                done.push((item.name, Some(PyBool::new(py, false).to_owned().into_any().unbind())));
            }
        }
        done
    }

    /// Seconds until the next read is to be given up; 0 when none is under way.
    fn seconds_left(&self) -> f64 {
        let deadline = self.lock().deadline();
        deadline.map_or(0.0, |deadline| deadline.saturating_duration_since(Instant::now()).as_secs_f64())
    }

    /// Stops waiting for what is under way and asks the host to stop: its pages stay away until it answers.
    fn cancel(&self) {
        let items = self.lock().drain();
        self.flush();
        items.iter().for_each(|item| self.channel.abandon(item.read.token));
    }
}

impl Drop for ReadBatch {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl ReadBatch {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds the target of a read that is done; memory that has another size by now is left to the general way.
pub(crate) fn item_value(
    py: Python<'_>,
    read: Read,
    out: Option<&Py<PyAny>>,
    value: impl FnOnce(Read, Target<'_>) -> PyResult<Py<PyAny>>,
) -> PyResult<Option<Py<PyAny>>> {
    let Some(out) = out else { return value(read, Target::Bytes).map(Some) };
    if read.is_in_place {
        return value(read, Target::InPlace).map(Some);
    }
    OutBuffer::with(out.bind(py), |out| match out.filter(|out| out.len() == read.data.length) {
        Some(out) => value(read, Target::Filled(out)).map(Some),
        None => Ok(None),
    })
}
