//! File descriptors that arrive from Python as numbers.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Borrows a descriptor for the length of a call.
pub(crate) fn borrow<T>(fd: i32, call: impl FnOnce(BorrowedFd<'_>) -> T) -> PyResult<T> {
    if fd < 0 {
        return Err(PyValueError::new_err(format!("{fd} is no file descriptor")));
    }
    // SAFETY: not -1, checked above. The Python caller keeps the descriptor open for the call, as for any os function; one
    // that is closed all the same makes the system calls fail with EBADF.
    Ok(call(unsafe { BorrowedFd::borrow_raw(fd) }))
}

/// Duplicates a descriptor, close-on-exec: the copy is ours whatever the caller does with its own.
pub(crate) fn duplicate(fd: i32) -> PyResult<OwnedFd> {
    Ok(borrow(fd, |fd| fd.try_clone_to_owned())??)
}
