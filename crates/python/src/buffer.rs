//! `LentBuffer`: lent pages with Python's buffer protocol, and the messages that are written to and read from them.
//!
//! The only place where shared bytes are exposed without a copy: whoever holds a memoryview sees what the host writes.
//! The pages stay lent as long as a view lives, for the view holds the object and the object holds the pages.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use blobdev::bhttp;
use blobdev::vsc::memory::Pages;
use pyo3::exceptions::{PyBufferError, PyIndexError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Arc;

use crate::codec::{DecodedFields, FieldPairs, decoded_fields, encode_request_to};
use crate::guest::LentSlice;

/// Bytes of lent memory: writable, contiguous, shared with the host.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct LentBuffer(LentSlice);

impl LentBuffer {
    pub(crate) fn new(pages: Arc<Pages>, length: usize) -> Self {
        Self(LentSlice { pages, offset: 0, length })
    }

    pub(crate) fn slice_ref(&self) -> &LentSlice {
        &self.0
    }
}

/// A program's own writable memory, exported by a Python object for as long as a call lasts.
pub(crate) struct OutBuffer(ffi::Py_buffer);

// SAFETY: the exporter keeps the memory where it is until the release, whichever thread touches it; the buffer protocol
// leaves it to programs not to use one buffer from two threads, and a copy that races with such a use gives bytes that are
// as arbitrary as that program asked for.
unsafe impl Sync for OutBuffer {}

impl OutBuffer {
    /// Lends `object`'s memory to `function`; `None` when it has none that is writable and contiguous.
    pub(crate) fn with<R>(object: &Bound<'_, PyAny>, function: impl FnOnce(Option<&Self>) -> R) -> R {
        let mut out = Self(ffi::Py_buffer::new());
        let flags = ffi::PyBUF_SIMPLE | ffi::PyBUF_WRITABLE;
        // SAFETY: `object` lives and `out.0` is ours to be filled. It is neither moved nor copied until its release below.
        let status = unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut out.0, flags) };
        if status != 0 {
            drop(PyErr::take(object.py()));
            return function(None);
        }
        let result = function(Some(&out));
        // SAFETY: filled above, released once, with the GIL held as before.
        unsafe { ffi::PyBuffer_Release(&raw mut out.0) };
        result
    }

    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.0.len).unwrap_or(0)
    }

    /// Copies the first `length` bytes of lent memory to its start. Panics if it is shorter.
    pub(crate) fn fill(&self, from: &LentSlice, length: usize) {
        assert!(length <= self.len(), "{length} bytes for a buffer of {}", self.len());
        let source = from.pages.region().address(from.pages.offset() + from.offset, length);
        // SAFETY: the source is mapped while `from` lives (address() has checked the length), the target is exported for
        // `len()` bytes. They may overlap when the program exports lent memory itself, so it is a move.
        unsafe { std::ptr::copy(source, self.0.buf.cast::<u8>(), length) };
    }
}

/// Makes `bytes` of the first `length` bytes of lent memory; without the GIL when they are many.
pub(crate) fn bytes_of<'py>(py: Python<'py>, from: &LentSlice, length: usize) -> PyResult<Bound<'py, PyBytes>> {
    let size = ffi::Py_ssize_t::try_from(length).map_err(|_| PyBufferError::new_err("too long"))?;
    // SAFETY: a null source asks for uninitialised bytes, which nobody sees before they are filled below.
    let object = unsafe { ffi::PyBytes_FromStringAndSize(std::ptr::null(), size) };
    // SAFETY: a new reference, or null with an exception set.
    let object = unsafe { Bound::from_owned_ptr_or_err(py, object) }?;
    // SAFETY: it is a bytes object of `size` bytes, just made; the limited API gives its address in no other way.
    let target = Target(unsafe { ffi::PyBytes_AsString(object.as_ptr()) }.cast::<u8>());
    let source = from.pages.region().address(from.pages.offset() + from.offset, length);
    let source = Target(source);
    without_gil_if_large(py, length, || {
        let (source, target) = (&source, &target);
        // SAFETY: both are valid for `length` bytes (address() has checked the source, mapped while `from` lives); the
        // target is private memory that nobody else knows yet, so they do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(source.0, target.0, length) };
    });
    Ok(object.cast_into::<PyBytes>()?)
}

/// An address that a copy may use in a thread that holds no GIL.
struct Target(*mut u8);

// SAFETY: an address makes no claim; what it is used for is argued where it is used.
unsafe impl Sync for Target {}

/// Bytes from which on a copy takes long enough to let other threads run.
const LARGE: usize = 256 * 1024;

/// Runs a copy of `length` bytes, other threads running meanwhile if it takes long.
pub(crate) fn without_gil_if_large(py: Python<'_>, length: usize, copy: impl FnOnce() + Send) {
    if length >= LARGE { py.detach(copy) } else { copy() }
}

#[pymethods]
impl LentBuffer {
    fn __len__(&self) -> usize {
        self.0.length
    }

    /// Returns another buffer over `length` bytes from `offset`.
    fn slice(&self, offset: usize, length: usize) -> PyResult<Self> {
        if offset.checked_add(length).is_none_or(|end| end > self.0.length) {
            let text = format!("bytes {offset}+{length} lie outside a buffer of {}", self.0.length);
            return Err(PyIndexError::new_err(text));
        }
        let pages = Arc::clone(&self.0.pages);
        Ok(Self(LentSlice { pages, offset: self.0.offset + offset, length }))
    }

    /// Writes an RFC 9292 request at the start if it fits `room` bytes; returns its size either way.
    fn write_request(
        &self,
        method: &str,
        scheme: &str,
        authority: &str,
        path: &str,
        fields: FieldPairs,
        room: usize,
    ) -> PyResult<usize> {
        encode_request_to([method, scheme, authority, path], &fields, &[], room.min(self.0.length), |message| {
            self.0.pages.region().write(self.0.pages.offset() + self.0.offset, message);
        })
    }

    /// Reads an RFC 9292 response of `length` bytes from the start: (status, fields, content), from a private copy.
    fn read_response<'py>(
        &self,
        py: Python<'py>,
        length: usize,
    ) -> PyResult<(u16, DecodedFields<'py>, Bound<'py, PyBytes>)> {
        let mut copy = vec![0; length.min(self.0.length)];
        self.0.pages.region().read(self.0.pages.offset() + self.0.offset, &mut copy);
        let head = bhttp::decode_response(&copy).map_err(|broken| PyValueError::new_err(broken.to_string()))?;
        Ok((head.status, decoded_fields(py, head.fields), PyBytes::new(py, head.content)))
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let slice = &slf.get().0;
        let length = ffi::Py_ssize_t::try_from(slice.length).map_err(|_| PyBufferError::new_err("too long"))?;
        let address = slice.pages.region().address(slice.pages.offset() + slice.offset, slice.length);
        // SAFETY: `view` is the caller's, to be filled here; the address is valid for `length` bytes as long as `slf`
        // lives, to which FillInfo adds the reference that the view holds until its release. The bytes may change at any
        // moment, which the buffer protocol allows for shared memory; Python code sees them only through copies it makes.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), address.cast::<c_void>(), length, 0, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }

    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {}
}
