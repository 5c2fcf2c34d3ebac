//! The VMBus channel between processes: rings in shared memory, packets, GPA ranges and doorbells.
//!
//! Flow of one packet: [`outgoing`] (encode with [`packet`], copy into the ring, commit) → shared memory → [`doorbell`]
//! if the receiver asked for it → [`incoming`] (copy out once, judge the copy) → [`gpa`] (find the lent pages it
//! names). Invariant: whatever the peer writes, at whatever moment, is an error value here: never a panic, an unbounded
//! loop or an access outside the mapping. Must not know: any device, any Python. Sources: spec/vmbus.md §1, §2, §5, §7;
//! design rules 1 and 2.

pub mod corruption;
pub mod gpa;
pub mod incoming;
pub mod layout;
pub mod outgoing;
pub mod packet;
pub mod poll;
pub mod ring;
pub mod sync;

#[cfg(not(feature = "loom"))]
pub mod doorbell;
#[cfg(not(feature = "loom"))]
mod guest_memory;
#[cfg(not(feature = "loom"))]
pub mod mapped;
#[cfg(not(feature = "loom"))]
pub mod memory;
#[cfg(not(feature = "loom"))]
mod span;
