//! The guest's half of the device: lent memory, the pending table, the channel and who waits on it.
//!
//! Requests leave through [`channel::GuestChannel::submit`], completions come in through `drain`, which any thread may
//! run. Nothing here owns a thread: the callers' own threads and event loops take turns at leading (design rule 7).

pub mod channel;
pub mod fork;
mod guid;
pub mod memory;
pub mod pending;
pub mod read;
pub mod receiving;
mod runs;
pub mod seats;
pub mod submission;
pub mod waiting;
