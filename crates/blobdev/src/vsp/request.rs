//! One accepted request: what the guest asked, where its buffers lie, and its exactly one completion.
//!
//! The head is a private copy, already checked; the data and response buffers stay in the guest's pages, which may change
//! under us at any moment, and are touched only by copies and system calls (design rule 1).

use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::io::Errno;
use vmbus::memory::SpanList;

use super::channel::HostChannel;
use super::files::{Reader, Run, Target, read_parts};
use crate::extents::{self, Digest};
use crate::hresult;
use crate::wire::{DeviceRequest, DeviceResponse};

thread_local! {
    /// The private block that stored content passes through (design rule 1): made once per thread, for fresh pages would
    /// cost every request a fault for each of them.
    static BLOCK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One request between its packet and its completion.
pub struct HostRequest {
    /// Unique in this process.
    pub id: u64,
    /// The id that its completion carries.
    pub transaction_id: u64,
    /// The validated 56 bytes.
    pub device: DeviceRequest,
    /// Private copy of the request message, a valid RFC 9292 request.
    pub head: Vec<u8>,
    channel: Arc<HostChannel>,
    data: SpanList,
    response: SpanList,
    completed: AtomicBool,
    /// The data buffer could not be read or written: the guest has shrunk the memory it lies in.
    faulted: AtomicBool,
    /// The data plane has missed an entry for this request's target more than once.
    pub wants_offload: bool,
    /// When it was taken off the ring.
    pub arrived: Instant,
    /// Where the guest's request, response and data buffer begin in its own address space, for people who look.
    pub addresses: [u64; 3],
}

impl HostRequest {
    pub(super) fn new(
        id: u64,
        transaction_id: u64,
        device: DeviceRequest,
        head: Vec<u8>,
        channel: Arc<HostChannel>,
        buffers: (SpanList, SpanList),
    ) -> Self {
        let (data, response) = buffers;
        let (completed, faulted) = (AtomicBool::new(false), AtomicBool::new(false));
        let (wants_offload, arrived, addresses) = (false, Instant::now(), [0; 3]);
        Self {
            id,
            transaction_id,
            device,
            head,
            channel,
            data,
            response,
            completed,
            faulted,
            wants_offload,
            arrived,
            addresses,
        }
    }

    /// The key of the channel it came by.
    pub fn channel_key(&self) -> u64 {
        self.channel.key()
    }

    /// Bytes of the data buffer.
    pub fn data_length(&self) -> usize {
        self.data.len()
    }

    /// Bytes of content the guest put into the data buffer.
    pub fn data_valid(&self) -> usize {
        self.device.content_length() as usize
    }

    /// Capacity of the response buffer in bytes.
    pub fn response_capacity(&self) -> usize {
        self.response.len()
    }

    /// Copies the guest's content to private bytes. EFAULT: as for [`store_data`](Self::store_data).
    pub fn read_data(&self) -> io::Result<Vec<u8>> {
        let mut copy = vec![0; self.data_valid()];
        self.copy_data(0, &mut copy)?;
        Ok(copy)
    }

    fn copy_data(&self, at: usize, into: &mut [u8]) -> io::Result<()> {
        // Relaxed: whoever completes the request has seen this copy fail, in the same thread or through a queue.
        self.data.read(at, into).inspect_err(|_| self.faulted.store(true, Ordering::Relaxed))
    }

    /// Tells whether content could not be read. The request then completes with 0x80070057, whatever is said of it.
    pub fn has_faulted(&self) -> bool {
        self.faulted.load(Ordering::Relaxed)
    }

    /// Copies a part of the guest's content, from `at` on, to private memory. InvalidInput: not inside the content.
    pub fn read_data_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        if at.checked_add(into.len()).is_none_or(|end| end > self.data_valid()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.copy_data(at, into)
    }

    /// Copies private bytes to `at` of the data buffer, before the completion. InvalidInput: not inside the buffer, or
    /// the buffer holds the guest's own content.
    pub fn write_data_at(&self, at: u64, from: &[u8]) -> io::Result<()> {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let outside = at.checked_add(from.len()).is_none_or(|end| end > self.data.len());
        if outside || self.data_valid() > 0 || self.completed.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.data.write(at, from).inspect_err(|_| self.faulted.store(true, Ordering::Relaxed))
    }

    /// Reads a file into `at` of the data buffer, before the completion; may wait for the disk. InvalidInput as for
    /// `write_data_at`; UnexpectedEof: the file ends early.
    pub fn load_data_at(&self, at: u64, file: BorrowedFd<'_>, offset: u64, length: usize) -> io::Result<()> {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let outside = at.checked_add(length).is_none_or(|end| end > self.data.len());
        if outside || self.data_valid() > 0 || self.completed.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match self.data.read_from_file(at, file, offset, length)? {
            read if read == length => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Writes the guest's content to `file` at `offset`, block by block: copy, digest the copy, write the copy.
    ///
    /// Fails with EFAULT and [`has_faulted`](Self::has_faulted) where the guest's memory ends early.
    pub fn store_data(&self, file: BorrowedFd<'_>, offset: u64, digest: &mut Digest) -> io::Result<()> {
        BLOCK.with_borrow_mut(|block| {
            let total = self.data_valid();
            block.resize(extents::BLOCK_SIZE, 0);
            for at in (0..total).step_by(extents::BLOCK_SIZE) {
                let part = &mut block[..extents::BLOCK_SIZE.min(total - at)];
                self.copy_data(at, part)?;
                digest.update(part);
                extents::write_all_at(file, part, offset + at as u64)?;
            }
            Ok(())
        })
    }

    /// Claims the one completion; false when it was made already.
    fn claim(&self) -> bool {
        // Relaxed: this only elects one of several callers; what they write is published by the ring's own ordering.
        !self.completed.swap(true, Ordering::Relaxed)
    }

    /// Completes with a device status and a response message; false if it is completed already.
    ///
    /// `needed`: the capacity to report instead of the message's length (with 0x8007007A). A message longer than the
    /// response buffer is an error of the caller's and completes with 0x8007001F.
    pub fn complete(&self, status: u32, response: &[u8], needed: Option<u32>) -> bool {
        if !self.claim() {
            return false;
        }
        self.finish(status, response, needed);
        true
    }

    /// Places `content` at the start of the data buffer, then completes with status 0.
    pub fn complete_with_bytes(&self, response: &[u8], content: &[u8]) -> bool {
        if !self.claim() {
            return false;
        }
        if content.len() > self.data.len() || self.data_valid() > 0 {
            self.finish(hresult::INTERNAL, &[], None);
        } else {
            match self.data.write(0, content) {
                Ok(()) => self.finish(0, response, None),
                Err(error) => self.finish(status_of(&error), &[], None),
            }
        }
        true
    }

    /// Claims the completion for a filler thread, which will call [`fill`](Self::fill).
    pub fn claim_for_fill(&self) -> bool {
        self.claim()
    }

    /// Reads the runs into the data buffer, one after the other and without the first `done` bytes, which are there
    /// already, then completes. Blocks on the disk.
    pub fn fill(&self, reader: &dyn Reader, response: &[u8], runs: &[Run], done: u64) {
        match self.read_runs(reader, runs, done, true) {
            Ok(_) => self.finish(0, response, None),
            Err(error) => self.finish(status_of(&error), &[], None),
        }
    }

    /// Completes as [`fill`](Self::fill) does, but only if nothing has to be waited for; false: nothing was done.
    ///
    /// To be called by the thread that makes all other completions of this request: they see it claimed meanwhile.
    pub fn complete_from_cache(&self, reader: &dyn Reader, response: &[u8], runs: &[Run]) -> bool {
        if !self.claim() {
            return true;
        }
        // An error is found again, and answered, by whoever may wait.
        let is_complete = self.read_runs(reader, runs, 0, false).is_ok_and(|(_, is_complete)| is_complete);
        if is_complete {
            self.finish(0, response, None);
        } else {
            self.completed.store(false, Ordering::Relaxed); // as in `claim`
        }
        is_complete
    }

    fn read_runs(&self, reader: &dyn Reader, runs: &[Run], done: u64, may_wait: bool) -> io::Result<(u64, bool)> {
        let total: u64 = runs.iter().map(|run| run.length).sum();
        if total > self.data.len() as u64 || self.data_valid() > 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut skip = done;
        let parts = runs.iter().filter_map(|run| {
            let skipped = skip.min(run.length);
            skip -= skipped;
            (skipped < run.length).then_some((&run.file, run.offset + skipped, run.length - skipped))
        });
        read_parts(reader, parts, Target { pages: &self.data, at: done as usize, may_wait })
    }

    fn finish(&self, status: u32, response: &[u8], mut needed: Option<u32>) {
        let (mut status, mut response) =
            if response.len() > self.response.len() { (hresult::INTERNAL, &[][..]) } else { (status, response) };
        if self.has_faulted() {
            (status, response, needed) = (hresult::MALFORMED, &[], None);
        }
        if self.response.write(0, response).is_err() {
            (status, response) = (hresult::INTERNAL, &[]); // cannot be: a response buffer lies in sealed memory
        }
        let answer = DeviceResponse { error: status, response_len: needed.unwrap_or(response.len() as u32) };
        // First forgotten, then answered: the guest may use the id again as soon as it sees the completion.
        self.channel.forget(self.transaction_id);
        self.channel.send_completion(self.transaction_id, answer);
    }
}

impl Drop for HostRequest {
    fn drop(&mut self) {
        // Rule 4, exactly one completion: a request the control plane lost is an internal error, not a silence.
        if self.claim() {
            self.finish(hresult::INTERNAL, &[], None);
        }
    }
}

/// The status for data that could not be placed: EFAULT is the guest's doing, the rest is ours.
fn status_of(error: &io::Error) -> u32 {
    if error.raw_os_error() == Some(Errno::FAULT.raw_os_error()) { hresult::MALFORMED } else { hresult::INTERNAL }
}
