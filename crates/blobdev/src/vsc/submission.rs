//! One request as the guest describes it, and its form on the wire: the 56 bytes and the list of pages.

use std::sync::Arc;

use super::memory::Pages;
use super::pending::Held;
use crate::wire::{DeviceRequest, USER_REQUEST};

/// A buffer of a request: bytes `offset..offset + length` of some pages.
#[derive(Clone)]
pub struct Slice {
    /// The pages; the pending table keeps them until the completion.
    pub pages: Arc<Pages>,
    /// First byte within the pages.
    pub offset: usize,
    /// Length in bytes.
    pub length: usize,
}

impl Slice {
    fn in_page(&self) -> usize {
        self.offset % 4096
    }

    fn push_pages(&self, list: &mut Vec<u64>) -> u32 {
        let count = (self.in_page() + self.length).div_ceil(4096) as u64;
        let first = self.pages.page_at(self.offset);
        list.extend(first..first + count);
        count as u32
    }
}

/// One request as the caller describes it.
pub struct Submission<'a> {
    /// The request message, exactly.
    pub request: &'a Slice,
    /// Room for the response message.
    pub response: &'a Slice,
    /// The data buffer, if any.
    pub data: Option<&'a Slice>,
    /// How many bytes of the data buffer are content for the host; 0 = the host may write there.
    pub data_valid: u32,
    /// Deadline on the host, milliseconds; 0 = the host's maximum.
    pub timeout_ms: u32,
    /// The request's GUID.
    pub guid: [u8; 16],
}

impl Submission<'_> {
    /// The pages that must stay until the completion.
    pub(super) fn held(&self) -> Held {
        [Some(self.request), Some(self.response), self.data].map(|slice| Some(Arc::clone(&slice?.pages)))
    }
}

/// Returns the 56 bytes and fills the page list (data, request, response: spec/azure-blob-device.md §2.4).
///
/// `None`: the buffers break a limit of the device.
pub(super) fn describe(submission: &Submission<'_>, pfns: &mut Vec<u64>) -> Option<DeviceRequest> {
    pfns.clear();
    let data_pages = submission.data.map_or(0, |data| data.push_pages(pfns));
    let request_pages = submission.request.push_pages(pfns);
    submission.response.push_pages(pfns);
    let data_length = submission.data.map_or(0, |data| data.length);
    let lengths = [submission.request.length, submission.response.length];
    if lengths.contains(&0) || pfns.len() > 8192 || submission.data_valid as usize > data_length {
        return None;
    }
    let device = DeviceRequest {
        version: 0,
        timeout_ms: submission.timeout_ms,
        data_buffer_offset: submission.data.map_or(0, |data| data.in_page() as u32),
        data_buffer_length: data_length as u32,
        data_buffer_valid: submission.data_valid,
        operation_type: USER_REQUEST,
        request_buffer_offset: data_pages * 4096 + submission.request.in_page() as u32,
        request_buffer_length: submission.request.length as u32,
        response_buffer_offset: (data_pages + request_pages) * 4096 + submission.response.in_page() as u32,
        response_buffer_length: submission.response.length as u32,
        guid: submission.guid,
    };
    Some(device)
}
