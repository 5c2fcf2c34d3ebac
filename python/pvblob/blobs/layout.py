"""A blob's committed layout: which runs of which segments hold its bytes, packed into one catalog column.

`pack` and `unpack` are inverse; `slices` cuts a byte range out of a layout by bisection. Nothing here opens a file.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple


class Block(NamedTuple):
    """One stored run: segment number, offset and length in bytes, CRC-64/NVME, block id (empty: Put Blob)."""

    segment: int
    offset: int
    length: int
    crc64: int
    id: bytes = b""


class Slice(NamedTuple):
    """A part of a block: skip bytes from its start, then length bytes."""

    block: Block
    skip: int
    length: int


def pack(blocks: Sequence[Block]) -> bytes:
    """Pack blocks: one byte, the length of every block id, then one record each."""
    if not blocks:
        return b""
    id_length = len(blocks[0].id)
    record = struct.Struct(f"<IQQQ{id_length}s")
    return bytes((id_length,)) + b"".join([record.pack(*block) for block in blocks])


def unpack(packed: bytes) -> list[Block]:
    """Invert `pack`. ValueError: these bytes are no layout."""
    if not packed:
        return []
    try:
        return [Block._make(parts) for parts in struct.iter_unpack(f"<IQQQ{packed[0]}s", memoryview(packed)[1:])]
    except struct.error as error:
        raise ValueError(f"a layout of {len(packed)} bytes cannot hold ids of {packed[0]} bytes") from error


def ends(blocks: Sequence[Block]) -> list[int]:
    """Return the offset in the blob at which each block ends: what `slices` bisects."""
    return list(accumulate(block.length for block in blocks))


def slices(blocks: Sequence[Block], block_ends: Sequence[int], offset: int, length: int) -> list[Slice]:
    """Cut the bytes [offset, offset + length) of the blob into parts of blocks, in order."""
    found: list[Slice] = []
    index = bisect_right(block_ends, offset)
    while length > 0:
        block = blocks[index]
        skip = offset - (block_ends[index] - block.length)
        taken = min(block.length - skip, length)
        found.append(Slice(block, skip, taken))
        offset += taken
        length -= taken
        index += 1
    return found
