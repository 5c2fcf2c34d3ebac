//! The VMBus channel between processes: rings in shared memory, packets, guest pages, doorbells. Source: spec/vmbus.md.
//!
//! A channel is two rings. Each side holds the sending half of one ([`outgoing`]) and the receiving half of the other
//! ([`incoming`]); both are generic over the memory behind them ([`ring::RingMemory`]), so the same code runs over shared
//! mappings ([`mapped`]) and under a model checker. The ring decides whether the peer must be signalled; the caller does
//! it ([`doorbell`]). This crate knows no device, no Python, and trusts nothing its peer writes.

#[cfg(not(feature = "loom"))]
pub mod doorbell;
pub mod gpa;
#[cfg(not(feature = "loom"))]
pub mod guest_memory;
pub mod incoming;
pub mod layout;
#[cfg(not(feature = "loom"))]
pub mod mapped;
#[cfg(not(feature = "loom"))]
pub mod memory;
pub mod outgoing;
pub mod packet;
#[cfg(not(feature = "loom"))]
pub mod poll;
pub mod ring;
pub mod sync;
