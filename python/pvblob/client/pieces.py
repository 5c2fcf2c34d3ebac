"""The pieces of an upload, one packet each: slices of memory that is lent already, or pages that a source fills.

Two buffers are filled by turns, so that the next piece is ready when the host has stored the one before. Where memory
is short there is one, and then no piece is ready ahead.
"""

from __future__ import annotations

from pvblob.client.steps import fill, lend, lend_if_possible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from pvblob import _native
    from pvblob.client.steps import Steps

    Piece = tuple[_native.LentBuffer, int]
else:
    Protocol = object

PIECE_BYTES_MIN = 256 << 10


class Pieces(Protocol):
    """A body in order. A piece is a buffer and how many bytes of it count."""

    def next(self) -> Steps[Piece]:
        """Return the next piece; the host has let go of the one before."""

    def ahead(self) -> Steps[Piece | None]:
        """Return the next piece while the host still has the one before; None: call `next` later."""


class Slices:
    """A body that lies in lent memory, in pieces of *piece_bytes*."""

    def __init__(self, lent: _native.LentBuffer, piece_bytes: int) -> None:
        self._lent = lent
        self._piece_bytes = piece_bytes
        self._at = 0

    def next(self) -> Steps[Piece]:
        """Return the next slice."""
        yield from ()
        length = min(self._piece_bytes, len(self._lent) - self._at)
        piece = self._lent.slice(self._at, length)
        self._at += length
        return piece, length

    def ahead(self) -> Steps[Piece | None]:
        """Return the next slice: it disturbs no other."""
        return (yield from self.next())


class Filled:
    """A body of *size_bytes* that the driver's source gives, in pieces of at most *piece_bytes*."""

    def __init__(self, size_bytes: int, piece_bytes: int) -> None:
        self._left_bytes = size_bytes
        self._piece_bytes = min(piece_bytes, size_bytes)
        self._busy: _native.LentBuffer | None = None
        self._idle: _native.LentBuffer | None = None
        self._second_refused = False

    def next(self) -> Steps[Piece]:
        """Fill the buffer that is there."""
        if self._busy is None:
            self._busy = yield from lend(self._piece_bytes, min(self._piece_bytes, PIECE_BYTES_MIN))
        return (yield from self._fill(self._busy))

    def ahead(self) -> Steps[Piece | None]:
        """Fill the other buffer, lent at its first use."""
        if self._idle is None and not self._second_refused:
            self._idle = yield from lend_if_possible(min(self._piece_bytes, self._left_bytes))
            self._second_refused = self._idle is None
        if self._idle is None:
            return None
        self._busy, self._idle = self._idle, self._busy
        return (yield from self._fill(self._busy))

    def _fill(self, buffer: _native.LentBuffer) -> Steps[Piece]:
        length = yield from fill(memoryview(buffer)[: min(len(buffer), self._left_bytes)])
        self._left_bytes -= length
        return buffer, length
