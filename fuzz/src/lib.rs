//! Properties that must hold for any bytes a peer may write, each as `check(data)`, which panics where one is broken.
//!
//! cargo-fuzz searches for such bytes (`make fuzz`); `tests/replay.rs` runs everything it has kept. Where there is a
//! second opinion (a naive reader, another crate) both must agree: an error that both make alike is not found here.

pub mod binary_http;
pub mod device;
pub mod memory;
pub mod ranges;
pub mod ring;

/// A property over any bytes; panics where it is broken.
pub type Check = fn(&[u8]);

/// Every target by its name: what `make fuzz` runs and `corpus/` has a folder for.
pub const TARGETS: [(&str, Check); 4] =
    [("ring", ring::check), ("ranges", ranges::check), ("binary_http", binary_http::check), ("device", device::check)];
