//! Reads in one call: what Python has prepared is sent, awaited and copied out without coming back to the interpreter.
//!
//! Each call gives the value or a view of the expected answer; `(message, placed)` for any other answer of the service, to
//! be interpreted; `False` when the time is over; `None` for whatever else happened, to be done again the general way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use blobdev::bhttp::{self, AnswerShape, RequestTemplate};
use blobdev::hresult;
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
    plan: Plan,
    learned: Mutex<Option<Arc<Learned>>>,
    give_up_after: Duration,
    /// Longer reads travel in pieces, which is not done here.
    length_max: usize,
    /// Handles control messages while a call waits.
    pump: Py<PyAny>,
}

/// An answer, its message in the seat's scratch.
pub(crate) struct Answer {
    /// Size of the message.
    size: usize,
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
                let size = self.plan.message(&read, outcome, &mut seat.scratch);
                return Ok(size
                    .map(|size| self.answered(read, &seat.scratch[..size]))
                    .ok_or(Ended::by(outcome.status)));
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

    fn answered(&self, read: Read, message: &[u8]) -> (Read, Answer) {
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let asked = read.data.length as u64;
        let expected = learned.and_then(|learned| Some((learned.shape.placed(message, read.offset, asked)?, learned)));
        let (placed, learned) = match expected {
            Some((placed, learned)) => (Some(placed as usize), Some(learned)),
            None => (whole(message, read.data.length), None),
        };
        (read, Answer { size: message.len(), placed, learned })
    }

    fn is_one_piece(&self, length: usize) -> bool {
        (1..=self.length_max).contains(&length)
    }

    /// Runs `call` on a seat, which goes back whatever happens.
    fn seated<R>(&self, call: impl FnOnce(&mut Seat) -> PyResult<R>) -> PyResult<R> {
        let mut seat = self.plan.channel.take_seat()?;
        let result = call(&mut seat);
        self.plan.channel.give_seat(seat);
        result
    }
}

/// How a read ended that has no answer of the service.
enum Ended {
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
    fn value(self, py: Python<'_>) -> Option<Py<PyAny>> {
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

/// What a call gives for an answer that is not the expected one.
fn unexpected(py: Python<'_>, seat: &Seat, answer: &Answer) -> PyResult<Py<PyAny>> {
    let message = PyBytes::new(py, &seat.scratch[..answer.size]);
    Ok(PyTuple::new(py, [message.into_any(), answer.placed.into_pyobject(py)?.into_any()])?.into_any().unbind())
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
        if let Ok(lent) = out.cast_exact::<LentBuffer>()
            && lent.get().slice_ref().pages.is_of(&self.plan.memory)
        {
            let slice = lent.get().slice_ref();
            return self.read(py, offset, slice.length, Some(slice), |_, _| {});
        }
        OutBuffer::with(out, |out| {
            let Some(out) = out else { return Ok(None) };
            self.read(py, offset, out.len(), None, |data, placed| {
                without_gil_if_large(py, placed, || out.fill(data, placed));
            })
        })
    }

    /// Reads `length` bytes from `offset`, or as many as there are, as bytes.
    fn read_bytes(&self, py: Python<'_>, offset: u64, length: usize) -> PyResult<Option<Py<PyAny>>> {
        if !self.is_one_piece(length) {
            return Ok(None);
        }
        self.seated(|seat| {
            let (read, answer) = match self.transact(py, seat, (offset, length), None)? {
                Ok(answered) => answered,
                Err(ended) => return Ok(ended.value(py)),
            };
            match (answer.placed, &answer.learned) {
                (Some(placed), Some(_)) => Ok(Some(bytes_of(py, &read.data, placed)?.into_any().unbind())),
                (Some(placed), None) => {
                    let content = bytes_of(py, &read.data, placed)?;
                    let message = PyBytes::new(py, &seat.scratch[..answer.size]);
                    Ok(Some(PyTuple::new(py, [message, content])?.into_any().unbind()))
                }
                (None, _) => unexpected(py, seat, &answer).map(Some),
            }
        })
    }

    /// Reads `length` bytes from `offset`, or as many as there are, and leaves them in lent pages.
    fn read_lent(&self, py: Python<'_>, offset: u64, length: usize) -> PyResult<Option<Py<PyAny>>> {
        if !self.is_one_piece(length) {
            return Ok(None);
        }
        let Some(pages) = self.plan.memory.allocate(length) else { return Ok(None) };
        let into = LentSlice { pages, offset: 0, length };
        self.seated(|seat| {
            let (read, answer) = match self.transact(py, seat, (offset, length), Some(&into))? {
                Ok(answered) => answered,
                Err(ended) => return Ok(ended.value(py)),
            };
            let Some(placed) = answer.placed else { return unexpected(py, seat, &answer).map(Some) };
            let lent = Bound::new(py, LentBuffer::new(read.data.pages, placed))?;
            if answer.learned.is_some() {
                return Ok(Some(lent.into_any().unbind()));
            }
            let message = PyBytes::new(py, &seat.scratch[..answer.size]);
            Ok(Some(PyTuple::new(py, [message.into_any(), lent.into_any()])?.into_any().unbind()))
        })
    }
}

impl ReadPlan {
    fn read(
        &self,
        py: Python<'_>,
        offset: u64,
        length: usize,
        into: Option<&LentSlice>,
        copy_out: impl FnOnce(&LentSlice, usize),
    ) -> PyResult<Option<Py<PyAny>>> {
        if !self.is_one_piece(length) {
            return Ok(None);
        }
        self.seated(|seat| {
            let (read, answer) = match self.transact(py, seat, (offset, length), into)? {
                Ok(answered) => answered,
                Err(ended) => return Ok(ended.value(py)),
            };
            if let Some(placed) = answer.placed {
                copy_out(&read.data, placed);
            }
            match &answer.learned {
                Some(learned) if answer.placed == Some(length) && !learned.value.is_none(py) => {
                    Ok(Some(learned.value.clone_ref(py)))
                }
                _ => unexpected(py, seat, &answer).map(Some),
            }
        })
    }
}
