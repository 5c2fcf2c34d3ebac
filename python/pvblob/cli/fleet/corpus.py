"""The bytes that are read: seeded random blobs, and the checksum of each of their pages.

A blob's content follows from (seed, index) alone, so the checksums come from what was generated, never from what was
read back. They lie in one file, four bytes a page, so that every client process can check any range without being told.
This module generates and checks; who stores the bytes, and where, is the caller's business.
"""

from __future__ import annotations

import random
import zlib
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Buffer

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
CONTAINER = "fleet"
PAGE_BYTES = 4096
PIECE_BYTES = 64 * MIB


class Corpus(NamedTuple):
    """blob_count blobs of blob_bytes each, a whole number of pages.  checksums: path of the file of checksums."""

    seed: int
    blob_count: int
    blob_bytes: int
    checksums: str

    @property
    def size_bytes(self) -> int:
        """All blobs together."""
        return self.blob_count * self.blob_bytes

    def content(self, blob: int) -> bytes:
        """Generate one blob."""
        if self.blob_bytes <= PIECE_BYTES:
            return random.Random(f"{self.seed}/{blob}").randbytes(self.blob_bytes)
        pieces = range(0, self.blob_bytes, PIECE_BYTES)  # the generator counts bits in a C int
        sizes = [min(PIECE_BYTES, self.blob_bytes - start) for start in pieces]
        made = [random.Random(f"{self.seed}/{blob}/{number}").randbytes(size) for number, size in enumerate(sizes)]
        return b"".join(made)

    def range_count(self, range_bytes: int) -> int:
        """Return how many ranges of that size there are in all blobs; it must divide a blob."""
        return self.blob_count * (self.blob_bytes // range_bytes)

    def place(self, index: int, range_bytes: int) -> tuple[int, int]:
        """Return (blob, offset in bytes) of range *index*."""
        blob, position = divmod(index, self.blob_bytes // range_bytes)
        return blob, position * range_bytes

    def sample(self, range_bytes: int, count: int, *, turn: str) -> list[tuple[int, int]]:
        """Return *count* different places, or all when there are fewer, in an order that *turn* decides."""
        total = self.range_count(range_bytes)
        chosen = random.Random(f"{self.seed}/{turn}").sample(range(total), min(count, total))
        return [self.place(index, range_bytes) for index in chosen]

    def share(self, range_bytes: int, clients: int, number: int, *, turn: str) -> list[tuple[int, int]]:
        """Return client *number*'s share of a shuffle of all places: together they hold each at least once."""
        order = self.sample(range_bytes, self.range_count(range_bytes), turn=turn)
        size = -(-len(order) // clients)
        return [order[(number * size + step) % len(order)] for step in range(size)]


class Checker:
    """Compares ranges with the checksums of what was generated."""

    def __init__(self, corpus: Corpus) -> None:
        self._pages_per_blob = corpus.blob_bytes // PAGE_BYTES
        self._checksums = array("I", Path(corpus.checksums).read_bytes())

    def check(self, content: Buffer, blob: int, offset: int) -> None:
        """Raise ValueError when *content* is not what lies at *offset* (a multiple of the page size) of *blob*."""
        first = blob * self._pages_per_blob + offset // PAGE_BYTES
        for number, found in enumerate(checksums(content)):
            if found != self._checksums[first + number]:
                at = offset + number * PAGE_BYTES
                written = self._checksums[first + number]
                raise ValueError(f"blob {blob} at byte {at}: CRC-32 {found:08x}, written {written:08x}")


def name(blob: int) -> str:
    """Return the name of blob number *blob*."""
    return f"big{blob}.bin"


def checksums(content: Buffer) -> list[int]:
    """Return the CRC-32 of each page."""
    view = memoryview(content).cast("B")
    return [zlib.crc32(view[start : start + PAGE_BYTES]) for start in range(0, view.nbytes, PAGE_BYTES)]
