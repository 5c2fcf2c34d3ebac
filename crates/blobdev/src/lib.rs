//! The Azure Blob device over a VMBus channel: both halves, and what they share.
//!
//! Shared are the device's messages ([`wire`], [`hresult`]), the form of what lies in the request and response buffers
//! ([`bhttp`]) and bytes in files ([`extents`]). [`vsc`] is the guest's half, [`vsp`] the host's; they never meet. The
//! crate knows no blob semantics: what a request means is for the control plane above it.

pub mod bhttp;
pub mod extents;
pub mod hresult;
pub mod vsc;
pub mod vsp;
pub mod wire;
