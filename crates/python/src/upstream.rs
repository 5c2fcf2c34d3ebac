//! The upstream data plane as Python sees it: the client, endpoints, exchanges, and the buffers bodies come from or go to.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use blobdev::extents::write_all_at;
use blobdev::vsp::request::HostRequest as GuestBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use upstream::client::Client;
use upstream::connections::Connections;
use upstream::endpoint::EndpointSettings;
use upstream::exchange::{Exchange, Sending};
use upstream::gate::{Sink, Source};
use upstream::http1::RequestHead;
use upstream::outcome::{Failure, FailureKind, Head, Outcome};
use upstream::proxy::Proxy;

use crate::codec::{FieldPairs, latin1, text};
use crate::descriptors::duplicate;
use crate::extents::Digest;
use crate::host::HostRequest;

struct FromGuest(Arc<GuestBuffer>);

impl Source for FromGuest {
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_data_at(at, into)
    }
}

impl Sink for FromGuest {
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_data_at(at, bytes)
    }
}

struct FromBytes(PyBackedBytes);

impl Source for FromBytes {
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let at = at as usize;
        let part = self.0.get(at..at + into.len()).ok_or(io::ErrorKind::InvalidInput)?;
        into.copy_from_slice(part);
        Ok(())
    }
}

/// A file, and checksums of what is written to it if they are asked for: then it must be written in order.
struct InFile(File, Option<Py<Digest>>);

impl Source for InFile {
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(into, at)
    }
}

impl Sink for InFile {
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(digest) = &self.1 {
            digest.get().lock().update(bytes);
        }
        write_all_at(self.0.as_fd(), bytes, at)
    }
}

fn source_of(body: &Bound<'_, PyAny>) -> PyResult<Option<Arc<dyn Source>>> {
    if body.is_none() {
        Ok(None)
    } else if let Ok(request) = body.cast::<HostRequest>() {
        Ok(Some(Arc::new(FromGuest(Arc::clone(&request.get().inner)))))
    } else if let Ok(bytes) = body.cast::<PyBytes>() {
        Ok(Some(Arc::new(FromBytes(PyBackedBytes::from(bytes.clone())))))
    } else if let Ok(fd) = body.extract::<i32>() {
        Ok(Some(Arc::new(InFile(File::from(duplicate(fd)?), None))))
    } else {
        Err(PyTypeError::new_err("a body is bytes, a HostRequest, a file descriptor or None"))
    }
}

fn seconds(value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn kind_name(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Unsendable => "unsendable",
        FailureKind::Unreachable => "unreachable",
        FailureKind::Untrusted => "untrusted",
        FailureKind::Broken => "broken",
        FailureKind::Truncated => "truncated",
        FailureKind::Local => "local",
    }
}

/// The connections of one endpoint.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct UpstreamEndpoint(Arc<Connections>);

#[pymethods]
impl UpstreamEndpoint {
    #[new]
    #[pyo3(signature = (host, port, authorities, *, connect_timeout_s, stall_timeout_s, idle_timeout_s, age_s_max, idle_max))]
    #[allow(clippy::too_many_arguments)] // Python gives them by name
    fn new(
        host: String,
        port: u16,
        authorities: Option<Vec<u8>>,
        connect_timeout_s: f64,
        stall_timeout_s: f64,
        idle_timeout_s: f64,
        age_s_max: f64,
        idle_max: usize,
    ) -> PyResult<Self> {
        let settings = EndpointSettings {
            host,
            port,
            authorities,
            connect_timeout: seconds(connect_timeout_s)?,
            stall_timeout: seconds(stall_timeout_s)?,
            idle_timeout: seconds(idle_timeout_s)?,
            age_max: seconds(age_s_max)?,
            idle_max,
        };
        let connections = Connections::new(&settings).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self(Arc::new(connections)))
    }

    #[getter]
    fn open(&self) -> u64 {
        self.0.open()
    }

    #[getter]
    fn idle(&self) -> u64 {
        self.0.idle()
    }

    #[getter]
    fn dialed(&self) -> u64 {
        self.0.dialed()
    }

    /// IP addresses as text; empty: the host's name is looked up.
    fn resolve_to(&self, addresses: Vec<String>) -> PyResult<()> {
        let parse =
            |text: &String| text.parse().map_err(|_| PyValueError::new_err(format!("{text:?} is not an IP address")));
        self.0.resolve_to(addresses.iter().map(parse).collect::<PyResult<_>>()?);
        Ok(())
    }

    /// `authorization`: value of `Proxy-Authorization`, as text without line breaks.
    fn go_through(&self, host: String, port: u16, authorization: Option<String>) -> PyResult<()> {
        if authorization.as_ref().is_some_and(|value| !value.bytes().all(|byte| (b' '..=b'~').contains(&byte))) {
            return Err(PyValueError::new_err("the authorization has a character that no field has"));
        }
        self.0.go_through(Proxy { host, port, authorization });
        Ok(())
    }

    fn drop_idle(&self) {
        self.0.drop_idle();
    }
}

/// One request and its answer.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct UpstreamExchange(Arc<Exchange>);

#[pymethods]
impl UpstreamExchange {
    fn cancel(&self, py: Python<'_>) {
        // Waits for a block that is being copied.
        py.detach(|| self.0.cancel());
    }
}

/// The runtime that runs exchanges, in the host's process.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct UpstreamClient(Client);

type Taken<'py> = (u64, Option<(&'static str, String)>, Option<Bound<'py, PyAny>>);

#[pymethods]
impl UpstreamClient {
    #[new]
    fn new(threads: usize) -> PyResult<Self> {
        Ok(Self(Client::start(threads)?))
    }

    fn fileno(&self) -> i32 {
        self.0.outcomes().as_fd().as_raw_fd()
    }

    /// (id, failure or None, value or None).
    fn take<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Vec<Taken<'py>>> {
        let convert = |(id, result)| match result {
            Ok(outcome) => Ok((id, None, Some(value_of(py, outcome)?))),
            Err(Failure { kind, text }) => Ok((id, Some((kind_name(kind), text)), None)),
        };
        self.0.outcomes().take(limit).into_iter().map(convert).collect()
    }

    #[allow(clippy::too_many_arguments)] // one request, flat, for there is one per request
    fn send(
        &self,
        id: u64,
        endpoint: &UpstreamEndpoint,
        head: (String, String, FieldPairs),
        body: &Bound<'_, PyAny>,
        at: u64,
        length: u64,
        timeout_s: f64,
        inline_max: u64,
    ) -> PyResult<UpstreamExchange> {
        let (method, target, fields) = head;
        let (method, target) = (method.into_bytes(), latin1(&target, "target")?.into_owned());
        let line = |(index, (name, value)): (usize, &(_, _))| -> PyResult<(Vec<u8>, Vec<u8>)> {
            let (name, value): (&pyo3::pybacked::PyBackedStr, &pyo3::pybacked::PyBackedStr) = (name, value);
            let part = format_args!("field {index}").to_string();
            Ok((latin1(name, &part)?.into_owned(), latin1(value, &part)?.into_owned()))
        };
        let fields = fields.iter().enumerate().map(line).collect::<PyResult<_>>()?;
        let head = RequestHead { method, target, fields };
        let (source, timeout) = (source_of(body)?, seconds(timeout_s)?);
        let sending = Sending { head, source, at, length, timeout, inline_max };
        Ok(UpstreamExchange(self.0.send(id, &endpoint.0, sending)))
    }

    fn read(&self, id: u64, exchange: &UpstreamExchange, limit: usize) {
        self.0.read(id, &exchange.0, limit);
    }

    /// `sink`: a HostRequest, or a file descriptor.
    #[pyo3(signature = (id, exchange, sink, at, length, digest=None))]
    fn fill(
        &self,
        id: u64,
        exchange: &UpstreamExchange,
        sink: &Bound<'_, PyAny>,
        at: u64,
        length: u64,
        digest: Option<Py<Digest>>,
    ) -> PyResult<()> {
        let sink: Arc<dyn Sink> = match sink.cast::<HostRequest>() {
            Ok(request) => Arc::new(FromGuest(Arc::clone(&request.get().inner))),
            Err(_) => Arc::new(InFile(File::from(duplicate(sink.extract::<i32>()?)?), digest)),
        };
        self.0.fill(id, &exchange.0, sink, at, length);
        Ok(())
    }

    fn warm(&self, id: u64, endpoint: &UpstreamEndpoint, count: usize) {
        self.0.warm(id, &endpoint.0, count);
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.0.stop());
    }
}

fn value_of<'py>(py: Python<'py>, outcome: Outcome) -> PyResult<Bound<'py, PyAny>> {
    Ok(match outcome {
        Outcome::Head(Head { status, fields, length, content, reused }) => {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (text(py, name), text(py, value))).collect();
            let content = content.map(|content| PyBytes::new(py, &content));
            (status, fields, length, content, reused).into_pyobject(py)?.into_any()
        }
        Outcome::Bytes(bytes) => PyBytes::new(py, &bytes).into_any(),
        Outcome::Count(count) => count.into_pyobject(py)?.into_any(),
    })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<UpstreamClient>()?;
    module.add_class::<UpstreamEndpoint>()?;
    module.add_class::<UpstreamExchange>()
}
