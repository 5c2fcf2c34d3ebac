"""Whatever a program wants to store, cut into the pieces that are sent: one Put Blob, or Put Block after Put Block.

bytes-like | path | file | iterable of bytes-like (sync or async) → `(piece, is_last)` pairs. A piece is valid until the
next one is asked for: files and iterables fill one block of memory again and again, because a copy into pages that were
touched before runs at twice the speed. This module knows no request and no channel.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer

BLOCK_BYTES = 8 << 20
BLOCKS_MAX = 50_000  # Azure REST, "Put Block List"
BLOCKS_PER_SIZE = 10_000  # then blocks double: 50,000 of them reach 2.4 TiB without the total being known beforehand


class Readable(Protocol):
    """A binary file: `read(size)` returns at most *size* bytes, b"" at the end."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to *size* bytes."""
        ...


class AsyncReadable(Protocol):
    """A binary file whose `read` is a coroutine."""

    async def read(self, size: int = -1, /) -> bytes:
        """Return up to *size* bytes."""
        ...


if TYPE_CHECKING:
    Source = Buffer | os.PathLike[str] | Readable | Iterable[Buffer]
    AsyncSource = Source | AsyncReadable | AsyncIterable[Buffer]
    Piece = tuple[Buffer, bool]


def block_bytes(index: int) -> int:
    """Return the size of block *index* in bytes: 8 MiB, doubling every 10,000 blocks."""
    return BLOCK_BYTES << (index // BLOCKS_PER_SIZE)


class _Assembly:
    """Blocks being filled from chunks of any size."""

    def __init__(self) -> None:
        self._index = 0
        self._block = memoryview(bytearray())
        self._filled = 0

    def space(self) -> memoryview:
        """Return the unfilled part of the current block, never empty."""
        wanted = block_bytes(self._index)
        if self._filled == 0 and len(self._block) != wanted:
            self._block = memoryview(bytearray(wanted))
        return self._block[self._filled :]

    def advance(self, size_bytes: int) -> memoryview | None:
        """Count *size_bytes* as filled; return the block if that completes it."""
        self._filled += size_bytes
        if self._filled < len(self._block):
            return None
        self._index += 1
        self._filled = 0
        return self._block

    def feed(self, chunk: Buffer) -> Iterator[memoryview]:
        """Take *chunk* in and yield every block it completes."""
        rest = memoryview(chunk).cast("B")
        while len(rest):
            space = self.space()
            part = rest[: len(space)]
            space[: len(part)] = part
            rest = rest[len(part) :]
            if (block := self.advance(len(part))) is not None:
                yield block

    def rest(self) -> memoryview:
        """Return what the last, incomplete block holds; possibly nothing."""
        return self._block[: self._filled]


def pieces(data: Source) -> Iterator[Piece]:
    """Yield `(piece, is_last)` for *data*, at least one pair; only the last piece may be empty.

    Raises TypeError for text (which encoding?) and for anything that is none of the accepted kinds.
    """
    if isinstance(data, str):
        raise TypeError(
            "data is text: encode it first, e.g. text.encode('utf-8'), or pass pathlib.Path(...) for a file"
        )
    if isinstance(data, os.PathLike):
        with Path(data).open("rb", buffering=0) as file:
            yield from _from_file(file)
        return
    view = _as_view(data)
    if view is not None:
        yield from _from_view(view)
    elif hasattr(data, "read"):
        yield from _from_file(data)  # type: ignore[arg-type]  # a union narrowed by attribute stays a union
    elif isinstance(data, Iterable):
        assembly = _Assembly()
        for chunk in data:
            for block in assembly.feed(chunk):
                yield block, False
        yield assembly.rest(), True
    else:
        raise TypeError(
            f"data must be bytes-like, a path, a binary file or an iterable of bytes, not {type(data).__name__}"
        )


async def async_pieces(data: AsyncSource) -> AsyncIterator[Piece]:
    """Yield what `pieces` yields, from async iterables and files with an async `read` too.

    Plain files and iterables are read on the event loop's own thread.
    """
    if isinstance(data, AsyncIterable):
        chunks: AsyncIterable[Buffer] = data
    elif inspect.iscoroutinefunction(getattr(data, "read", None)):
        chunks = _read_async(data)  # type: ignore[arg-type]
    else:
        for piece in pieces(data):  # type: ignore[arg-type]
            yield piece
        return
    assembly = _Assembly()
    async for chunk in chunks:
        for block in assembly.feed(chunk):
            yield block, False
    yield assembly.rest(), True


def _as_view(data: object) -> memoryview | None:
    try:
        return memoryview(data).cast("B")  # type: ignore[arg-type]
    except TypeError:
        return None


def _from_view(view: memoryview) -> Iterator[Piece]:
    start, index = 0, 0
    while True:
        end = start + block_bytes(index)
        yield view[start:end], end >= len(view)
        if end >= len(view):
            return
        start, index = end, index + 1


def _from_file(file: Readable) -> Iterator[Piece]:
    assembly = _Assembly()
    while True:
        space = assembly.space()
        count = _read_some(file, space)
        if count == 0:
            yield assembly.rest(), True
            return
        if (block := assembly.advance(count)) is not None:
            yield block, False


def _read_some(file: Readable, space: memoryview) -> int:
    """Fill the beginning of *space* from *file*; return the bytes placed, 0 at its end."""
    if hasattr(file, "readinto"):
        count = file.readinto(space)
        if count is None:
            raise BlockingIOError("the file is non-blocking and has no bytes now: pass a blocking file")
        return int(count)
    chunk = file.read(min(len(space), 1 << 20))
    if isinstance(chunk, str):
        raise TypeError("the file is open in text mode: open it in binary mode ('rb')")
    space[: len(chunk)] = chunk
    return len(chunk)


async def _read_async(file: AsyncReadable) -> AsyncIterator[bytes]:
    while chunk := await file.read(1 << 20):
        yield chunk
