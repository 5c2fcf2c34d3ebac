//! The host's objects: the engine, the host page, requests. They convert; `blobdev::vsp` does.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use blobdev::bhttp;
use blobdev::vsp::channel::Terms;
use blobdev::vsp::engine::{Engine, GuestSide, OpenError, Sizes};
use blobdev::vsp::events::Event;
use blobdev::vsp::faults::StallingReader;
use blobdev::vsp::files::{Reader, SystemReader};
use blobdev::vsp::filler::Store;
use blobdev::vsp::offload::entry::{Entry, Pin};
use blobdev::vsp::polling::PollingLimits;
use blobdev::vsp::request::HostRequest as Inner;
use pyo3::exceptions::{PyConnectionError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyDict, PyString};
use vmbus::memory::Region;

use crate::codec::{DecodedFields, decoded_fields, latin1, text};
use crate::descriptors::{borrow, duplicate};
use crate::extents::{Digest, system_error};
use crate::guest_memory::GuestMemory;
use crate::offload::{Offer, runs};

pub(crate) const EVENT_REQUEST: u8 = 0;
pub(crate) const EVENT_CANCEL: u8 = 1;
pub(crate) const EVENT_FILLED: u8 = 2;
pub(crate) const EVENT_CHANNEL_FAILED: u8 = 3;
pub(crate) const EVENT_RELEASED: u8 = 4;
pub(crate) const EVENT_STORED: u8 = 5;

/// The page a guest can only read: its polling grant.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct HostPage {
    page: Arc<Region>,
    fd: OwnedFd,
}

#[pymethods]
impl HostPage {
    #[new]
    fn new() -> PyResult<Self> {
        let (page, fd) = Region::create_host_page()?;
        Ok(Self { page: Arc::new(page), fd })
    }

    fn fileno(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// The host's data plane.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct HostEngine {
    engine: Engine,
    /// In place of the system's, where a test asked for it.
    stalling: Option<Arc<StallingReader>>,
}

impl HostEngine {
    fn stalling(&self) -> PyResult<&StallingReader> {
        let absent = || PyRuntimeError::new_err("this engine was not made with stallable=True");
        self.stalling.as_deref().ok_or_else(absent)
    }
}

#[pymethods]
impl HostEngine {
    #[new]
    #[pyo3(signature = (workers, fillers, offload_entries_max=0, *, spinners_max=0, spin_us=0, stallable=false))]
    fn new(
        workers: usize,
        fillers: usize,
        offload_entries_max: usize,
        spinners_max: usize,
        spin_us: u32,
        stallable: bool,
    ) -> PyResult<Self> {
        let stalling = stallable.then(|| Arc::new(StallingReader::default()));
        let reader: Arc<dyn Reader> = match &stalling {
            Some(stalling) => Arc::clone(stalling) as _,
            None => Arc::new(SystemReader),
        };
        let polling = PollingLimits { spinners_max, spin_us };
        let engine = Engine::start(Sizes { workers, fillers, offload_entries_max, polling }, reader)?;
        Ok(Self { engine, stalling })
    }

    fn fileno(&self) -> i32 {
        self.engine.events().as_fd().as_raw_fd()
    }

    fn take<'py>(slf: &Bound<'py, Self>, limit: usize, share: usize) -> PyResult<Vec<(u8, Bound<'py, PyAny>)>> {
        let py = slf.py();
        let events = slf.get().engine.events().take(limit, share);
        let convert = |event| {
            Ok(match event {
                Event::Request(inner) => {
                    let request = HostRequest { inner, engine: slf.clone().unbind() };
                    (EVENT_REQUEST, Bound::new(py, request)?.into_any())
                }
                Event::Cancel(id) => (EVENT_CANCEL, id.into_pyobject(py)?.into_any()),
                Event::Released(token) => (EVENT_RELEASED, token.into_pyobject(py)?.into_any()),
                Event::Stored(request, stored) => {
                    let error = stored.err().map(|error| broken(&request, error).into_value(py));
                    (EVENT_STORED, (request.id, error).into_pyobject(py)?.into_any())
                }
                Event::Filled(id) => (EVENT_FILLED, id.into_pyobject(py)?.into_any()),
                Event::ChannelFailed(key, reason) => {
                    (EVENT_CHANNEL_FAILED, (key, reason).into_pyobject(py)?.into_any())
                }
            })
        };
        events.into_iter().map(convert).collect()
    }

    /// (rings of a doorbell that came with no packet, how often a bell was muted for it).
    fn doorbells(&self) -> (u64, u64) {
        self.engine.doorbells()
    }

    fn queued(&self, key: u64) -> usize {
        self.engine.events().queued(key)
    }

    /// (how many requests wait to be taken, the first `limit` of them).
    fn waiting(slf: &Bound<'_, Self>, limit: usize) -> (usize, Vec<HostRequest>) {
        let (count, requests) = slf.get().engine.events().requests(limit);
        (count, requests.into_iter().map(|inner| HostRequest { inner, engine: slf.clone().unbind() }).collect())
    }

    /// (how many requests wait for files, the first `limit` of them).
    fn reading(slf: &Bound<'_, Self>, limit: usize) -> (usize, Vec<HostRequest>) {
        let (count, requests) = slf.get().engine.reads(limit);
        (count, requests.into_iter().map(|inner| HostRequest { inner, engine: slf.clone().unbind() }).collect())
    }

    /// (requests of a channel that entries answered, their bytes); None when there is no such channel.
    fn hits(&self, key: u64) -> Option<(u64, u64)> {
        self.engine.hits(key).map(Into::into)
    }

    /// Opens a channel; returns (eventfd, socket) for the guest, the caller's to close.
    #[expect(clippy::too_many_arguments, reason = "what the control plane knows of a channel; Python names it")]
    #[pyo3(signature = (key, memory, host_page, pfns, downstream, credits, scope=None))]
    fn open_channel(
        &self,
        key: u64,
        memory: &GuestMemory,
        host_page: &HostPage,
        pfns: Vec<u64>,
        downstream: usize,
        credits: usize,
        scope: Option<u64>,
    ) -> PyResult<(i32, i32)> {
        let guest = GuestSide { memory: &memory.0, host_page: Some(&host_page.page) };
        let opened = self.engine.open_channel(key, guest, &pfns, downstream, Terms { credits, scope });
        let (eventfd, socket) = opened.map_err(|error| match error {
            OpenError::System(error) => PyErr::from(error),
            other => PyValueError::new_err(other.to_string()),
        })?;
        Ok((eventfd.into_raw_fd(), socket.into_raw_fd()))
    }

    /// (size, used) of the guest → host ring, then of the other; None when there is no such channel.
    fn ring_usage(&self, py: Python<'_>, key: u64) -> Option<(u32, u32, u32, u32)> {
        let [from_guest, to_guest] = py.detach(|| self.engine.ring_usage(key))?;
        Some((from_guest.0, from_guest.1, to_guest.0, to_guest.1))
    }

    fn set_scope(&self, key: u64, scope: Option<u64>) {
        self.engine.set_scope(key, scope);
    }

    fn close_channel(&self, py: Python<'_>, key: u64) {
        py.detach(|| self.engine.close_channel(key));
    }

    /// Installs an offload entry; true if it was taken. EVENT_RELEASED with the token follows either way.
    fn install(
        &self,
        py: Python<'_>,
        scope: u64,
        target: (PyBackedStr, PyBackedStr, PyBackedStr),
        offer: &Bound<'_, PyAny>,
        token: u64,
    ) -> PyResult<bool> {
        let offer: Offer = offer.extract()?;
        let content = offer.content(self.engine.files())?;
        let parts = [latin1(&target.0, "scheme")?, latin1(&target.1, "authority")?, latin1(&target.2, "target")?];
        let generations = offer.generations();
        let pin = Pin::new(token, Arc::clone(self.engine.events()));
        let target = [&*parts[0], &*parts[1], &*parts[2]];
        Ok(py.detach(|| self.engine.offload().install(scope, target, content, generations, pin)))
    }

    /// The counters of the offload path by name.
    fn offload_counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = PyDict::new(py);
        for (name, value) in self.engine.offload_counters() {
            counters.set_item(name, value)?;
        }
        let changes = self.engine.offload().changes();
        counters.set_item("installs", changes.installs)?;
        counters.set_item("late", changes.late)?;
        counters.set_item("evictions", changes.evictions)?;
        counters.set_item("invalidations", changes.invalidations)?;
        Ok(counters)
    }

    /// The entries that answer now: (scope, scheme, authority, target, size in bytes, etag).
    fn offload_entries<'py>(&self, py: Python<'py>) -> Vec<EntryRow<'py>> {
        let entries = py.detach(|| self.engine.offload().entries());
        let row = |entry: Arc<Entry>| {
            let (scope, [scheme, authority, target]) = entry.target();
            let (target, etag) = (text(py, target), text(py, entry.etag()));
            (scope, text(py, scheme), text(py, authority), target, entry.size(), etag)
        };
        entries.into_iter().map(row).collect()
    }

    fn stall(&self, fd: i32) -> PyResult<()> {
        borrow(fd, |fd| self.stalling()?.stall(fd).map_err(PyErr::from))?
    }

    fn resume(&self) -> PyResult<()> {
        self.stalling()?.resume();
        Ok(())
    }

    #[getter]
    fn stalled_reads(&self) -> PyResult<usize> {
        Ok(self.stalling()?.waiting())
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.engine.stop());
    }
}

/// Scope, scheme, authority, target, size in bytes, etag.
type EntryRow<'py> = (u64, Bound<'py, PyString>, Bound<'py, PyString>, Bound<'py, PyString>, u64, Bound<'py, PyString>);

/// One request of a guest, to be completed exactly once.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct HostRequest {
    pub(crate) inner: Arc<Inner>,
    engine: Py<HostEngine>,
}

type Head<'py> = (
    Bound<'py, PyString>,
    Bound<'py, PyString>,
    Bound<'py, PyString>,
    Bound<'py, PyString>,
    DecodedFields<'py>,
    Bound<'py, PyBytes>,
);

/// ConnectionError: the guest took its content away. OSError: our file.
fn broken(request: &Inner, error: std::io::Error) -> PyErr {
    if request.has_faulted() {
        return PyConnectionError::new_err("the guest has shrunk the memory its content lies in");
    }
    system_error(error)
}

#[pymethods]
impl HostRequest {
    #[getter]
    fn id(&self) -> u64 {
        self.inner.id
    }

    #[getter]
    fn channel(&self) -> u64 {
        self.inner.channel_key()
    }

    #[getter]
    fn guid<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.device.guid)
    }

    #[getter]
    fn timeout_ms(&self) -> u32 {
        self.inner.device.timeout_ms
    }

    /// Seconds since it was taken off the ring.
    #[getter]
    fn age_s(&self) -> f64 {
        self.inner.arrived.elapsed().as_secs_f64()
    }

    #[getter]
    fn data_length(&self) -> usize {
        self.inner.data_length()
    }

    #[getter]
    fn data_valid(&self) -> usize {
        self.inner.data_valid()
    }

    #[getter]
    fn request_length(&self) -> u32 {
        self.inner.device.request_buffer_length
    }

    /// Guest addresses of the request, response and data buffer.
    #[getter]
    fn addresses(&self) -> (u64, u64, u64) {
        self.inner.addresses.into()
    }

    #[getter]
    fn wants_offload(&self) -> bool {
        self.inner.wants_offload
    }

    #[getter]
    fn response_capacity(&self) -> usize {
        self.inner.response_capacity()
    }

    /// (method, scheme, authority, path, fields, content).
    fn head<'py>(&self, py: Python<'py>) -> PyResult<Head<'py>> {
        let head = bhttp::decode_request(&self.inner.head).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let fields = decoded_fields(py, head.fields);
        let part = |bytes| text(py, bytes);
        let control = (part(head.method), part(head.scheme), part(head.authority), part(head.path));
        Ok((control.0, control.1, control.2, control.3, fields, PyBytes::new(py, head.content)))
    }

    /// The guest's content as private bytes.
    fn read_data<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let copy = py.detach(|| self.inner.read_data()).map_err(|error| broken(&self.inner, error))?;
        Ok(PyBytes::new(py, &copy))
    }

    /// Reads a part of a file into the data buffer; the request stays open.
    fn load_data(&self, py: Python<'_>, at: u64, fd: i32, offset: u64, length: usize) -> PyResult<()> {
        let file = duplicate(fd)?;
        py.detach(|| self.inner.load_data_at(at, file.as_fd(), offset, length)).map_err(system_error)
    }

    /// Writes the guest's content to a file and adds it to the digest.
    fn store_data(&self, py: Python<'_>, fd: i32, offset: u64, digest: &Digest) -> PyResult<()> {
        let file = duplicate(fd)?;
        py.detach(|| {
            let mut digest = digest.lock();
            self.inner.store_data(file.as_fd(), offset, &mut digest)
        })
        .map_err(|error| broken(&self.inner, error))
    }

    /// The same by a filler thread; EVENT_STORED follows.
    fn store_soon(&self, fd: i32, offset: u64, digest: &Digest) -> PyResult<()> {
        let (request, file, digest) = (Arc::clone(&self.inner), duplicate(fd)?, Arc::clone(&digest.0));
        self.engine.get().engine.store(Store { request, file, offset, digest });
        Ok(())
    }

    #[pyo3(signature = (status, response, needed=None))]
    fn complete(&self, status: u32, response: &[u8], needed: Option<u32>) -> bool {
        self.inner.complete(status, response, needed)
    }

    fn complete_with_bytes(&self, py: Python<'_>, response: &[u8], content: &[u8]) -> bool {
        py.detach(|| self.inner.complete_with_bytes(response, content))
    }

    /// Reads (fd, offset, length) runs into the data buffer and completes if no disk is needed; false: nothing was done.
    fn complete_from_cache(&self, py: Python<'_>, response: &[u8], extents: Vec<(i32, u64, u64)>) -> PyResult<bool> {
        let engine = &self.engine.get().engine;
        let runs = runs(&extents, engine.files())?;
        Ok(py.detach(|| self.inner.complete_from_cache(engine.reader(), response, &runs)))
    }

    /// Has the filler threads read (fd, offset, length) runs into the data buffer; EVENT_FILLED follows if true.
    fn complete_with_files(&self, response: Vec<u8>, extents: Vec<(i32, u64, u64)>) -> PyResult<bool> {
        let engine = &self.engine.get().engine;
        let runs = runs(&extents, engine.files())?;
        Ok(engine.complete_with_files(&self.inner, response, runs))
    }
}
