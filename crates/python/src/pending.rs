//! A read that an event loop awaits: begun in one call, looked at whenever the loop is woken, taken once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blobdev::vsc::read::Read;
use blobdev::vsc::receiving::Awaited;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple};

use crate::batch::item_value;
use crate::buffer::OutBuffer;
use crate::guest::Waiter;
use crate::reads::ReadPlan;

/// What is kept of a read until it is taken.
struct UnderWay {
    read: Read,
    /// The program's memory to be filled; `None`: the content becomes bytes.
    out: Option<Py<PyAny>>,
    scratch: Vec<u8>,
}

/// One read under way; dropping it abandons it.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct PendingRead {
    plan: Py<ReadPlan>,
    token: u64,
    /// Locked with the GIL held, and never while Python code runs.
    under_way: Mutex<Option<UnderWay>>,
}

/// How many bytes `target` asks for: a number, or the size of memory to be filled; `None`: it is neither.
pub(crate) fn length_of(plan: &ReadPlan, target: &Bound<'_, PyAny>) -> Option<usize> {
    if let Ok(length) = target.cast_exact::<PyInt>() {
        return length.extract().ok();
    }
    match plan.own_slice(target) {
        Some(slice) => Some(slice.length),
        None => OutBuffer::with(target, |out| out.map(OutBuffer::len)),
    }
}

/// The memory that `target` is, if it is not a number of bytes.
pub(crate) fn memory_of<'py>(target: Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    (!target.is_exact_instance_of::<PyInt>()).then_some(target)
}

#[pymethods]
impl PendingRead {
    /// Sends one read; `target`: a number of bytes, or memory to be filled whole. None: it must go the general way.
    ///
    /// `spins`: look for the answer at once, for as long as the host grants; only for a waiter with nothing under way.
    #[staticmethod]
    fn begin(
        plan: &Bound<'_, ReadPlan>,
        waiter: &Waiter,
        offset: u64,
        target: Bound<'_, PyAny>,
        spins: bool,
    ) -> Option<Self> {
        let this = plan.get();
        let length = length_of(this, &target)?;
        let channel = &this.plan.channel;
        if channel.is_inherited() || !this.is_one_piece(length) {
            return None;
        }
        let mut scratch = Vec::new();
        let own = this.own_slice(&target);
        let read = this.plan.begin(&waiter.0, (offset, length), own, &mut scratch, true).ok()?;
        let token = read.token;
        if spins {
            channel.look(&waiter.0, Awaited::Completion(token));
            waiter.0.take_completed(); // who spins has nothing else under way: the note would be for nobody
        }
        let out = memory_of(target).map(Bound::unbind);
        let under_way = Mutex::new(Some(UnderWay { read, out, scratch }));
        Some(Self { plan: plan.clone().unbind(), token: token.to_bits(), under_way })
    }

    /// The request's token, as the waiter's owner is told it.
    #[getter]
    fn token(&self) -> u64 {
        self.token
    }

    /// None while it is under way; then, once, a tuple of one: the value as `ReadPlan`'s own methods give it.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let this = self.plan.get();
        let channel = Arc::clone(&this.plan.channel);
        let (ended, outcome) = {
            let mut under_way = self.lock();
            let outcome = match under_way.as_ref() {
                Some(UnderWay { read, .. }) if !channel.is_inherited() => channel.take(read.token),
                _ => return PyTuple::new(py, [py.None()]).map(Some),
            };
            let Some(outcome) = outcome else { return Ok(None) };
            (under_way.take(), outcome)
        };
        let Some(UnderWay { read, out, mut scratch }) = ended else { return Ok(None) };
        let value = match this.answer(&read, outcome, &mut scratch) {
            Ok(answer) => item_value(py, read, out.as_ref(), |read, target| {
                answer.value(py, &scratch[..answer.size], read, target)
            })?,
            Err(ended) => ended.value(py),
        };
        PyTuple::new(py, [value]).map(Some)
    }

    /// Stops waiting and asks the host to stop; does nothing when it was taken.
    fn abandon(&self) {
        let under_way = self.lock().take();
        let channel = &self.plan.get().plan.channel;
        if let Some(UnderWay { read, .. }) = under_way.filter(|_| !channel.is_inherited()) {
            channel.abandon(read.token);
        }
    }
}

impl PendingRead {
    fn lock(&self) -> MutexGuard<'_, Option<UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PendingRead {
    fn drop(&mut self) {
        self.abandon();
    }
}
