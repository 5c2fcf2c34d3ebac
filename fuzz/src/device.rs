//! The device's 56 and 12 bytes (H23; spec/azure-blob-device.md §2, §3).
//!
//! Input: the GPA range's byte count (u32), then a payload. The second opinion computes in 128 bits.

use blobdev::wire::{BYTES_MAX, DeviceRequest, DeviceResponse, REQUEST_SIZE, RESPONSE_SIZE, USER_REQUEST};

fn buffers(request: &DeviceRequest) -> [(u128, u128); 3] {
    let data = if request.data_buffer_length == 0 { 0 } else { request.data_buffer_offset };
    [
        (data, request.data_buffer_length),
        (request.request_buffer_offset, request.request_buffer_length),
        (request.response_buffer_offset, request.response_buffer_length),
    ]
    .map(|(offset, length)| (u128::from(offset), u128::from(length)))
}

fn is_acceptable(request: &DeviceRequest, byte_count: u32) -> bool {
    let buffers = buffers(request);
    let [data, _, _] = buffers;
    let pages: u128 = buffers.iter().map(|&(offset, length)| (offset % 4096 + length).div_ceil(4096)).sum();
    let disjoint = |one: (u128, u128), other: (u128, u128)| one.0 + one.1 <= other.0 || other.0 + other.1 <= one.0;
    let empty = |buffer: (u128, u128)| buffer.1 == 0;
    request.version == 0
        && request.operation_type == USER_REQUEST
        && buffers[1..].iter().all(|&(_, length)| length > 0)
        && (empty(data) || u128::from(request.data_buffer_valid) <= data.1)
        && buffers.iter().all(|&(_, length)| length <= u128::from(BYTES_MAX))
        && pages <= 8192
        && buffers.iter().all(|&(offset, length)| offset + length <= u128::from(byte_count))
        && (empty(data) || (disjoint(data, buffers[1]) && disjoint(data, buffers[2])))
        && disjoint(buffers[1], buffers[2])
}

/// Parses, judges and writes both messages.
pub fn check(data: &[u8]) {
    let Some((byte_count, payload)) = data.split_first_chunk::<4>() else { return };
    let byte_count = u32::from_le_bytes(*byte_count);
    let response = DeviceResponse::parse(payload);
    assert_eq!(response.is_ok(), payload.len() >= RESPONSE_SIZE);
    if let Ok(response) = response {
        assert_eq!(response.encode()[4..], payload[4..RESPONSE_SIZE]);
    }
    let request = DeviceRequest::parse(payload);
    assert_eq!(request.is_ok(), payload.len() >= REQUEST_SIZE);
    let Ok(request) = request else { return };
    assert_eq!(request.encode(), payload[..REQUEST_SIZE]);
    let layout = request.validate(byte_count);
    assert_eq!(layout.is_ok(), is_acceptable(&request, byte_count), "{request:?} in {byte_count}: {layout:?}");
    if let Ok(layout) = layout {
        let places = [layout.data, layout.request, layout.response].map(|(at, length)| (at as u128, length as u128));
        assert_eq!(places, buffers(&request));
        assert!(u128::from(request.content_length()) <= places[0].1);
    }
}
