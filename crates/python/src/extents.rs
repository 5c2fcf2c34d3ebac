//! Bytes in files, for Python: checksums, stored bytes, holes.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blobdev::extents;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::descriptors::{borrow, duplicate};

/// Bytes above which the GIL is released around a checksum.
const LARGE: usize = 64 * 1024;

/// Turns a system call's error into the OSError that Python's own calls raise: with its errno, in the subclass for it.
///
/// PyO3's own conversion gives the text alone, and callers tell a full disk by its errno.
pub(crate) fn system_error(error: io::Error) -> PyErr {
    let Some(number) = error.raw_os_error() else { return error.into() };
    let text = error.to_string();
    let text = text.strip_suffix(&format!(" (os error {number})")).unwrap_or(&text);
    PyOSError::new_err((number, text.to_owned()))
}

/// Running checksums over several stores.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct Digest(pub(crate) Arc<Mutex<extents::Digest>>);

impl Digest {
    pub(crate) fn lock(&self) -> MutexGuard<'_, extents::Digest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Digest {
    #[new]
    fn new(md5: bool) -> Self {
        Self(Arc::new(Mutex::new(extents::Digest::new(md5))))
    }

    /// Writes bytes to a file and adds them.
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>, fd: i32, offset: u64) -> PyResult<()> {
        let file = duplicate(fd)?;
        with_bytes(data, |bytes| {
            py.detach(|| extents::store(bytes, file.as_fd(), offset, &mut self.lock())).map_err(system_error)
        })
    }

    #[getter]
    fn crc64(&self) -> u64 {
        self.lock().crc64()
    }

    fn md5<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.lock().md5().map(|md5| PyBytes::new(py, &md5))
    }
}

/// Gives `call` the bytes of any contiguous buffer; what is not `bytes` is copied first, for it may change meanwhile.
///
/// TypeError: no buffer, or not contiguous.
pub(crate) fn with_bytes<T>(data: &Bound<'_, PyAny>, call: impl FnOnce(&[u8]) -> PyResult<T>) -> PyResult<T> {
    if let Ok(bytes) = data.cast::<PyBytes>() {
        return call(bytes.as_bytes());
    }
    // Items of any other type are seen as the bytes they are made of.
    let view = PyMemoryView::from(data)?.call_method1("cast", ("B",))?;
    call(&PyBuffer::<u8>::get(&view)?.to_vec(data.py())?)
}

#[pyfunction]
#[pyo3(signature = (data, initial=0))]
pub(crate) fn crc64(py: Python<'_>, data: &Bound<'_, PyAny>, initial: u64) -> PyResult<u64> {
    with_bytes(data, |bytes| {
        if bytes.len() < LARGE {
            return Ok(extents::crc64(bytes, initial));
        }
        Ok(py.detach(|| extents::crc64(bytes, initial)))
    })
}

#[pyfunction]
pub(crate) fn store_bytes<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    fd: i32,
    offset: u64,
    md5: bool,
) -> PyResult<(u64, Option<Bound<'py, PyBytes>>)> {
    let file = duplicate(fd)?;
    let mut digest = extents::Digest::new(md5);
    with_bytes(data, |bytes| {
        py.detach(|| extents::store(bytes, file.as_fd(), offset, &mut digest)).map_err(system_error)
    })?;
    Ok((digest.crc64(), digest.md5().map(|md5| PyBytes::new(py, &md5))))
}

#[pyfunction]
pub(crate) fn punch_hole(py: Python<'_>, fd: i32, offset: u64, length: u64) -> PyResult<()> {
    py.detach(|| borrow(fd, |fd| extents::punch_hole(fd, offset, length)))?.map_err(system_error)
}
