"""The blocks of append blobs: one row of the catalog for each append, found by stream and the offset at which it ends.

A stream is what an append blob's bytes are called from its creation to its end: the blob's row names it, and with
`size` how much of it is committed. So an append writes one row, however many there are, and a reader that has seen some
of a stream fetches only what came since. Streams only grow, and no number is used twice.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from pvblob.blobs.layout import Block

CACHED_BLOCKS_MAX = 200_000

_BLOCK = "segment, offset, length, crc64"


def append(connection: sqlite3.Connection, stream: int, ends: int, block: Block) -> None:
    """Add a block that ends at byte *ends* of its blob."""
    connection.execute(
        "INSERT INTO appended VALUES (?,?,?,?,?,?)",
        (stream, ends, block.segment, block.offset, block.length, block.crc64.to_bytes(8, "little")),
    )


def extend(connection: sqlite3.Connection, stream: int, blocks: Sequence[Block]) -> None:
    """Begin a stream with *blocks*."""
    ends = 0
    for block in blocks:
        ends += block.length
        append(connection, stream, ends, block)


def delete(connection: sqlite3.Connection, stream: int) -> list[Block]:
    """Delete a stream; return its blocks, which nothing refers to any more."""
    blocks = [block for _, block in _after(connection, stream, 0)]
    connection.execute("DELETE FROM appended WHERE stream = ?", (stream,))
    return blocks


def every_block(connection: sqlite3.Connection) -> Iterator[tuple[int, Block]]:
    """Yield (stream, block) of every stream."""
    for stream, *row in connection.execute(f"SELECT stream, {_BLOCK} FROM appended"):
        yield stream, _block(row)


def _after(connection: sqlite3.Connection, stream: int, ends: int) -> Iterator[tuple[int, Block]]:
    query = f"SELECT ends, {_BLOCK} FROM appended WHERE stream = ? AND ends > ? ORDER BY ends"
    for place, *row in connection.execute(query, (stream, ends)):
        yield place, _block(row)


def _block(row: Sequence[int | bytes]) -> Block:
    segment, offset, length, crc64 = row
    assert isinstance(crc64, bytes)
    return Block(int(segment), int(offset), int(length), int.from_bytes(crc64, "little"))


class StreamCache:
    """The blocks of recently read streams, used on one thread. What it gives out grows when it is asked again."""

    def __init__(self, blocks_max: int = CACHED_BLOCKS_MAX) -> None:
        self._streams: OrderedDict[int, tuple[list[Block], list[int]]] = OrderedDict()
        self._count = 0
        self._blocks_max = blocks_max

    def blocks(self, connection: sqlite3.Connection, stream: int, size: int) -> tuple[list[Block], list[int]] | None:
        """Return the blocks of a stream to byte *size* or beyond, and where each ends; None: it is gone."""
        found = self._streams.pop(stream, None) or ([], [])
        blocks, ends = found
        if size > (ends[-1] if ends else 0):
            for place, block in _after(connection, stream, ends[-1] if ends else 0):
                blocks.append(block)
                ends.append(place)
                self._count += 1
        if size > (ends[-1] if ends else 0):
            self._count -= len(blocks)
            return None
        self._streams[stream] = found
        while self._count > self._blocks_max and len(self._streams) > 1:
            _, (dropped, _) = self._streams.popitem(last=False)
            self._count -= len(dropped)
        return found
