//! `pvblob._native`: the compiled data plane as Python sees it. It converts and releases the GIL; it decides nothing.
//!
//! The typed face and its documentation are in `python/pvblob/_native.pyi`.

mod batch;
mod buffer;
mod codec;
mod descriptors;
mod extents;
mod guest;
mod guest_memory;
mod host;
mod offload;
mod pending;
mod reads;
mod upstream;

use pyo3::prelude::*;
use pyo3::types::PyDict;

#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    add_numbers(module)?;
    module.add_class::<buffer::LentBuffer>()?;
    module.add_class::<buffer::BytesBuilder>()?;
    module.add_class::<guest::LentMemory>()?;
    module.add_class::<buffer::SharedMapping>()?;
    module.add_class::<guest::Rings>()?;
    module.add_class::<guest::Waiter>()?;
    module.add_class::<guest::GuestChannel>()?;
    module.add_class::<reads::ReadPlan>()?;
    module.add_class::<batch::ReadBatch>()?;
    module.add_class::<pending::PendingRead>()?;
    module.add_class::<guest_memory::GuestMemory>()?;
    module.add_class::<guest_memory::ClearedMemory>()?;
    module.add_class::<host::HostPage>()?;
    module.add_class::<host::HostEngine>()?;
    module.add_class::<host::HostRequest>()?;
    module.add_class::<offload::Generation>()?;
    module.add_class::<offload::Parts>()?;
    module.add_class::<extents::Digest>()?;
    upstream::register(module)?;
    add_functions(module)
}

fn add_functions(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(guest::note_fork, module)?)?;
    module.add_function(wrap_pyfunction!(buffer::buffer_address, module)?)?;
    module.add_function(wrap_pyfunction!(codec::encode_request, module)?)?;
    module.add_function(wrap_pyfunction!(codec::decode_request, module)?)?;
    module.add_function(wrap_pyfunction!(codec::encode_response, module)?)?;
    module.add_function(wrap_pyfunction!(codec::decode_response, module)?)?;
    module.add_function(wrap_pyfunction!(extents::crc64, module)?)?;
    module.add_function(wrap_pyfunction!(extents::store_bytes, module)?)?;
    module.add_function(wrap_pyfunction!(extents::punch_hole, module)?)?;
    Ok(())
}

/// Adds the device statuses, and what waits and events are called by.
fn add_numbers(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let statuses = PyDict::new(module.py());
    for (name, status) in blobdev::hresult::TABLE {
        statuses.set_item(name, status)?;
    }
    module.add("HRESULT", statuses)?;
    module.add("WAIT_READY", guest::WAIT_READY)?;
    module.add("WAIT_CONTROL", guest::WAIT_CONTROL)?;
    module.add("WAIT_TIMED_OUT", guest::WAIT_TIMED_OUT)?;
    module.add("WAIT_CLOSED", guest::WAIT_CLOSED)?;
    module.add("EVENT_REQUEST", host::EVENT_REQUEST)?;
    module.add("EVENT_CANCEL", host::EVENT_CANCEL)?;
    module.add("EVENT_FILLED", host::EVENT_FILLED)?;
    module.add("EVENT_RELEASED", host::EVENT_RELEASED)?;
    module.add("EVENT_STORED", host::EVENT_STORED)?;
    module.add("EVENT_CHANNEL_FAILED", host::EVENT_CHANNEL_FAILED)?;
    Ok(())
}
