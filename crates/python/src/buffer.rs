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
