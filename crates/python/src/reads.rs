//! Reads in one call: what Python has prepared is sent, awaited and copied out without coming back to the interpreter.
//!
//! Each call gives the value or a view of the expected answer; `(message, placed)` for any other answer of the service, to
//! be interpreted; `False` when the time is over; `None` for whatever else happened, to be done again the general way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use blobdev::bhttp::{self, AnswerShape, RequestTemplate};
use blobdev::hresult;
use blobdev::vsc::pending::Outcome;
use blobdev::vsc::read::{Read, ReadPlan as Plan};
use blobdev::vsc::receiving::{Awaited, Woken};
use blobdev::vsc::seats::Seat;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBool, PyBytes, PyTuple};

use crate::buffer::{LentBuffer, OutBuffer, bytes_of, without_gil_if_large};
use crate::codec::{FieldPairs, latin1};
use crate::guest::{GuestChannel, LentMemory, LentSlice, wait};

/// An answer seen before, and what Python made of it.
struct Learned {
    shape: AnswerShape,
    value: Py<PyAny>,
}

/// How to read ranges of one blob under fixed conditions, on one connection.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct ReadPlan {
    pub(crate) plan: Plan,
    learned: Mutex<Option<Arc<Learned>>>,
    pub(crate) give_up_after: Duration,
    /// Longer reads travel in pieces, which is not done here.
    length_max: usize,
    /// Handles control messages while a call waits.
    pump: Py<PyAny>,
}

/// An answer; its message is in the caller's scratch.
pub(crate) struct Answer {
    /// Size of the message.
    pub(crate) size: usize,
    /// Content in the data buffer when it is whole there, else `None`.
    placed: Option<usize>,
    learned: Option<Arc<Learned>>,
}

impl ReadPlan {
    /// Sends and awaits one read.
    fn transact(
        &self,
        py: Python<'_>,
        seat: &mut Seat,
        range: (u64, usize),
        into: Option<&LentSlice>,
    ) -> PyResult<Result<(Read, Answer), Ended>> {
        let Ok(read) = self.plan.begin(&seat.waiter, range, into, &mut seat.scratch, true) else {
            return Ok(Err(Ended::Otherwise));
        };
        let awaited = Awaited::Completion(read.token);
        self.plan.channel.look(&seat.waiter, awaited);
        let mut deadline = None;
        loop {
            if let Some(outcome) = self.plan.channel.take(read.token) {
                return Ok(self.answer(&read, outcome, &mut seat.scratch).map(|answer| (read, answer)));
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.give_up_after);
            let ended = match wait(py, &self.plan.channel, &seat.waiter, awaited, deadline) {
                Ok(Woken::Ready) => continue,
                Ok(Woken::Control) => self.pump.call0(py).map(|_| ()),
                Ok(woken) => {
                    self.plan.channel.abandon(read.token);
                    return Ok(Err(if woken == Woken::TimedOut { Ended::TooLate } else { Ended::Otherwise }));
                }
                Err(raised) => Err(raised),
            };
            if let Err(raised) = ended {
                self.plan.channel.abandon(read.token);
                return Err(raised);
            }
        }
    }

    /// Takes the answer's message into `scratch` and compares it with the expected one.
    pub(crate) fn answer(&self, read: &Read, outcome: Outcome, scratch: &mut Vec<u8>) -> Result<Answer, Ended> {
        let size = self.plan.message(read, outcome, scratch).ok_or(Ended::by(outcome.status))?;
        let message = &scratch[..size];
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let asked = read.data.length as u64;
        let expected = learned.and_then(|learned| Some((learned.shape.placed(message, read.offset, asked)?, learned)));
        Ok(match expected {
            Some((placed, learned)) => Answer { size, placed: Some(placed as usize), learned: Some(learned) },
            None => Answer { size, placed: whole(message, read.data.length), learned: None },
        })
    }

    pub(crate) fn is_one_piece(&self, length: usize) -> bool {
        (1..=self.length_max).contains(&length)
    }
}

/// How a read ended that has no answer of the service.
pub(crate) enum Ended {
    /// Its time is over.
    TooLate,
    /// In any other way: it is to be done again the general way.
    Otherwise,
}

impl Ended {
    fn by(status: u32) -> Self {
        if status == hresult::DEADLINE { Self::TooLate } else { Self::Otherwise }
    }

    /// What Python gets: False or None.
    pub(crate) fn value(self, py: Python<'_>) -> Option<Py<PyAny>> {
        match self {
            Self::TooLate => Some(PyBool::new(py, false).to_owned().into_any().unbind()),
            Self::Otherwise => None,
        }
    }
}

/// Bytes that a successful answer placed in the data buffer, if that is all its content.
fn whole(message: &[u8], room: usize) -> Option<usize> {
    let head = bhttp::decode_response(message).ok()?;
    let number = |wanted: &[u8]| -> Option<usize> {
        let (_, value) = head.fields.into_iter().find(|(name, _)| *name == wanted)?;
        std::str::from_utf8(value).ok()?.parse().ok()
    };
    let placed = number(b"pvblob-data-length")?;
    let is_whole = matches!(head.status, 200 | 206) && head.content.is_empty();
    (is_whole && placed <= room && number(b"content-length") == Some(placed)).then_some(placed)
}

/// Where the content of a read goes.
pub(crate) enum Target<'a> {
    /// Into bytes of its own.
    Bytes,
    /// Nowhere: it stays in lent pages.
    Lent,
    /// Into the program's memory.
    Filled(&'a OutBuffer),
    /// It is there: the host wrote it into lent memory of the program's.
    InPlace,
}

impl Answer {
    /// Makes what Python gets; `message` is the answer's.
    pub(crate) fn value(&self, py: Python<'_>, message: &[u8], read: Read, target: Target<'_>) -> PyResult<Py<PyAny>> {
        let tuple = |placed: Bound<'_, PyAny>| -> PyResult<Py<PyAny>> {
            Ok(PyTuple::new(py, [PyBytes::new(py, message).into_any(), placed])?.into_any().unbind())
        };
        let Some(placed) = self.placed else { return tuple(py.None().into_bound(py)) };
        let asked = read.data.length;
        let content = match target {
            Target::Bytes => bytes_of(py, &read.data, placed)?.into_any(),
            Target::Lent => Bound::new(py, LentBuffer::new(read.data.pages, placed))?.into_any(),
            Target::Filled(_) | Target::InPlace => {
                if let Target::Filled(out) = target {
                    without_gil_if_large(py, placed, || out.fill(&read.data, placed));
                }
                match &self.learned {
                    Some(learned) if placed == asked && !learned.value.is_none(py) => {
                        return Ok(learned.value.clone_ref(py));
                    }
                    _ => return tuple(placed.into_pyobject(py)?.into_any()),
                }
            }
        };
        if self.learned.is_some() { Ok(content.unbind()) } else { tuple(content) }
    }
}

#[pymethods]
impl ReadPlan {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "a request's own parts; Python names them")]
    fn new(
        channel: &GuestChannel,
        memory: &LentMemory,
        pump: Py<PyAny>,
        control: (PyBackedStr, PyBackedStr, PyBackedStr, PyBackedStr),
        fields: FieldPairs,
        range_field: usize,
        timeout_ms: u32,
        give_up_s: f64,
        length_max: usize,
    ) -> PyResult<Self> {
        let (method, scheme, authority, path) = &control;
        let control = [
            latin1(method, "method")?,
            latin1(scheme, "scheme")?,
            latin1(authority, "authority")?,
            latin1(path, "path")?,
        ];
        let lines = crate::codec::lines(&fields)?;
        let lines: Vec<(&[u8], &[u8])> = lines.iter().map(|(name, value)| (&**name, &**value)).collect();
        let control = [&*control[0], &*control[1], &*control[2], &*control[3]];
        let template = RequestTemplate::new(control, &lines, range_field)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let plan = Plan::new(Arc::clone(&channel.0), Arc::clone(&memory.0), template, timeout_ms);
        let give_up_after = Duration::try_from_secs_f64(give_up_s.clamp(0.0, 1e9)).unwrap_or_default();
        Ok(Self { plan, learned: Mutex::default(), give_up_after, length_max, pump })
    }

    /// Expects answers like `message` from now on, and gives `value` for them; false if it is no answer to expect.
    fn learn(&self, message: &[u8], volatile: Vec<PyBackedStr>, value: Py<PyAny>) -> bool {
        let is_volatile = |name: &[u8]| volatile.iter().any(|one| one.as_bytes() == name);
        let Some(shape) = AnswerShape::learn(message, is_volatile) else { return false };
        let learned = Some(Arc::new(Learned { shape, value }));
        // What it held before is dropped after the lock is given back, for that may run Python code.
        let before = std::mem::replace(&mut *self.learned.lock().unwrap_or_else(PoisonError::into_inner), learned);
        drop(before);
        true
    }

    /// Fills `out` from `offset`; the learnt value, if the answer is the expected one and fills it whole.
    fn read_into(&self, py: Python<'_>, out: &Bound<'_, PyAny>, offset: u64) -> PyResult<Option<Py<PyAny>>> {
        if let Some(slice) = self.own_slice(out) {
            return self.read(py, (offset, slice.length), Some(slice), Target::InPlace);
        }
        OutBuffer::with(out, |out| {
            let Some(out) = out else { return Ok(None) };
            self.read(py, (offset, out.len()), None, Target::Filled(out))
        })
    }

    /// Reads `length` bytes from `offset`, or as many as there are, as bytes.
    fn read_bytes(&self, py: Python<'_>, offset: u64, length: usize) -> PyResult<Option<Py<PyAny>>> {
        self.read(py, (offset, length), None, Target::Bytes)
    }

    /// Reads `length` bytes from `offset`, or as many as there are, and leaves them in lent pages.
    fn read_lent(&self, py: Python<'_>, offset: u64, length: usize) -> PyResult<Option<Py<PyAny>>> {
        let Some(into) = self.lend(length) else { return Ok(None) };
        self.read(py, (offset, length), Some(&into), Target::Lent)
    }
}

impl ReadPlan {
    /// The lent memory that `out` is, if it is this connection's.
    pub(crate) fn own_slice<'a>(&self, out: &'a Bound<'_, PyAny>) -> Option<&'a LentSlice> {
        let slice = out.cast_exact::<LentBuffer>().ok()?.get().slice_ref();
        slice.pages.is_of(&self.plan.memory).then_some(slice)
    }

    /// Lends pages that outlive the read, if it is one that is done here.
    pub(crate) fn lend(&self, length: usize) -> Option<LentSlice> {
        let pages = self.is_one_piece(length).then(|| self.plan.memory.allocate(length))??;
        Some(LentSlice { pages, offset: 0, length })
    }

    fn read(
        &self,
        py: Python<'_>,
        range: (u64, usize),
        into: Option<&LentSlice>,
        target: Target<'_>,
    ) -> PyResult<Option<Py<PyAny>>> {
        if !self.is_one_piece(range.1) {
            return Ok(None);
        }
        let mut seat = self.plan.channel.take_seat()?;
        let value = match self.transact(py, &mut seat, range, into) {
            Ok(Ok((read, answer))) => answer.value(py, &seat.scratch[..answer.size], read, target).map(Some),
            Ok(Err(ended)) => Ok(ended.value(py)),
            Err(raised) => Err(raised),
        };
        self.plan.channel.give_seat(seat);
        value
    }
}
