//! One read of a range in as few steps as it takes: fill the template, send, and read the answer where it lies.
//!
//! A [`ReadPlan`] is prepared once per blob and conditions by whoever decides what is asked. It lends pages, warm ones if
//! it can, and gives up rather than wait for them: its caller has a slower path that knows everything else. It neither
//! waits nor interprets the answer.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use vmbus::layout::PAGE_SIZE;

use super::channel::{GuestChannel, Refused};
use super::memory::LentMemory;
use super::pending::{Outcome, Token};
use super::submission::{Slice, Submission};
use super::waiting::Waiter;
use crate::bhttp::RequestTemplate;
use crate::hresult;

/// Pages for the answer's head at first; a plan learns when its blob needs more.
const RESPONSE_PAGES: usize = 1;

/// Most pages for the answer's head: what RFC 9292 heads may have here, and some.
const RESPONSE_PAGES_MAX: usize = 32;

/// How to ask for ranges of one blob.
pub struct ReadPlan {
    /// The channel.
    pub channel: Arc<GuestChannel>,
    /// The memory its buffers come from.
    pub memory: Arc<LentMemory>,
    /// The request; its hole is the range.
    pub template: RequestTemplate,
    /// Deadline on the host in milliseconds.
    pub timeout_ms: u32,
    response_pages: AtomicUsize,
}

/// A read under way. Whoever drops it without having taken its outcome abandons the token.
pub struct Read {
    /// The request.
    pub token: Token,
    /// Where the content comes to lie.
    pub data: Slice,
    /// First byte of the blob.
    pub offset: u64,
    /// The content goes where the caller said, not into pages of the read's own.
    pub is_in_place: bool,
    response: Slice,
}

/// Why a read was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotBegun {
    /// No credit, no room in the ring, or no pages at the moment.
    Busy,
    /// Never this way: the channel has ended, or the request breaks a limit.
    Never,
}

impl ReadPlan {
    /// Makes a plan.
    pub fn new(
        channel: Arc<GuestChannel>,
        memory: Arc<LentMemory>,
        template: RequestTemplate,
        timeout_ms: u32,
    ) -> Self {
        Self { channel, memory, template, timeout_ms, response_pages: AtomicUsize::new(RESPONSE_PAGES) }
    }

    /// Sends a read of `length` (> 0) bytes from `offset`, into `into` (whose length counts) or into pages of its own.
    ///
    /// `scratch`: private bytes, reused. `commit`: show it to the host now; else at the channel's next flush.
    pub fn begin(
        &self,
        waiter: &Arc<Waiter>,
        (offset, length): (u64, usize),
        into: Option<&Slice>,
        scratch: &mut Vec<u8>,
        commit: bool,
    ) -> Result<Read, NotBegun> {
        let last = offset.checked_add(length as u64 - 1).ok_or(NotBegun::Never)?;
        let mut range = [0_u8; 48];
        let mut rest = &mut range[..];
        write!(rest, "bytes={offset}-{last}").map_err(|_| NotBegun::Never)?;
        let range_size = 48 - rest.len();
        scratch.resize(PAGE_SIZE.max(scratch.len()), 0);
        let size =
            self.template.encode(&range[..range_size], &mut scratch[..PAGE_SIZE]).map_err(|_| NotBegun::Never)?;
        let envelope = (1 + self.response_pages.load(Ordering::Relaxed)) * PAGE_SIZE; // Relaxed: any of its values will do
        let own = if into.is_none() { length } else { 0 };
        let pages = self.memory.allocate(envelope + own).ok_or(NotBegun::Busy)?;
        pages.region().write(pages.offset(), &scratch[..size]);
        let slice = |offset, length| Slice { pages: Arc::clone(&pages), offset, length };
        let (request, response) = (slice(0, size), slice(PAGE_SIZE, envelope - PAGE_SIZE));
        let data = into.map_or_else(|| slice(envelope, length), Slice::clone);
        let submission = Submission {
            request: &request,
            response: &response,
            data: Some(&data),
            data_valid: 0,
            timeout_ms: self.timeout_ms,
            guid: self.channel.next_guid(),
        };
        let sent =
            if commit { self.channel.submit(waiter, &submission) } else { self.channel.enqueue(waiter, &submission) };
        let token = sent.map_err(|refused| match refused {
            Refused::Busy => NotBegun::Busy,
            Refused::Invalid | Refused::Closed => NotBegun::Never,
        })?;
        Ok(Read { token, data, offset, is_in_place: into.is_some(), response })
    }

    /// Copies the answer's message into `scratch`; returns its size, or `None` if there is none: the device refused.
    pub fn message(&self, read: &Read, outcome: Outcome, scratch: &mut Vec<u8>) -> Option<usize> {
        if outcome.status == hresult::INSUFFICIENT_BUFFER {
            let pages = (outcome.response_length_reported as usize).div_ceil(PAGE_SIZE);
            self.response_pages.fetch_max(pages.min(RESPONSE_PAGES_MAX), Ordering::Relaxed); // as above
        }
        if outcome.status != 0 {
            return None;
        }
        // Clamped to the buffer by the pending table (H23).
        let size = outcome.response_length as usize;
        scratch.resize(size.max(scratch.len()), 0);
        let at = read.response.pages.offset() + read.response.offset;
        read.response.pages.region().read(at, &mut scratch[..size]);
        Some(size)
    }
}
