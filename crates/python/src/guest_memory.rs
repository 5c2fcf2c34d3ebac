//! What one guest lends, for the host: regions that are mapped, of either kind, and those that leave.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use blobdev::vsp::channel::SharedGuestMemory;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use vmbus::gpa::GuestMemory as Memory;
use vmbus::layout::PAGE_SIZE;
use vmbus::memory::{Lent, Region, RegionError, UnsealedRegion, WatchedLent};

use crate::descriptors::borrow;
use crate::extents::system_error;

/// What one guest lends.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct GuestMemory(pub(crate) SharedGuestMemory);

fn first_page(gpa: u64) -> PyResult<u64> {
    if gpa.is_multiple_of(PAGE_SIZE as u64) {
        Ok(gpa / PAGE_SIZE as u64)
    } else {
        Err(PyValueError::new_err(format!("guest address {gpa:#x} is no page boundary")))
    }
}

impl GuestMemory {
    fn add(&self, gpa: u64, lent: Lent) -> PyResult<()> {
        let first = first_page(gpa)?;
        let mut memory = self.0.write().unwrap_or_else(PoisonError::into_inner);
        memory.add(first, lent).map_err(|error| PyValueError::new_err(error.to_string()))
    }
}

/// OSError where the system refused, ValueError where the descriptor is not what may be lent.
pub(crate) fn region_error(error: RegionError) -> PyErr {
    match error {
        RegionError::System(error) => system_error(error),
        other => PyValueError::new_err(other.to_string()),
    }
}

#[pymethods]
impl GuestMemory {
    #[new]
    fn new() -> Self {
        Self(Arc::new(RwLock::new(Memory::default())))
    }

    /// Maps sealed memory: anything may lie there.
    fn add_region(&self, gpa: u64, length: u64, fd: i32) -> PyResult<()> {
        let region = borrow(fd, |fd| Region::map_sealed(fd, length))?.map_err(region_error)?;
        self.add(gpa, Arc::new(region).into())
    }

    /// Maps memory that may shrink, from a page of the descriptor on: for data buffers only.
    fn add_unsealed_region(&self, gpa: u64, length: u64, fd: i32, file_page: u64) -> PyResult<()> {
        let region = borrow(fd, |fd| UnsealedRegion::map(fd, file_page, length))?.map_err(region_error)?;
        self.add(gpa, Arc::new(region).into())
    }

    /// Forgets a region: no request can name it any more; those that did keep it mapped.
    fn remove_region(&self, gpa: u64) -> PyResult<Option<LeavingRegion>> {
        let removed = self.0.write().unwrap_or_else(PoisonError::into_inner).remove(first_page(gpa)?);
        Ok(removed.map(|region| LeavingRegion { length: region.len(), region: region.watch() }))
    }

    /// Forgets all regions. They are unmapped with the answer, which may take milliseconds for each that was filled.
    fn clear(&self) -> ClearedMemory {
        let cleared = mem::take(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner));
        ClearedMemory(Mutex::new(Some(cleared)))
    }
}

/// Regions that nobody can name any more.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct ClearedMemory(Mutex<Option<Memory>>);

#[pymethods]
impl ClearedMemory {
    /// Unmaps what no request uses any more; the rest goes with its last request.
    fn unmap(&self, py: Python<'_>) {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(memory));
    }
}

/// A region that was taken back, for as long as somebody wants to know whether it is still in use.
#[pyclass(frozen, module = "pvblob._native")]
pub(crate) struct LeavingRegion {
    length: usize,
    region: WatchedLent,
}

#[pymethods]
impl LeavingRegion {
    #[getter]
    fn length(&self) -> usize {
        self.length
    }

    #[getter]
    fn in_use(&self) -> bool {
        self.region.is_in_use()
    }
}
