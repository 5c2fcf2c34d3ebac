"""Typed face of the compiled data plane (crates/python). It converts and moves bytes; it decides nothing.

Every function that copies bulk data or waits releases the GIL. `Buffer` is anything with the buffer protocol.
"""

from collections.abc import Sequence
from typing import final

from typing_extensions import Buffer

FieldPairs = list[tuple[str, str]]

# ---- RFC 9292, known-length messages (blobdev::bhttp) ----

def encode_request(
    method: str, scheme: str, authority: str, path: str, fields: Sequence[tuple[str, str]], content: Buffer
) -> bytes:
    """Encode a known-length request (framing 0). Text is ISO 8859-1; names are lowered. ValueError: over a bound."""

def decode_request(message: Buffer) -> tuple[str, str, str, str, FieldPairs, bytes]:
    """Decode (method, scheme, authority, path, fields, content). ValueError names the broken rule."""

def encode_response(status: int, fields: Sequence[tuple[str, str]], content: Buffer) -> bytes:
    """Encode a known-length response (framing 1)."""

def decode_response(message: Buffer) -> tuple[int, FieldPairs, bytes]:
    """Decode (status, fields, content). ValueError names the broken rule."""

# ---- bytes in files (blobdev::extents) ----

def crc64(data: Buffer, initial: int = 0) -> int:
    """Return the CRC-64/NVME of *data*; *initial* continues an earlier value."""

def store_bytes(data: Buffer, fd: int, offset: int, md5: bool) -> tuple[int, bytes | None]:
    """Write all of *data* to *fd* at *offset*; return (CRC-64/NVME, MD5 or None). OSError as from pwrite(2)."""

def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the file system back these bytes; the file's size stays. OSError as from fallocate(2)."""
