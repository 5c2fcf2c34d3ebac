//! Offload entries: answers that the control plane has decided once and the data plane gives until they are invalidated.
//!
//! Flow: [`asked`] judges a request's head (whatever is not fully understood goes to Python), [`table`] finds the entry,
//! [`generation`] says whether it still holds, [`parts`] which of its bytes are here if not all are, [`template`] writes
//! the response head, and [`responder`], one per worker thread, does all of it. Invariants: nothing is answered that
//! Python would have answered differently; an entry's bytes stay pinned until the last reader of the entry is gone. Knows no blob semantics: fields and generations come from
//! Python. Source: design §2, §7.

pub mod asked;
pub mod counters;
pub mod entry;
pub mod generation;
pub mod parts;
pub mod responder;
pub mod table;
pub mod template;
