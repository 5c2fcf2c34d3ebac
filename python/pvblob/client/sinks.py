"""Where the bytes of an answer go: private `bytes`, a buffer of the program's, or lent pages where they stay (which may
be registered memory of the program's).

A conversation asks a sink for the lent buffer of each piece and gives it back filled. Sinks that copy have two buffers:
one is copied out while the host fills the other, and both stay warm. Knows no packet.
"""

from __future__ import annotations

from pvblob import _native
from pvblob.client.steps import attach, lend, lend_if_possible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from pvblob.client.steps import Steps
    from pvblob.http_request import Fields
    from pvblob.vsc.registration import Placed
else:
    Protocol = object

PIECE_BYTES_MIN = 256 << 10


class Answer:
    """The service's answer.

    status: HTTP status.  fields: lower-case names, those of the channel removed (METADATA_NAMES is the answer's).
    content: the body as private bytes, or b"" when it went into the caller's buffer or the view.  written: bytes placed
    there.
    view: read-only view of lent pages; they go back when the last view is dropped.
    """

    __slots__ = ("content", "fields", "status", "view", "written")

    def __init__(
        self, status: int, fields: Fields, content: bytes = b"", written: int = 0, view: memoryview | None = None
    ) -> None:
        self.status = status
        self.fields = fields
        self.content = content
        self.written = written
        self.view = view


class Sink(Protocol):
    """Where the bytes of an answer go: piece by piece, each into a lent buffer it provides and then takes back."""

    def buffer(self, size_bytes: int, at: int) -> Steps[_native.LentBuffer]:
        """Provide the buffer for the next piece, of at most *size_bytes*, which begins at byte *at* of the answer."""

    def second_buffer(self, size_bytes: int, at: int) -> Steps[_native.LentBuffer | None]:
        """Do the same while the piece before it has not been taken yet. None: there is no memory for a second one."""

    def expect(self, total_bytes: int) -> None:
        """Learn the answer's whole length, once, before the first `take`. Raises ValueError when it cannot fit."""

    def take(self, data: _native.LentBuffer, length: int) -> None:
        """Take over the first *length* bytes of *data*, the piece whose buffer was provided first."""

    def finish(self, status: int, fields: Fields) -> Answer:
        """Return the answer, all pieces taken."""


class _TwoBuffers:
    """Two lent buffers by turns, the second one lent at its first use."""

    def __init__(self) -> None:
        self._last: _native.LentBuffer | None = None
        self._other: _native.LentBuffer | None = None

    def buffer(self, size_bytes: int, at: int) -> Steps[_native.LentBuffer]:
        """Provide the buffer used last, whose piece is taken."""
        if self._last is None:
            self._last = yield from lend(size_bytes, min(size_bytes, PIECE_BYTES_MIN))
        return self._last.slice(0, min(size_bytes, len(self._last)))

    def second_buffer(self, size_bytes: int, at: int) -> Steps[_native.LentBuffer | None]:
        """Provide the other buffer."""
        if self._other is None:
            self._other = yield from lend_if_possible(size_bytes)
            if self._other is None:
                return None
        self._last, self._other = self._other, self._last
        return self._last.slice(0, min(size_bytes, len(self._last)))


class BytesSink(_TwoBuffers):
    """Collects an answer as one `bytes`, copied once out of lent pages."""

    def __init__(self) -> None:
        super().__init__()
        self._content: _native.BytesBuilder | None = None

    def expect(self, total_bytes: int) -> None:
        """Any length will do."""
        self._content = _native.BytesBuilder(total_bytes)

    def take(self, data: _native.LentBuffer, length: int) -> None:
        """Copy the piece behind those before it."""
        assert self._content is not None, "expect comes first"
        self._content.add(data, length)

    def finish(self, status: int, fields: Fields) -> Answer:
        """Return the whole content."""
        return Answer(status, fields, self._content.finish() if self._content is not None else b"")


class BufferSink(_TwoBuffers):
    """Copies an answer into a buffer of the caller's own."""

    def __init__(self, out: memoryview) -> None:
        super().__init__()
        self._out = out
        self._written = 0

    def expect(self, total_bytes: int) -> None:
        """The buffer must hold the whole answer."""
        if total_bytes > len(self._out):
            raise ValueError(f"the answer has {total_bytes} bytes, the buffer holds {len(self._out)}")

    def take(self, data: _native.LentBuffer, length: int) -> None:
        """Copy the piece out."""
        data.copy_to(self._out[self._written : self._written + length], length)
        self._written += length

    def finish(self, status: int, fields: Fields) -> Answer:
        """Report how much was written."""
        return Answer(status, fields, b"", self._written)


class LentSink:
    """Places an answer in one lent buffer, where it stays: no copy. `into` is lent at first need when None."""

    def __init__(self, into: _native.LentBuffer | None, size_bytes_max: int) -> None:
        self._into = into
        self._size_bytes_max = size_bytes_max
        self._written = 0

    def buffer(self, size_bytes: int, at: int) -> Steps[_native.LentBuffer]:
        """Provide the slice of the one buffer where the piece belongs."""
        if self._into is None:
            self._into = yield from lend(max(self._size_bytes_max, 1))
        return self._into.slice(at, min(size_bytes, len(self._into) - at))

    def second_buffer(self, size_bytes: int, at: int) -> Steps[_native.LentBuffer | None]:
        """Do the same: the pieces do not overlap."""
        return (yield from self.buffer(size_bytes, at))

    def expect(self, total_bytes: int) -> None:
        """The buffer must hold the whole answer."""
        if total_bytes > self._size_bytes_max:
            raise ValueError(f"the answer has {total_bytes} bytes, the buffer holds {self._size_bytes_max}")

    def take(self, data: _native.LentBuffer, length: int) -> None:
        """The bytes lie where they belong already."""
        self._written += length

    def finish(self, status: int, fields: Fields) -> Answer:
        """Return a read-only view of what was written."""
        view = memoryview(self._into)[: self._written].toreadonly() if self._into is not None else memoryview(b"")
        return Answer(status, fields, b"", self._written, view)


class RegisteredSink:
    """Places an answer in registered memory of the program's; where the connection cannot have it, copies it there."""

    def __init__(self, out: memoryview, placed: Placed) -> None:
        self._out = out
        self._placed = placed
        self._sink: Sink | None = None

    def buffer(self, size_bytes: int, at: int) -> Steps[_native.LentBuffer]:
        """Provide the part of the memory where the piece belongs."""
        if self._sink is None:
            attached = yield from attach(self._placed)
            self._sink = BufferSink(self._out) if attached is None else LentSink(attached, len(attached))
        return (yield from self._sink.buffer(size_bytes, at))

    def second_buffer(self, size_bytes: int, at: int) -> Steps[_native.LentBuffer | None]:
        """Do the same for the next piece."""
        assert self._sink is not None, "buffer comes first"
        return (yield from self._sink.second_buffer(size_bytes, at))

    def expect(self, total_bytes: int) -> None:
        """The memory must hold the whole answer."""
        if self._sink is not None:
            self._sink.expect(total_bytes)

    def take(self, data: _native.LentBuffer, length: int) -> None:
        """Take over a piece."""
        assert self._sink is not None, "buffer comes first"
        self._sink.take(data, length)

    def finish(self, status: int, fields: Fields) -> Answer:
        """Report how much was written; no view, which would keep the memory lent after `deregister`."""
        return Answer(status, fields, b"", 0 if self._sink is None else self._sink.finish(status, fields).written)
