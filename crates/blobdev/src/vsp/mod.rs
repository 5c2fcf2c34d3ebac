//! The host's half of the device: takes packets, validates them, hands requests to the control plane, completes them.
//!
//! `worker` threads wait for doorbells and drain rings; what they accept becomes a [`request::HostRequest`] in the
//! [`events::EventQueue`], which wakes the control plane's loop through a descriptor. The control plane answers through
//! the request; bytes that lie in files are moved by the `filler` threads. What it has decided once it installs as an
//! [`offload`] entry, from which the workers then answer by themselves. Nothing here decides about a blob.

pub mod bells;
pub mod channel;
pub mod engine;
pub mod events;
pub mod faults;
pub mod files;
pub mod filler;
mod intake;
mod lanes;
pub mod offload;
pub mod polling;
pub mod request;
mod scatter;
mod worker;
