//! The guest's objects: lent memory, buffers, waiters, the channel. They convert; `blobdev::vsc` does.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blobdev::vsc::channel::{GuestChannel as Channel, Refused, Wiring, create_rings};
use blobdev::vsc::memory::LentMemory as Memory;
use blobdev::vsc::pending::Token;
use blobdev::vsc::receiving::{Awaited, Woken};
use blobdev::vsc::submission::{Slice, Submission};
use blobdev::vsc::waiting::Waiter as Wait;
use pyo3::exceptions::{PyConnectionError, PyOSError, PyValueError};
use pyo3::prelude::*;
use vmbus::doorbell::GuestDoorbell;
use vmbus::layout::PAGE_SIZE;
use vmbus::memory::Region;

use crate::buffer::{LentBuffer, SharedMapping};
use crate::descriptors::duplicate;

pub(crate) const WAIT_READY: u8 = 0;
pub(crate) const WAIT_CONTROL: u8 = 1;
pub(crate) const WAIT_TIMED_OUT: u8 = 2;
pub(crate) const WAIT_CLOSED: u8 = 3;

/// A signal that arrives just before the thread sleeps does not end the sleep: its handler runs at the next look.
const SIGNAL_CHECK_PERIOD: Duration = Duration::from_millis(200);

/// The page allocator of one connection.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct LentMemory(pub(crate) Arc<Memory>);

#[pymethods]
impl LentMemory {
    #[new]
    fn new(limit_bytes: usize) -> Self {
        Self(Memory::new(limit_bytes))
    }

    fn prepare(&self, size_bytes: usize) -> PyResult<Option<(u64, u64, i32)>> {
        let prepared = self.0.prepare(size_bytes)?;
        Ok(prepared.map(|(page, length, fd)| (page * PAGE_SIZE as u64, length as u64, fd.into_raw_fd())))
    }

    fn activate(&self, gpa: u64) {
        self.0.activate(gpa / PAGE_SIZE as u64);
    }

    fn forget(&self, gpa: u64) -> bool {
        self.0.forget(gpa / PAGE_SIZE as u64)
    }

    fn retire_idle(&self) -> Option<u64> {
        self.0.retire_idle().map(|page| page * PAGE_SIZE as u64)
    }

    fn allocate(&self, size_bytes: usize) -> Option<LentBuffer> {
        self.0.allocate(size_bytes).map(|pages| LentBuffer::new(pages, size_bytes))
    }

    fn owns(&self, buffer: &LentBuffer) -> bool {
        buffer.slice_ref().pages.is_of(&self.0)
    }

    /// Gives the program's own memory a place: (gpa, buffer over all of it), or None when the limit is met.
    fn register(&self, mapping: &SharedMapping) -> Option<(u64, LentBuffer)> {
        let pages = self.0.register(mapping.region())?;
        let (gpa, size) = (pages.page_at(0) * PAGE_SIZE as u64, pages.size());
        Some((gpa, LentBuffer::new(pages, size)))
    }

    fn is_free(&self, gpa: u64) -> bool {
        self.0.is_free(gpa / PAGE_SIZE as u64)
    }

    fn usage(&self) -> (usize, usize, usize) {
        let usage = self.0.usage();
        (usage.regions, usage.lent, usage.in_use)
    }
}

/// The memory of a channel's two rings.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct Rings {
    region: Arc<Region>,
    fd: OwnedFd,
}

#[pymethods]
impl Rings {
    #[new]
    fn new(bytes_each: usize) -> PyResult<Self> {
        let (region, fd) = create_rings(bytes_each)?;
        Ok(Self { region, fd })
    }

    fn fileno(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// A thread or an event loop that waits.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct Waiter(pub(crate) Arc<Wait>);

#[pymethods]
impl Waiter {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(Self(Wait::new()?))
    }

    fn fileno(&self) -> i32 {
        self.0.as_fd().as_raw_fd()
    }

    fn clear(&self) {
        self.0.clear();
    }

    fn has_completed(&self) -> bool {
        self.0.has_completed()
    }

    fn take_completed(&self) -> Vec<u64> {
        self.0.take_completed().into_iter().map(Token::to_bits).collect()
    }
}

/// The guest's end of an open channel.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct GuestChannel(pub(crate) Arc<Channel>);

#[pymethods]
impl GuestChannel {
    #[new]
    fn new(rings: &Rings, bell: i32, bell_socket: i32, control: i32, host_page: i32, credits: usize) -> PyResult<Self> {
        let host_page = Region::map_read_only(duplicate(host_page)?.as_fd(), PAGE_SIZE as u64)
            .map_err(|error| PyOSError::new_err(format!("the host's page: {error}")))?;
        let bell = GuestDoorbell::new(duplicate(bell)?, duplicate(bell_socket)?)?;
        let rings = Arc::clone(&rings.region);
        let channel = Channel::new(Wiring { rings, bell, control: duplicate(control)?, host_page, credits })?;
        Ok(Self(Arc::new(channel)))
    }

    /// Returns a token, or None when credits or ring room are spent at the moment.
    #[expect(clippy::too_many_arguments, reason = "the three buffers and the request's own fields; Python names them")]
    fn submit(
        &self,
        waiter: &Waiter,
        request: &LentBuffer,
        response: &LentBuffer,
        data: Option<&LentBuffer>,
        data_valid: u32,
        timeout_ms: u32,
        guid: [u8; 16],
    ) -> PyResult<Option<u64>> {
        let submission = Submission {
            request: request.slice_ref(),
            response: response.slice_ref(),
            data: data.map(LentBuffer::slice_ref),
            data_valid,
            timeout_ms,
            guid,
        };
        match self.0.submit(&waiter.0, &submission) {
            Ok(token) => Ok(Some(token.to_bits())),
            Err(Refused::Busy) => Ok(None),
            Err(Refused::Closed) => Err(PyConnectionError::new_err("the channel has ended")),
            Err(Refused::Invalid) => Err(PyValueError::new_err(
                "the buffers break a limit: request and response must not be empty, all three together fit 8192 pages",
            )),
        }
    }

    /// Blocks until the token is done (None: until anything happens); returns a WAIT_ value. Signal handlers run.
    fn wait(&self, py: Python<'_>, waiter: &Waiter, token: Option<u64>, timeout_s: f64) -> PyResult<u8> {
        let awaited = token.map_or(Awaited::Change, |token| Awaited::Completion(Token::from_bits(token)));
        let deadline = Instant::now() + Duration::try_from_secs_f64(timeout_s.clamp(0.0, 1e9)).unwrap_or_default();
        Ok(match wait(py, &self.0, &waiter.0, awaited, deadline)? {
            Woken::Ready => WAIT_READY,
            Woken::Control => WAIT_CONTROL,
            Woken::Closed => WAIT_CLOSED,
            Woken::TimedOut | Woken::Interrupted => WAIT_TIMED_OUT,
        })
    }

    /// Returns (status, response length) of a completed request and frees its slot; None while it is in flight.
    fn take(&self, token: u64) -> Option<(u32, u32)> {
        let outcome = self.0.take(Token::from_bits(token))?;
        let needs_more = outcome.status == blobdev::hresult::INSUFFICIENT_BUFFER;
        let length = if needs_more { outcome.response_length_reported } else { outcome.response_length };
        Some((outcome.status, length))
    }

    fn abandon(&self, token: u64) {
        self.0.abandon(Token::from_bits(token));
    }

    fn drain(&self) {
        self.0.drain();
    }

    fn watch(&self, waiter: &Waiter, for_change: bool) -> bool {
        self.0.watch(&waiter.0, for_change)
    }

    fn see_changes(&self, waiter: &Waiter) -> bool {
        waiter.0.see(self.0.changes())
    }

    fn leave(&self, waiter: &Waiter) {
        self.0.leave(&waiter.0);
    }

    fn wake_all(&self) {
        self.0.wake_all();
    }

    fn fileno(&self) -> i32 {
        self.0.bell().as_fd().as_raw_fd()
    }

    fn clear_doorbell(&self) {
        self.0.clear_bell();
    }

    fn control_fileno(&self) -> i32 {
        self.0.control().as_raw_fd()
    }

    fn close(&self) {
        self.0.close();
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn corruption(&self) -> Option<String> {
        self.0.corruption()
    }

    /// (in flight, abandoned, completions that matched nothing).
    fn counts(&self) -> (usize, usize, u64) {
        self.0.counts()
    }
}

/// Blocks without the GIL until the awaited is there; Python's signal handlers run meanwhile and may raise.
pub(crate) fn wait(
    py: Python<'_>,
    channel: &Channel,
    waiter: &Arc<Wait>,
    awaited: Awaited,
    deadline: Instant,
) -> PyResult<Woken> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match py.detach(|| channel.wait(waiter, awaited, left.min(SIGNAL_CHECK_PERIOD))) {
            Woken::TimedOut if left <= SIGNAL_CHECK_PERIOD => return Ok(Woken::TimedOut),
            Woken::TimedOut | Woken::Interrupted => py.check_signals()?,
            woken => return Ok(woken),
        }
    }
}

/// Tells the data plane that this process is a fork's child.
#[pyfunction]
pub(crate) fn note_fork() {
    blobdev::vsc::fork::note_child();
}

/// What of a request lies in lent memory.
pub(crate) type LentSlice = Slice;
