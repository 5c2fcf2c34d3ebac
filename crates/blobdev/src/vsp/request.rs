//! One accepted request: what the guest asked, where its buffers lie, and its exactly one completion.
//!
//! The head is a private copy, already checked; the data and response buffers stay in the guest's pages, which may change
//! under us at any moment, and are touched only by copies and system calls (design rule 1).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmbus::memory::SpanList;

use super::channel::HostChannel;
use crate::extents::{self, Digest};
use crate::hresult;
use crate::wire::{DeviceRequest, DeviceResponse};

/// A run of bytes in a file.
pub struct FileRun {
    /// The file, kept open for the run.
    pub file: Arc<OwnedFd>,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
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
        Self { id, transaction_id, device, head, channel, data, response, completed: AtomicBool::new(false) }
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

    /// Copies the guest's content to private bytes.
    pub fn read_data(&self) -> Vec<u8> {
        let mut copy = vec![0; self.data_valid()];
        self.data.read(0, &mut copy);
        copy
    }

    /// Writes the guest's content to `file` at `offset`, block by block: copy, digest the copy, write the copy.
    pub fn store_data(&self, file: BorrowedFd<'_>, offset: u64, digest: &mut Digest) -> io::Result<()> {
        let total = self.data_valid();
        let mut block = vec![0; total.min(extents::BLOCK_SIZE)];
        for at in (0..total).step_by(extents::BLOCK_SIZE) {
            let part = &mut block[..extents::BLOCK_SIZE.min(total - at)];
            self.data.read(at, part);
            digest.update(part);
            extents::write_all_at(file, part, offset + at as u64)?;
        }
        Ok(())
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
            self.data.write(0, content);
            self.finish(0, response, None);
        }
        true
    }

    /// Claims the completion for a filler thread, which will call [`fill`](Self::fill).
    pub fn claim_for_fill(&self) -> bool {
        self.claim()
    }

    /// Reads the runs into the data buffer, one after the other, then completes. Blocks on the disk.
    pub fn fill(&self, response: &[u8], runs: &[FileRun]) {
        let status = match self.read_runs(runs) {
            Ok(()) => 0,
            Err(_) => hresult::INTERNAL,
        };
        self.finish(status, if status == 0 { response } else { &[] }, None);
    }

    fn read_runs(&self, runs: &[FileRun]) -> io::Result<()> {
        let total: u64 = runs.iter().map(|run| run.length).sum();
        if total > self.data.len() as u64 || self.data_valid() > 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut at = 0;
        for run in runs {
            let length = run.length as usize;
            if self.data.read_from_file(at, run.file.as_fd(), run.offset, length)? != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += length;
        }
        Ok(())
    }

    fn finish(&self, status: u32, response: &[u8], needed: Option<u32>) {
        let (status, response) =
            if response.len() > self.response.len() { (hresult::INTERNAL, &[][..]) } else { (status, response) };
        self.response.write(0, response);
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
