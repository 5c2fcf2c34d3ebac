"""The golden vectors of tests/vectors/ring.json, read by the ring of these tests: cargo reads the same with ours."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.faults.ring import GPA_DIRECT, PAGE_BYTES, READ_INDEX, WRITE_INDEX, Ring, RingError, packet, range_header

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "ring.json").read_text("utf-8"))


def named(section: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS[section]]


def ring(data_bytes: int, start: int = 0) -> Ring:
    return Ring(memoryview(bytearray(PAGE_BYTES + data_bytes)), start)


def packet_of(meaning: dict[str, Any]) -> bytes:
    payload, header = bytes.fromhex(meaning["payload"]), b""
    if meaning["type"] == GPA_DIRECT:
        header = range_header(meaning["pfns"], meaning["byte_count"], meaning["byte_offset"])
    return packet(meaning["type"], meaning["transaction_id"], payload, header=header, flags=meaning["flags"])


@pytest.mark.parametrize("vector", named("packets"))
def test_a_packet_is_written_byte_for_byte(vector: dict[str, Any]) -> None:
    """spec/vmbus.md §7."""
    one = ring(vector["data_size"], vector["start"])
    one.set_word(WRITE_INDEX, vector["start"])
    one.set_word(READ_INDEX, vector.get("read_index", vector["start"]))
    one.write(packet_of(vector["packet"]))
    assert one.commit() is vector["signal"]
    assert one.word(WRITE_INDEX) == vector["write_index_after"]
    for piece in vector["ring"]:
        expected = bytes.fromhex(piece["hex"])
        assert one.take_raw(piece["at"], len(expected)) == expected


@pytest.mark.parametrize("vector", named("packets"))
def test_a_packet_is_understood(vector: dict[str, Any]) -> None:
    """spec/vmbus.md §7; the trailer is accounted for."""
    one = ring(vector["data_size"], vector["start"])
    for piece in vector["ring"]:
        one.put_raw(piece["at"], bytes.fromhex(piece["hex"]))
    one.set_word(WRITE_INDEX, vector["write_index_after"])
    taken, meaning = one.take(), vector["packet"]
    assert taken is not None
    assert (taken.kind, taken.flags, taken.transaction_id) == (
        meaning["type"],
        meaning["flags"],
        meaning["transaction_id"],
    )
    payload = bytes.fromhex(meaning["payload"])
    assert taken.payload == payload.ljust(-(-len(payload) // 8) * 8, b"\0")
    if meaning["type"] == GPA_DIRECT:
        assert taken.header == range_header(meaning["pfns"], meaning["byte_count"], meaning["byte_offset"])
    assert one.take() is None
    assert one.word(READ_INDEX) == vector["write_index_after"]


@pytest.mark.parametrize("vector", named("refused"))
@pytest.mark.parametrize("start", [0, PAGE_BYTES - 8], ids=["at the start", "across the end"])
def test_a_packet_that_cannot_be_is_refused(vector: dict[str, Any], start: int) -> None:
    """H5, H6."""
    one = ring(PAGE_BYTES, start)
    one.put_raw(start, bytes.fromhex(vector["hex"]))
    one.set_word(WRITE_INDEX, (start + vector["available"]) % PAGE_BYTES)
    with pytest.raises(RingError) as refused:
        one.take()
    assert refused.value.name == vector["error"]


@pytest.mark.parametrize("vector", named("numbers"))
def test_the_largest_request_has_the_stated_numbers(vector: dict[str, Any]) -> None:
    """spec/vmbus.md §7, last line."""
    whole = packet(GPA_DIRECT, 1, bytes(vector["payload_bytes"]), header=range_header(range(vector["pages"])), flags=1)
    assert len(whole) == vector["packet_bytes"]
    assert struct.unpack_from("<HH", whole, 2) == (vector["offset8"], vector["length8"])
