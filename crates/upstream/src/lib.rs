//! HTTP/1.1 over TLS to a blob service elsewhere: connections that are kept, bodies that go straight between sockets and
//! the buffers they belong to.
//!
//! The control plane decides what is sent where, with which credential, and what happens after a failure; this crate moves
//! it. Flow: `client` (a small runtime, host process only) → `exchange` (one request and its answer) → `connections`
//! (idle ones, new ones) → `outcome` (a queue with a descriptor that wakes the control plane's loop). It knows no
//! channel, no Python and nothing of blobs.

pub mod client;
pub mod connections;
pub mod endpoint;
pub mod exchange;
pub mod gate;
pub mod http1;
pub mod outcome;
pub mod proxy;
