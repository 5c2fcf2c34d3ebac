"""Attacks on GPA ranges and the 56 bytes: pages that are not the guest's to name, numbers at every boundary.

Sources: H9, H11, H12, H23, design rule 1, spec/azure-blob-device.md §2 and §3.

Each is answered with a device status, nothing of the host's or another guest's is touched, and the channel goes on.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tests.faults import ring as raw
from tests.faults.buffers import bhttp_request, device_request
from tests.faults.conftest import SMALL, Siege
from tests.faults.guest import (
    DATA_GPA,
    PLACES,
    RING_BYTES,
    RINGS_GPA,
    SLOT_DATA,
    SLOT_PAGES,
    SLOT_REQUEST,
    SLOT_RESPONSE,
    SLOTS,
    RawGuest,
)
from tests.faults.ring import PAGE_BYTES

READ = "/bystander/small"
MALFORMED, UNKNOWN_OPERATION, TOO_SMALL = 0x8007_0057, 0x8007_0032, 0x8007_007A
DATA_PAGE, RINGS_PAGE = DATA_GPA // PAGE_BYTES, RINGS_GPA // PAGE_BYTES
RANGE_BYTES = SLOT_PAGES * PAGE_BYTES
REQUEST_AT, RESPONSE_AT = SLOT_DATA * PAGE_BYTES, (SLOT_DATA + SLOT_REQUEST) * PAGE_BYTES


def with_header(guest: RawGuest, header: bytes, transaction_id: int = 7) -> bytes:
    """Return an honest read, but with these ranges."""
    message = bhttp_request("GET", READ)
    at = guest.place() + REQUEST_AT
    guest.memory[at : at + len(message)] = message
    payload = device_request(PLACES, request_length=len(message))
    return raw.packet(raw.GPA_DIRECT, transaction_id, payload, header=header, flags=1)


def refused_and_alive(guest: RawGuest, packet: bytes, status: int = MALFORMED) -> None:
    assert guest.status_of(packet) == status
    assert guest.fetch(READ) == SMALL


PAGES = {
    "zero": 0,
    "just before the region": DATA_PAGE - 1,
    "just behind the region": DATA_PAGE + SLOTS * SLOT_PAGES,
    "of the ring the guest sends on": RINGS_PAGE + 1,
    "of the ring the host sends on": RINGS_PAGE + RING_BYTES // PAGE_BYTES + 1,
    "of a ring's control page": RINGS_PAGE,
    "of the last page number": 0xFFFF_FFFF_FFFF_FFFF,
    "with the sign bit": 1 << 63,
    "whose address overflows": 1 << 52,
    "that is an address": DATA_GPA,
}


@pytest.mark.parametrize("where", [0, SLOT_PAGES - 1], ids=["first", "last"])
@pytest.mark.parametrize("pfn", PAGES.values(), ids=PAGES)
def test_rule_1_h11_a_page_number(siege: Siege, pfn: int, where: int) -> None:
    guest = siege.guest()
    pfns = guest.pfns()
    pfns[where] = pfn
    refused_and_alive(guest, with_header(guest, raw.range_header(pfns)))


def test_rule_1_pages_that_run_out_of_the_region_at_its_end(siege: Siege) -> None:
    guest = siege.guest()
    first = DATA_PAGE + SLOTS * SLOT_PAGES - SLOT_PAGES + 1
    refused_and_alive(guest, with_header(guest, raw.range_header(range(first, first + SLOT_PAGES))))


RANGES: dict[str, dict[str, int]] = {
    "of no bytes": {"byte_count": 0},
    "of one byte more than its pages": {"byte_count": RANGE_BYTES + 1},
    "of 4 GiB": {"byte_count": 0xFFFF_FFFF},
    "that starts behind its first page": {"byte_offset": 4096},
    "with an offset of all ones": {"byte_offset": 0xFFFF_FFFF},
    "whose sum overflows": {"byte_count": 0xFFFF_FFFF, "byte_offset": 4095},
    "that is the first of two": {"range_count": 2},
    "that is the first of four milliards": {"range_count": 0xFFFF_FFFF},
    "that ends before the buffers": {"byte_count": RANGE_BYTES - SLOT_RESPONSE * PAGE_BYTES},
}


@pytest.mark.parametrize("lies", RANGES.values(), ids=RANGES)
def test_h11_a_range(siege: Siege, lies: dict[str, int]) -> None:
    guest = siege.guest()
    refused_and_alive(guest, with_header(guest, raw.range_header(guest.pfns(), **lies)))


def test_h11_two_honest_ranges_where_the_device_has_one(siege: Siege) -> None:
    guest = siege.guest()
    second = raw.range_header(guest.pfns(1))[8:]
    header = raw.range_header(guest.pfns(), range_count=2) + second
    refused_and_alive(guest, with_header(guest, header))


def test_section_2_4_the_same_page_named_many_times_is_the_guests_own_affair(siege: Siege) -> None:
    """The response overwrites the request that was copied before; nobody else's bytes are involved."""
    guest = siege.guest()
    pfns = guest.pfns()
    pfns[SLOT_DATA + SLOT_REQUEST :] = [pfns[SLOT_DATA]] * SLOT_RESPONSE
    assert guest.status_of(with_header(guest, raw.range_header(pfns))) == 0
    assert guest.fetch(READ) == SMALL


def test_h11_a_request_over_as_many_scattered_pages_as_a_packet_names(siege: Siege) -> None:
    """Every second page: each is a run of its own for the host."""
    guest = siege.guest()
    scattered = list(range(DATA_PAGE, DATA_PAGE + 1400, 2))
    message = bhttp_request("GET", READ)
    place = 2 * (len(scattered) - 10) * PAGE_BYTES
    guest.memory[place : place + len(message)] = message
    request_at = (len(scattered) - 10) * PAGE_BYTES
    payload = device_request((request_at, PAGE_BYTES, PAGE_BYTES), request_length=len(message))
    packet = raw.packet(raw.GPA_DIRECT, 5, payload, header=raw.range_header(scattered), flags=1)
    assert guest.status_of(packet) == 0
    assert bytes(guest.memory[: len(SMALL)]) == SMALL


DEVICE: dict[str, dict[str, Any]] = {
    "of version 1": {"version": 1},
    "of version 0xFFFFFFFF": {"version": 0xFFFF_FFFF},
    "with an empty request": {"request_length": 0},
    "with no room for a response": {"response_length": 0},
    "with more valid data than data": {"data_length": 4096, "data_valid": 4097},
    "with 4 GiB of valid data": {"data_valid": 0xFFFF_FFFF},
    "whose request ends one byte behind the range": {"request_offset": RANGE_BYTES - 99, "request_length": 100},
    "whose request lies behind the range": {"request_offset": RANGE_BYTES, "request_length": 1},
    "whose request offset overflows": {"request_offset": 0xFFFF_FFFF, "request_length": 0x7FFF_FFFF},
    "whose response ends one byte behind the range": {"response_length": SLOT_RESPONSE * PAGE_BYTES + 1},
    "whose response offset overflows": {"response_offset": 0xFFFF_FFF0, "response_length": 0x20},
    "whose data ends one byte behind the range": {"data_offset": RANGE_BYTES - 9, "data_length": 10},
    "whose data offset overflows": {"data_offset": 0xFFFF_FFFF, "data_length": 1},
    "of one byte more than 32 MiB of data": {"data_length": (32 << 20) + 1},
    "of 4 GiB of request": {"request_length": 0xFFFF_FFFF},
    "of 4 GiB of response": {"response_length": 0xFFFF_FFFF},
    "whose response overlaps its request by a byte": {"response_offset": RESPONSE_AT - 4 * PAGE_BYTES},
    "whose data overlaps its request by a byte": {"data_length": REQUEST_AT + 1},
    "whose response is its data": {"response_offset": 0, "response_length": 4096},
    "whose data is the whole range": {"data_length": RANGE_BYTES},
    "whose request is longer than any message": {"request_length": SLOT_REQUEST * PAGE_BYTES + 1},
}


@pytest.mark.parametrize("lies", DEVICE.values(), ids=DEVICE)
def test_h23_a_device_request(siege: Siege, lies: dict[str, Any]) -> None:
    guest = siege.guest()
    refused_and_alive(guest, guest.ask(READ, 3, **lies))


@pytest.mark.parametrize("operation", [0, 0x0FF, 0x101, 0x102, 0x103, 0xFFFF_FFFF])
def test_section_2_2_an_operation_that_nobody_published(siege: Siege, operation: int) -> None:
    guest = siege.guest()
    refused_and_alive(guest, guest.ask(READ, 3, operation=operation), UNKNOWN_OPERATION)


@pytest.mark.parametrize("length", [0, 8, 48])
def test_h23_a_payload_shorter_than_the_device_request(siege: Siege, length: int) -> None:
    guest = siege.guest()
    packet = raw.packet(raw.GPA_DIRECT, 9, bytes(length), header=raw.range_header(guest.pfns()), flags=1)
    refused_and_alive(guest, packet)


@pytest.mark.parametrize("transaction_id", [0, 1 << 63, 0xFFFF_FFFF_FFFF_FFFF])
def test_h9_a_transaction_id_means_nothing_to_the_host(siege: Siege, transaction_id: int) -> None:
    """It is echoed and nothing else: no table of the host's is indexed by it."""
    guest = siege.guest()
    guest.put(guest.ask(READ, transaction_id))
    assert guest.completion()[:2] == (transaction_id, 0)


@pytest.mark.parametrize("capacity", [1, 16, 64])
def test_h23_a_response_buffer_too_small_is_told_what_is_needed(siege: Siege, capacity: int) -> None:
    """design §3: nothing was executed, nothing is written behind the capacity."""
    guest = siege.guest()
    at = guest.place() + RESPONSE_AT
    guest.memory[at : at + PAGE_BYTES] = b"\xee" * PAGE_BYTES
    guest.put(guest.ask(READ, 1, response_length=capacity))
    _, status, needed = guest.completion()
    assert status == TOO_SMALL
    assert capacity < needed <= 4096
    assert bytes(guest.memory[at : at + PAGE_BYTES]) == b"\xee" * PAGE_BYTES


def test_design_3_a_write_with_too_small_a_response_buffer_is_not_executed(siege: Siege) -> None:
    guest = siege.guest()
    fields = [("x-ms-blob-type", "BlockBlob"), ("content-length", "4")]
    assert guest.status_of(guest.ask("/bystander/never", method="PUT", fields=fields, response_length=64)) == TOO_SMALL
    guest.put(guest.ask("/bystander/never", 2))
    _, _, response_bytes = guest.completion()
    assert guest.response(response_bytes)[0] == 404


def test_design_3_a_data_buffer_that_carries_input_is_never_written(siege: Siege) -> None:
    guest = siege.guest()
    guest.memory[0 : len(SMALL)] = bytes(len(SMALL))
    guest.put(guest.ask(READ, 1, data_valid=1))
    assert guest.completion()[:2] == (1, 0)
    assert bytes(guest.memory[0 : len(SMALL)]) == bytes(len(SMALL))


def test_section_2_3_reserved_bytes_of_garbage_are_ignored(siege: Siege) -> None:
    guest = siege.guest()
    garbage = struct.pack("<I", 0xDEAD_BEEF) + raw.range_header(guest.pfns())[4:] + b"\xff" * 64
    assert guest.status_of(with_header(guest, garbage)) == 0
