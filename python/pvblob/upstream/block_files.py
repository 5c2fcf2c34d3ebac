"""A block's file: its bytes, whose they are, and a trailer by which both are checked.

Layout: the bytes; the label (account, container, blob name, each ended or begun by a zero byte); a trailer with the
lengths of both, the CRC-64/NVME over both, and the digest that the file is named by. A file is written under another
name and renamed when it is complete.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from pathlib import Path
from typing import NamedTuple

from pvblob import _native

BLOCK_BYTES = 4 << 20
_MAGIC = b"pvblobC2"
_TRAILER = struct.Struct("<8sQQQ32s")  # magic, length, length of the label, crc, digest of the name
_LABEL_BYTES_MAX = 8192
_CHECK_STEP_BYTES = 1 << 20


class Label(NamedTuple):
    """Whose bytes a block holds."""

    account: str
    container: str
    blob: bytes

    def encoded(self) -> bytes:
        """Return it as it stands in the file. Account and container have no zero byte."""
        return b"\0".join((self.account.encode(), self.container.encode(), self.blob))

    @classmethod
    def decoded(cls, data: bytes) -> Label | None:
        """Return the label that *data* is, or None."""
        account, _, rest = data.partition(b"\0")
        container, zero, blob = rest.partition(b"\0")
        try:
            return cls(account.decode(), container.decode(), blob) if zero else None
        except UnicodeDecodeError:
            return None


class BlockKey(NamedTuple):
    """Names one block: *number* counts blocks of BLOCK_BYTES of the version *etag*."""

    label: Label
    etag: str
    number: int

    @property
    def name(self) -> str:
        """Its file's name: the same for the same block, in every process."""
        return hashlib.sha256(repr((*self.label, self.etag, self.number)).encode()).hexdigest()


def file_bytes(key: BlockKey, length: int) -> int:
    """Return the size of the file of a block of *length* bytes."""
    return length + len(key.label.encoded()) + _TRAILER.size


def seal(fd: int, key: BlockKey, length: int) -> None:
    """Write label and trailer behind the *length* bytes in *fd*. Raises OSError."""
    crc = _crc(fd, length)
    if crc is None:
        raise OSError(errno.EIO, "a block is shorter than what was written to it")
    label = key.label.encoded()
    trailer = _TRAILER.pack(_MAGIC, length, len(label), _native.crc64(label, crc), bytes.fromhex(key.name))
    os.pwrite(fd, label + trailer, length)


def is_right(fd: int, key: BlockKey, length: int) -> bool:
    """Say whether *fd* is the complete and unchanged file of the block; reads all of it."""
    label = key.label.encoded()
    try:
        tail = os.pread(fd, len(label) + _TRAILER.size + 1, length)
        crc = _crc(fd, length)
    except OSError:
        return False
    if crc is None:
        return False
    expected = _TRAILER.pack(_MAGIC, length, len(label), _native.crc64(label, crc), bytes.fromhex(key.name))
    return tail == label + expected


def read_label(path: Path) -> Label | None:
    """Return the label of the file, or None when it is no block's. Its bytes are not checked."""
    try:
        with path.open("rb", buffering=0) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            tail = os.pread(file.fileno(), _TRAILER.size, max(0, size_bytes - _TRAILER.size))
            if len(tail) != _TRAILER.size:
                return None
            magic, length, label_bytes, _, digest = _TRAILER.unpack(tail)
            whole = length + label_bytes + _TRAILER.size == size_bytes and label_bytes <= _LABEL_BYTES_MAX
            if magic != _MAGIC or not whole or digest.hex() != path.name:
                return None
            return Label.decoded(os.pread(file.fileno(), label_bytes, length))
    except OSError:
        return None


def _crc(fd: int, length: int) -> int | None:
    crc, offset = 0, 0
    while offset < length:
        data = os.pread(fd, min(_CHECK_STEP_BYTES, length - offset), offset)
        if not data:
            return None
        crc = _native.crc64(data, crc)
        offset += len(data)
    return crc
