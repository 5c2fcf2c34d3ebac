"""Limits in the offer and user data of OPEN: layout, growth, nonsense. Source: docs/wire-protocol.md."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvblob.errors import LocalProtocolError, RemoteProtocolError
from pvblob.vmbus import layout
from pvblob.vmbus.user_data import DeviceLimits, Features, OpenUserData

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "messages.json").read_text())["user_data"]
LAYOUTS: dict[str, Any] = {"DeviceLimits": DeviceLimits, "OpenUserData": OpenUserData}
LIMITS = DeviceLimits(1024, 32768, 600_000, 1 << 30, 256, host_software="pvblob")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["layout"])
def test_user_data_has_the_golden_bytes(vector: dict[str, Any]) -> None:
    fields = dict(vector["fields"])
    if "nonce" in fields:
        fields["nonce"] = bytes.fromhex(fields["nonce"])
    value = LAYOUTS[vector["layout"]](**fields)
    assert value.encode().hex() == vector["hex"]
    assert type(value).decode(bytes.fromhex(vector["hex"])) == value


@pytest.mark.parametrize("cls", LAYOUTS.values())
def test_the_fields_of_user_data_neither_overlap_nor_pass_120_bytes(cls: type) -> None:
    spans = sorted((placed.offset, placed.offset + (placed.size or 0)) for _, placed in layout.placed_fields(cls))
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    assert spans[-1][1] <= 120


@given(st.binary(min_size=120, max_size=120))
def test_random_user_data_is_a_value_or_a_remote_error(data: bytes) -> None:
    opened = OpenUserData.decode(data)
    assert OpenUserData.decode(opened.encode()) == opened
    assert opened.client_name.isprintable()
    try:
        limits = DeviceLimits.decode(data)
    except RemoteProtocolError:
        return
    assert DeviceLimits.decode(limits.encode()) == limits


@pytest.mark.parametrize("cls", LAYOUTS.values())
@pytest.mark.parametrize("length", [0, 119, 121])
def test_user_data_of_another_length_is_refused(cls: Any, length: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"{length} bytes"):
        cls.decode(bytes(length))


def test_a_newer_layout_is_read_as_ours() -> None:
    """W-16: layouts only grow."""
    newer = bytearray(LIMITS.encode())
    newer[0] = 9
    newer[100:120] = b"\xff" * 20
    read = DeviceLimits.decode(bytes(newer))
    assert read.layout_version == 9
    assert (read.requests_in_flight_max, read.host_software) == (1024, "pvblob")


def test_features_are_bits_and_unknown_ones_are_kept() -> None:
    """W-17."""
    limits = DeviceLimits(1, 1, 1, 4096, 1, features=Features.CANCEL_PACKETS | Features.CONTINUATION | 0x8000)
    read = Features(DeviceLimits.decode(limits.encode()).features)
    assert Features.CONTINUATION in read
    assert Features.CONNECTOR_DIALECT not in read
    assert read & 0x8000


@pytest.mark.parametrize(
    ("offset", "value", "named"),
    [
        (0, b"\0\0", "layout version 0"),
        (4, b"\2\0\1\0", "2 to 1"),
        (8, bytes(4), "requests_in_flight_max"),
        (12, bytes(4), "request_bytes_max"),
        (24, bytes(8), "lent_bytes_max"),
        (32, bytes(4), "regions_max"),
    ],
)
def test_limits_that_cannot_be_are_refused_by_name(offset: int, value: bytes, named: str) -> None:
    wrong = bytearray(LIMITS.encode())
    wrong[offset : offset + len(value)] = value
    with pytest.raises(RemoteProtocolError, match=named):
        DeviceLimits.decode(bytes(wrong))


@pytest.mark.parametrize("name", ["x" * 65, "é" * 33, "a\nb"])
def test_a_client_name_that_does_not_fit_is_our_error(name: str) -> None:
    with pytest.raises(LocalProtocolError, match="client_name"):
        OpenUserData(bytes(16), 1, name).encode()


def test_a_nonce_has_sixteen_bytes() -> None:
    with pytest.raises(LocalProtocolError, match="nonce"):
        OpenUserData(bytes(15)).encode()
