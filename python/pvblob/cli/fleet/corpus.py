"""The bytes that are read: seeded random blobs, their ranges, and the checksum of every range.

A blob's content follows from (seed, index) alone, so the checksums come from what was generated, never from what was
read back. This module generates; who stores the bytes, and where, is the caller's business.
"""

from __future__ import annotations

import random
import zlib
from typing import NamedTuple

MIB = 1 << 20
GIB = 1 << 30
CONTAINER = "fleet"


class Corpus(NamedTuple):
    """blob_count blobs of blob_bytes each, read in ranges of range_bytes, which divides blob_bytes."""

    seed: int
    blob_count: int
    blob_bytes: int
    range_bytes: int

    @property
    def range_count(self) -> int:
        """How many ranges there are in all."""
        return self.blob_count * (self.blob_bytes // self.range_bytes)

    @property
    def size_bytes(self) -> int:
        """All blobs together."""
        return self.blob_count * self.blob_bytes

    def content(self, blob: int) -> bytes:
        """Generate one blob."""
        return random.Random(f"{self.seed}/{blob}").randbytes(self.blob_bytes)

    def place(self, index: int) -> tuple[int, int]:
        """Return (blob, offset in bytes) of range *index*."""
        blob, position = divmod(index, self.blob_bytes // self.range_bytes)
        return blob, position * self.range_bytes

    def order(self, round_number: int) -> list[int]:
        """Return the ranges in the order of one round: shuffled anew each round, the same for every path."""
        indices = list(range(self.range_count))
        random.Random(f"{self.seed}/round {round_number}").shuffle(indices)
        return indices


def name(blob: int) -> str:
    """Return the name of blob number *blob*."""
    return f"big{blob}.bin"


def checksums(content: bytes, range_bytes: int) -> list[int]:
    """Return the CRC-32 of each range of one blob."""
    view = memoryview(content)
    return [zlib.crc32(view[start : start + range_bytes]) for start in range(0, len(content), range_bytes)]
