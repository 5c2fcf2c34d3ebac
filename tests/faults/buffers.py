"""The device's 56 bytes and RFC 9292 messages, by hand: what a raw guest puts into its buffers and reads from them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

AUTHORITY = "devstoreaccount1.blob.core.windows.net"


def varint(value: int) -> bytes:
    """Encode a variable-length integer (RFC 9000 §16), the shortest form."""
    for size_log, prefix in ((0, 0), (1, 0x40), (2, 0x80), (3, 0xC0)):
        size = 1 << size_log
        if value < 1 << (8 * size - 2):
            encoded = bytearray(value.to_bytes(size, "big"))
            encoded[0] |= prefix
            return bytes(encoded)
    raise ValueError(value)


def vector(data: bytes) -> bytes:
    """Encode bytes with their length in front."""
    return varint(len(data)) + data


def bhttp_request(
    method: str,
    target: str,
    fields: Iterable[tuple[str, str]] = (),
    content: bytes = b"",
    *,
    authority: str = AUTHORITY,
) -> bytes:
    """Encode a known-length request (RFC 9292 §3.2); nothing is checked."""
    control = b"".join(vector(part.encode("latin-1")) for part in (method, "https", authority, target))
    section = b"".join(vector(name.encode("latin-1")) + vector(value.encode("latin-1")) for name, value in fields)
    return varint(0) + control + vector(section) + vector(content) + varint(0)


def _integer(data: bytes, at: int) -> tuple[int, int]:
    size = 1 << (data[at] >> 6)
    value = int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1)
    return value, at + size


def _vector(data: bytes, at: int) -> tuple[bytes, int]:
    length, at = _integer(data, at)
    assert at + length <= len(data)
    return data[at : at + length], at + length


def read_response(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Decode a known-length response: (status, fields, content)."""
    framing, at = _integer(data, 0)
    assert framing == 1
    status, at = _integer(data, at)
    section, at = _vector(data, at)
    content, _ = _vector(data, at)
    fields, inner = {}, 0
    while inner < len(section):
        name, inner = _vector(section, inner)
        value, inner = _vector(section, inner)
        fields[name.decode("latin-1")] = value.decode("latin-1")
    return status, fields, content


def device_request(
    places: tuple[int, int, int],
    *,
    request_offset: int | None = None,
    request_length: int = 0,
    version: int = 0,
    timeout_ms: int = 20_000,
    data_offset: int = 0,
    data_length: int | None = None,
    data_valid: int = 0,
    operation: int = 0x100,
    response_offset: int | None = None,
    response_length: int | None = None,
    guid: bytes | None = None,
) -> bytes:
    """Return the 56 bytes. places: bytes of the buffers data, request, response, which follow each other.

    Every field may be replaced by a lie; what is not given is what the places say.
    """
    request_at, response_at = places[0], places[0] + places[1]
    return struct.pack(
        "<10I16s",
        version,
        timeout_ms,
        data_offset,
        places[0] if data_length is None else data_length,
        data_valid,
        operation,
        request_at if request_offset is None else request_offset,
        request_length,
        response_at if response_offset is None else response_offset,
        places[2] if response_length is None else response_length,
        os.urandom(16) if guid is None else guid,
    )
