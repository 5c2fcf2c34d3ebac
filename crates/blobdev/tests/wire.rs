//! The device's messages against `tests/vectors/device.json` (spec vmbus.md §7, azure-blob-device.md §2 and §3).

mod seed;
mod vectors;

use blobdev::hresult;
use blobdev::wire::{DeviceError, DeviceRequest, DeviceResponse, Layout, REQUEST_SIZE, RESPONSE_SIZE};
use proptest::collection::vec;
use proptest::prelude::*;
use seed::seeded;
use vectors::Json;

fn status(name: &str) -> u32 {
    let found = hresult::TABLE.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("{name} is no status")).1
}

fn word(json: &Json) -> u32 {
    u32::try_from(json.number()).unwrap()
}

/// The worked example with some fields changed.
fn changed(golden: &Json, case: &Json) -> DeviceRequest {
    let mut request = DeviceRequest::parse(&golden.get("request").get("hex").hex()).unwrap();
    for (field, value) in case.get("change").members() {
        *field_of(&mut request, field) = word(value);
    }
    request
}

fn field_of<'a>(request: &'a mut DeviceRequest, field: &str) -> &'a mut u32 {
    match field {
        "version" => &mut request.version,
        "timeout_ms" => &mut request.timeout_ms,
        "data_buffer_offset" => &mut request.data_buffer_offset,
        "data_buffer_length" => &mut request.data_buffer_length,
        "data_buffer_valid" => &mut request.data_buffer_valid,
        "operation_type" => &mut request.operation_type,
        "request_buffer_offset" => &mut request.request_buffer_offset,
        "request_buffer_length" => &mut request.request_buffer_length,
        "response_buffer_offset" => &mut request.response_buffer_offset,
        "response_buffer_length" => &mut request.response_buffer_length,
        _ => panic!("{field} is no field of the request"),
    }
}

#[test]
fn the_worked_example_reads_as_its_fields_and_is_written_as_its_bytes() {
    let golden = vectors::read("device.json");
    let bytes = golden.get("request").get("hex").hex();
    let mut request = DeviceRequest::parse(&bytes).unwrap();
    for (field, value) in golden.get("request").get("fields").members() {
        if field == "guid" {
            assert_eq!(request.guid[..], value.hex());
        } else {
            assert_eq!(*field_of(&mut request, field), word(value), "{field}");
        }
    }
    assert_eq!(request.encode()[..], bytes);
}

#[test]
fn an_accepted_request_gives_its_layout() {
    let golden = vectors::read("device.json");
    for case in golden.get("accepted").list() {
        let name = case.get("name").text();
        let part = |which: &str| {
            let pair = case.get("layout").get(which).list();
            (word(&pair[0]) as usize, word(&pair[1]) as usize)
        };
        let layout = Layout { data: part("data"), request: part("request"), response: part("response") };
        assert_eq!(changed(&golden, case).validate(word(case.get("byte_count"))), Ok(layout), "{name}");
    }
}

#[test]
fn a_refused_request_gives_its_status() {
    let golden = vectors::read("device.json");
    for case in golden.get("refused").list() {
        let name = case.get("name").text();
        let refused = changed(&golden, case).validate(word(case.get("byte_count"))).expect_err(name);
        assert_eq!(refused.status(), status(case.get("status").text()), "{name}: {refused}");
    }
}

#[test]
fn the_responses_read_and_write_as_they_say() {
    for case in vectors::read("device.json").get("responses").list() {
        let bytes = case.get("hex").hex();
        let response = DeviceResponse::parse(&bytes).unwrap();
        let error = u32::from_str_radix(case.get("error").text(), 16).unwrap();
        assert_eq!(response, DeviceResponse { error, response_len: word(case.get("response_len")) });
        assert_eq!(response.encode()[..], bytes[..RESPONSE_SIZE], "{}", case.get("name").text());
    }
}

/// Design §3: one table of device statuses.
#[test]
fn the_status_table_is_the_designs() {
    let golden = vectors::read("device.json");
    let expected = golden.get("statuses").members();
    assert_eq!(hresult::TABLE.len(), expected.len());
    for (name, value) in hresult::TABLE {
        assert_eq!(format!("{value:08x}"), expected[name].text(), "{name}");
    }
}

/// H23: the payload's length is checked before it is used.
#[test]
fn a_short_payload_is_refused_with_both_lengths() {
    for length in 0..REQUEST_SIZE {
        let refused = DeviceRequest::parse(&vec![0; length]).unwrap_err();
        assert_eq!(refused, DeviceError::Short { length, needed: REQUEST_SIZE });
        assert_eq!(refused.status(), hresult::MALFORMED);
    }
    for length in 0..RESPONSE_SIZE {
        let refused = DeviceResponse::parse(&vec![0; length]).unwrap_err();
        assert_eq!(refused, DeviceError::Short { length, needed: RESPONSE_SIZE });
    }
}

/// Eight numbers: all near the edges of pages and of 32 bits, or small ones of which many are accepted: short buffers in
/// a range of some 24 bytes, where exact fits, neighbours and overlaps by one byte are all common.
fn numbers() -> impl Strategy<Value = Vec<u32>> {
    let edge = prop_oneof![
        0..3_u32,
        4094..4099_u32,
        8190..8195_u32,
        33_554_431..33_554_434_u32,
        u32::MAX - 2..=u32::MAX,
        any::<u32>(),
    ];
    let (offset, length) = (0..24_u32, 0..6_u32);
    let pair = (offset, length);
    let small = (pair.clone(), 0..3_u32, pair.clone(), pair, 20..28_u32).prop_map(
        |((data, data_length), valid, (request, request_length), (response, response_length), count)| {
            vec![data, data_length, valid, request, request_length, response, response_length, count]
        },
    );
    prop_oneof![vec(edge, 8), small]
}

proptest! {
    #![proptest_config(seeded(4_000))]

    /// Design rule 1: what passes lies inside the range, shares no byte and fits 8192 pages, whatever the peer wrote.
    #[test]
    fn a_layout_lies_in_its_range_and_its_buffers_share_no_byte(numbers in numbers()) {
        let count = numbers[7];
        let device = DeviceRequest {
            version: 0, timeout_ms: 0, operation_type: 0x100, guid: [0; 16],
            data_buffer_offset: numbers[0], data_buffer_length: numbers[1], data_buffer_valid: numbers[2],
            request_buffer_offset: numbers[3], request_buffer_length: numbers[4],
            response_buffer_offset: numbers[5], response_buffer_length: numbers[6],
        };
        prop_assert_eq!(DeviceRequest::parse(&device.encode()), Ok(device));
        if let Ok(layout) = device.validate(count) {
            let mut buffers = [layout.data, layout.request, layout.response];
            prop_assert!(layout.request.1 > 0 && layout.response.1 > 0);
            prop_assert!(device.content_length() as usize <= layout.data.1);
            prop_assert!(buffers.iter().all(|(offset, length)| offset + length <= count as usize));
            prop_assert!(buffers.iter().map(|(offset, length)| (offset % 4096 + length).div_ceil(4096)).sum::<usize>() <= 8192);
            buffers.sort_unstable();
            let taken: Vec<_> = buffers.into_iter().filter(|buffer| buffer.1 > 0).collect();
            prop_assert!(taken.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        }
    }
}
