//! `LentBuffer`: lent pages with Python's buffer protocol, and the messages that are written to and read from them.
//! `SharedMapping`: memory of the program's own, mapped from its descriptor so that it can be lent as it lies.
//!
//! The only place where shared bytes are exposed without a copy: whoever holds a memoryview sees what the host writes.
//! The pages stay lent as long as a view lives, for the view holds the object and the object holds the pages.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use blobdev::bhttp;
use blobdev::vsc::memory::Pages;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyIndexError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Arc;
use vmbus::memory::Region;

use crate::codec::{DecodedFields, FieldPairs, decoded_fields, encode_request_to};
use crate::descriptors::duplicate;
use crate::guest::LentSlice;
use crate::guest_memory::region_error;

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
    let bytes = uninitialised(py, length)?;
    fill_fresh(&bytes, 0, from, length);
    Ok(bytes)
}

/// Makes a `bytes` of `size` bytes for [`fill_fresh`]; nobody may see it before it is filled whole.
fn uninitialised(py: Python<'_>, size: usize) -> PyResult<Bound<'_, PyBytes>> {
    let size = ffi::Py_ssize_t::try_from(size).map_err(|_| PyBufferError::new_err("too long"))?;
    // SAFETY: a null source asks for uninitialised bytes, which are this module's alone until it has filled them.
    let object = unsafe { ffi::PyBytes_FromStringAndSize(std::ptr::null(), size) };
    // SAFETY: a new reference, or null with an exception set.
    let object = unsafe { Bound::from_owned_ptr_or_err(py, object) }?;
    Ok(object.cast_into::<PyBytes>()?)
}

/// Copies the first `length` bytes of lent memory to byte `at` of a `bytes` that nobody else knows yet.
///
/// Panics if they are not inside either.
fn fill_fresh(bytes: &Bound<'_, PyBytes>, at: usize, from: &LentSlice, length: usize) {
    let size = bytes.len().unwrap_or(0);
    assert!(at <= size && length <= size - at, "{length} bytes at {at} of {size}");
    // SAFETY: a bytes object; the limited API gives its address in no other way.
    let target = unsafe { ffi::PyBytes_AsString(bytes.as_ptr()) }.cast::<u8>().wrapping_add(at);
    let (source, target) =
        (Target(from.pages.region().address(from.pages.offset() + from.offset, length)), Target(target));
    without_gil_if_large(bytes.py(), length, || {
        let (source, target) = (&source, &target);
        // SAFETY: both are valid for `length` bytes (checked above and by address(); mapped while `from` lives); the
        // target is private memory that nobody else knows yet, so they do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(source.0, target.0, length) };
    });
}

/// A `bytes` that is filled from lent memory piece by piece.
#[pyclass(module = "pvblob._native")]
pub(crate) struct BytesBuilder {
    /// `None` once it was handed out.
    bytes: Option<Py<PyBytes>>,
    size: usize,
    filled: usize,
}

// `&mut self`: PyO3 lets one call in at a time, also while it copies without the GIL, and no copy is left when the bytes go out.
#[pymethods]
impl BytesBuilder {
    #[new]
    fn new(py: Python<'_>, size: usize) -> PyResult<Self> {
        Ok(Self { bytes: Some(uninitialised(py, size)?.unbind()), size, filled: 0 })
    }

    /// Appends the first `length` bytes of lent memory.
    fn add(&mut self, py: Python<'_>, from: &LentBuffer, length: usize) -> PyResult<()> {
        let bytes = self.bytes.as_ref().ok_or_else(|| PyValueError::new_err("the bytes have been handed out"))?;
        if length > from.0.length || length > self.size - self.filled {
            let text =
                format!("{length} bytes: the piece has {}, {} are missing", from.0.length, self.size - self.filled);
            return Err(PyIndexError::new_err(text));
        }
        fill_fresh(bytes.bind(py), self.filled, &from.0, length);
        self.filled += length;
        Ok(())
    }

    /// Hands the bytes out, once, when every one of them is there.
    fn finish(&mut self) -> PyResult<Py<PyBytes>> {
        if self.filled != self.size {
            return Err(PyValueError::new_err(format!("{} of {} bytes were added", self.filled, self.size)));
        }
        self.bytes.take().ok_or_else(|| PyValueError::new_err("the bytes have been handed out"))
    }
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

    /// Copies the first `length` bytes to the start of `out`, a writable contiguous buffer.
    fn copy_to(&self, py: Python<'_>, out: &Bound<'_, PyAny>, length: usize) -> PyResult<()> {
        OutBuffer::with(out, |out| match out {
            Some(out) if length <= out.len() && length <= self.0.length => {
                without_gil_if_large(py, length, || out.fill(&self.0, length));
                Ok(())
            }
            Some(_) => Err(PyIndexError::new_err(format!("{length} bytes do not fit"))),
            None => Err(PyBufferError::new_err("not a writable contiguous buffer")),
        })
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
        let address = slice.pages.region().address(slice.pages.offset() + slice.offset, slice.length);
        // SAFETY: `view` is the caller's; the address is valid for the length as long as `slf` lives.
        unsafe { export(slf.as_any(), address, slice.length, view, flags) }
    }

    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {}
}

/// Fills `view` with `length` writable bytes that belong to `object`.
///
/// # Safety
/// `view` is to be filled, and the address valid for `length` bytes as long as `object` lives. The bytes may change at any
/// moment, which the buffer protocol allows for shared memory; Python code sees them only through copies it makes.
unsafe fn export(
    object: &Bound<'_, PyAny>,
    address: *mut u8,
    length: usize,
    view: *mut ffi::Py_buffer,
    flags: c_int,
) -> PyResult<()> {
    let length = ffi::Py_ssize_t::try_from(length).map_err(|_| PyBufferError::new_err("too long"))?;
    // SAFETY: as the caller promises; FillInfo adds the reference to `object` that the view holds until its release.
    let filled = unsafe { ffi::PyBuffer_FillInfo(view, object.as_ptr(), address.cast::<c_void>(), length, 0, flags) };
    if filled == 0 { Ok(()) } else { Err(PyErr::fetch(object.py())) }
}

/// Whole pages of a descriptor, mapped for reading and writing, and a duplicate of it.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct SharedMapping {
    region: Arc<Region>,
    fd: OwnedFd,
}

impl SharedMapping {
    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }
}

#[pymethods]
impl SharedMapping {
    /// Maps `size_bytes` (whole pages) from page `file_page` of `fd` on.
    #[new]
    fn new(fd: i32, file_page: u64, size_bytes: u64) -> PyResult<Self> {
        let fd = duplicate(fd)?;
        let region = Region::map_own(fd.as_fd(), file_page, size_bytes).map_err(region_error)?;
        Ok(Self { region: Arc::new(region), fd })
    }

    fn fileno(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    fn __len__(&self) -> usize {
        self.region.len()
    }

    #[getter]
    fn address(&self) -> usize {
        self.region.address(0, 0).addr()
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let region = slf.get().region();
        let (address, length) = (region.address(0, region.len()), region.len());
        // SAFETY: `view` is the caller's; the region is mapped as long as `slf` lives. The memory is the program's own: that
        // somebody else may change it, or even cut it, it has chosen itself.
        unsafe { export(slf.as_any(), address, length, view, flags) }
    }

    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {}
}

/// Returns (address, bytes) of a contiguous buffer. It may move when its exporter lets it: hold a view of it meanwhile.
#[pyfunction]
pub(crate) fn buffer_address(buffer: &Bound<'_, PyAny>) -> PyResult<(usize, usize)> {
    let exported = PyUntypedBuffer::get(buffer)?;
    if !exported.is_c_contiguous() {
        return Err(PyValueError::new_err("the buffer is not contiguous"));
    }
    Ok((exported.buf_ptr().addr(), exported.len_bytes()))
}
