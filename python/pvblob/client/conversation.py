"""One REST request as a conversation with the host: which packets, in which order, into which buffers. Sans-I/O.

`converse` is a generator: it yields `Lend` (I need pages) and `Transact` (send these buffers), is sent a LentBuffer
or an Outcome, and returns the Answer. It knows design rule 6 (bodies bigger than a packet travel in pieces of one
GUID) and where content lies; it waits for nothing, so the blocking and the asyncio Exchange drive the same code.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from pvblob import _native
from pvblob.errors import RemoteProtocolError
from pvblob.http import METADATA_NAMES, ByteRange, Fields, Request
from pvblob.vsc.status import INSUFFICIENT_BUFFER, raise_for_status

if TYPE_CHECKING:
    from typing_extensions import Buffer

# One packet carries at most this much content. Larger packets gain nothing (baseline.md, point 6), and this keeps the
# PFN list at 16 KiB, so several packets fit the ring at once.
PIECE_BYTES = 8 << 20
# Pages for an answer of unknown length that is no blob: a listing's page. Untouched pages cost nothing.
DOCUMENT_BYTES = 1 << 20
# Up to here the pieces of one answer stay in lent pages and are joined once; beyond, each is copied out as it comes.
JOINED_BYTES_MAX = 64 << 20

REQUEST_BYTES = 4096
RESPONSE_BYTES = 16384


@dataclass(slots=True)
class Answer:
    """The service's answer.

    status: HTTP status.  fields: lower-case names, those of the channel removed (METADATA_NAMES is the answer's).
    content: the body as private bytes, or b"" when it went into the caller's buffer or the view.  written: bytes placed
    there.
    view: read-only view of lent pages; they go back when the last view is dropped.
    """

    status: int
    fields: Fields
    content: bytes = b""
    written: int = 0
    view: memoryview | None = None


@dataclass(slots=True)
class Lend:
    """A step: lend pages. The answer is a LentBuffer of `size_bytes`, or of fewer but at least `size_bytes_min`."""

    size_bytes: int
    size_bytes_min: int


@dataclass(slots=True)
class Transact:
    """A step: send one packet and wait for its completion. The answer is (device status, response bytes)."""

    request: _native.LentBuffer
    response: _native.LentBuffer
    data: _native.LentBuffer | None
    data_valid: int
    guid: bytes


@dataclass(slots=True)
class Fill:
    """A step: give me the next bytes of the source, at most `into`'s length. The answer is the number of bytes."""

    into: memoryview


Step: TypeAlias = "Lend | Transact | Fill"
Conversation: TypeAlias = Generator[Step, object, Answer]


@dataclass(slots=True)
class Packet:
    """The head of one packet: where the request message is written and the response is read."""

    request: Request
    guid: bytes
    resubmission: bool
    envelope: _native.LentBuffer

    def send(
        self, data: _native.LentBuffer | None, data_valid: int, control: tuple[tuple[str, str], ...] = ()
    ) -> Generator[Step, object, tuple[int, list[tuple[str, str]], bytes]]:
        """Transact once and decode the answer; a larger envelope is lent when the head or the answer needs it."""
        request = self.request
        if self.resubmission:
            control = (*control, ("pvblob-resubmission", "1"))
        pairs = [*request.fields.pairs(), *control] if control else request.fields.pairs()
        while True:
            room = len(self.envelope) - RESPONSE_BYTES
            length = self.envelope.write_request(
                request.method, request.scheme, request.authority, request.target, pairs, room
            )
            if length > room:
                self.envelope = yield from _lend(_pages(length) + RESPONSE_BYTES)
                continue
            at = _pages(length)
            response = self.envelope.slice(at, len(self.envelope) - at)
            status, response_length = yield from _transact(
                Transact(self.envelope.slice(0, length), response, data, data_valid, self.guid)
            )
            if status == INSUFFICIENT_BUFFER and response_length > len(response):
                self.envelope = yield from _lend(at + _pages(response_length))
                continue
            raise_for_status(status, f"{request.method} {request.target}")
            try:
                return response.read_response(response_length)
            except ValueError as broken:
                raise RemoteProtocolError(f"the host's answer is not a Binary HTTP response: {broken}") from None


def _transact(step: Transact) -> Generator[Step, object, tuple[int, int]]:
    outcome = yield step
    return outcome  # type: ignore[return-value]


def _pages(size_bytes: int) -> int:
    return -(-size_bytes // 4096) * 4096


def _lend(size_bytes: int, size_bytes_min: int | None = None) -> Generator[Step, object, _native.LentBuffer]:
    lent = yield Lend(size_bytes, size_bytes if size_bytes_min is None else size_bytes_min)
    return lent  # type: ignore[return-value]


def envelope() -> Generator[Step, object, _native.LentBuffer]:
    """Lend the buffer that holds a request message and, behind it, the response message."""
    return (yield from _lend(REQUEST_BYTES + RESPONSE_BYTES))


def expected_bytes(request: Request) -> int:
    """Return how much room the answer to a read may want, from its range and target alone."""
    if request.method == "HEAD":
        return 0
    text = request.fields.get("x-ms-range") or request.fields.get("range")
    span = ByteRange.parse(text) if text else None
    if span is not None and span.last is not None:
        return min(span.last - span.first + 1, PIECE_BYTES)
    if "comp=" in request.target or "restype=" in request.target:
        return DOCUMENT_BYTES
    return PIECE_BYTES if request.method == "GET" else 0


# ---- downloads


class Sink(Protocol):
    """Where the bytes of an answer go: piece by piece, each into a lent buffer it provides and then takes back."""

    def buffer(self, size_bytes: int) -> Generator[Step, object, _native.LentBuffer]:
        """Provide the buffer for the next piece, of at most *size_bytes*."""
        ...

    def expect(self, total_bytes: int) -> None:
        """Learn the answer's whole length, once, before the first `take`. Raises ValueError when it cannot fit."""
        ...

    def take(self, data: _native.LentBuffer, length: int) -> None:
        """Take over the first *length* bytes of *data*."""
        ...

    def finish(self, status: int, fields: Fields) -> Answer:
        """Return the answer, all pieces taken."""
        ...


class BytesSink:
    """Collects an answer as one `bytes`, copied once out of lent pages (twice past JOINED_BYTES_MAX)."""

    def __init__(self) -> None:
        self._parts: list[Buffer] = []
        self._keep_pages = True

    def buffer(self, size_bytes: int) -> Generator[Step, object, _native.LentBuffer]:
        """Lend fresh pages for each piece."""
        lent = yield from _lend(size_bytes, min(size_bytes, 256 << 10))
        if len(lent) < size_bytes:  # memory is short: what is kept here would be missing for the next piece
            self._keep_pages = False
        return lent

    def expect(self, total_bytes: int) -> None:
        """Any length will do."""
        self._keep_pages = self._keep_pages and total_bytes <= JOINED_BYTES_MAX

    def take(self, data: _native.LentBuffer, length: int) -> None:
        """Keep the piece."""
        view = memoryview(data)[:length]
        self._parts.append(view if self._keep_pages else bytes(view))

    def finish(self, status: int, fields: Fields) -> Answer:
        """Join the pieces."""
        content = bytes(self._parts[0]) if len(self._parts) == 1 else b"".join(self._parts)
        return Answer(status, fields, content)


class LentSink:
    """Places an answer in one lent buffer, where it stays: no copy. `into` is lent at first need when None."""

    def __init__(self, into: _native.LentBuffer | None, size_bytes_max: int) -> None:
        self._into = into
        self._size_bytes_max = size_bytes_max
        self._written = 0

    def buffer(self, size_bytes: int) -> Generator[Step, object, _native.LentBuffer]:
        """Provide the next slice of the one buffer."""
        if self._into is None:
            self._into = yield from _lend(max(self._size_bytes_max, 1))
        room = min(size_bytes, len(self._into) - self._written)
        return self._into.slice(self._written, room)

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


class BufferSink:
    """Copies an answer into a buffer of the caller's own."""

    def __init__(self, out: memoryview) -> None:
        self._out = out
        self._written = 0
        self._lent: _native.LentBuffer | None = None

    def buffer(self, size_bytes: int) -> Generator[Step, object, _native.LentBuffer]:
        """Reuse one lent buffer for every piece: its pages stay warm."""
        if self._lent is None or len(self._lent) < size_bytes:
            self._lent = yield from _lend(size_bytes, min(size_bytes, 256 << 10))
        return self._lent.slice(0, min(size_bytes, len(self._lent)))

    def expect(self, total_bytes: int) -> None:
        """The buffer must hold the whole answer."""
        if total_bytes > len(self._out):
            raise ValueError(f"the answer has {total_bytes} bytes, the buffer holds {len(self._out)}")

    def take(self, data: _native.LentBuffer, length: int) -> None:
        """Copy the piece out."""
        self._out[self._written : self._written + length] = memoryview(data)[:length]
        self._written += length

    def finish(self, status: int, fields: Fields) -> Answer:
        """Report how much was written."""
        return Answer(status, fields, b"", self._written)


def download(packet: Packet, sink: Sink, room_bytes: int) -> Conversation:
    """Converse about a request without a body. Error answers (status ≥ 300) always come as `content`."""
    data = (yield from sink.buffer(room_bytes)) if room_bytes else None
    status, pairs, content = yield from packet.send(data, 0)
    placed, fields = placed_and_fields(pairs)
    if placed is None:  # no bytes in the data buffer: they are in the message, or there are none
        return _answer_in_message(sink, status, fields, content)
    if status >= 300 and not isinstance(sink, BytesSink):
        sink = BytesSink()
    total = int(fields.get("content-length") or placed)
    sink.expect(total)
    if data is not None and placed:
        sink.take(data, placed)
    while placed < total:
        data = yield from sink.buffer(min(PIECE_BYTES, total - placed))
        piece_status, pairs, _ = yield from packet.send(data, 0, (("pvblob-body-offset", str(placed)),))
        got, _ = placed_and_fields(pairs)
        if piece_status != 200 or not got:
            raise AnswerLost(f"the host no longer keeps the rest of {packet.request.target} at byte {placed}")
        sink.take(data, got)
        placed += got
    return sink.finish(status, fields)


class AnswerLost(RemoteProtocolError):
    """The host let go of an answer before all its pieces were fetched; a read may be asked again."""


def _answer_in_message(sink: Sink, status: int, fields: Fields, content: bytes) -> Answer:
    if status < 300 and content and not isinstance(sink, BytesSink):
        raise RemoteProtocolError("the host put content into the message though the data buffer had room")
    return sink.finish(status, fields) if status < 300 and not content else Answer(status, fields, content)


def placed_and_fields(pairs: list[tuple[str, str]]) -> tuple[int | None, Fields]:
    """Return (bytes the host put into the data buffer or None, the answer's own fields)."""
    if not any(name.startswith("pvblob-") for name, _ in pairs):
        return None, Fields.lowered(pairs)
    own = dict(pairs)
    placed = own.get("pvblob-data-length")
    rest = [pair for pair in pairs if not pair[0].startswith("pvblob-") or pair[0] == METADATA_NAMES]
    return (int(placed) if placed is not None and placed.isdigit() else None), Fields.lowered(rest)


# ---- uploads


def upload(packet: Packet, size_bytes: int, lent: _native.LentBuffer | None) -> Conversation:
    """Converse about a request with a body of *size_bytes*: from *lent* in place, else filled by `Fill` steps."""
    piece_bytes = min(size_bytes, PIECE_BYTES)
    buffer = lent or (yield from _lend(piece_bytes, min(piece_bytes, 256 << 10)))
    sent = 0
    while True:
        if lent is not None:
            data = lent.slice(sent, min(piece_bytes, size_bytes - sent))
            length = len(data)
        else:
            data = buffer
            length = yield Fill(memoryview(buffer)[: min(len(buffer), size_bytes - sent)])  # type: ignore[assignment]
        control = () if length == size_bytes else _piece_fields(sent, size_bytes)
        status, pairs, content = yield from packet.send(data, length, control)
        sent += length
        if sent < size_bytes and status == 202 and any(name == "pvblob-body-received" for name, _ in pairs):
            continue
        return (yield from _upload_answer(packet, status, pairs, content))


def _piece_fields(offset: int, size_bytes: int) -> tuple[tuple[str, str], ...]:
    return ("pvblob-body-offset", str(offset)), ("pvblob-body-length", str(size_bytes))


def _upload_answer(packet: Packet, status: int, pairs: list[tuple[str, str]], content: bytes) -> Conversation:
    """The answer to an upload comes in the message; one that is too large for it is fetched like a download."""
    placed, fields = placed_and_fields(pairs)
    total = int(fields.get("content-length") or 0)
    if placed is None or content or not total:
        return Answer(status, fields, content)
    parts = []
    while placed < total:
        data = yield from _lend(min(PIECE_BYTES, total - placed))
        piece_status, pairs, _ = yield from packet.send(data, 0, (("pvblob-body-offset", str(placed)),))
        got, _ = placed_and_fields(pairs)
        if piece_status != 200 or not got:
            raise RemoteProtocolError("the host executed the request but no longer keeps its answer")
        parts.append(bytes(memoryview(data)[:got]))
        placed += got
    return Answer(status, fields, b"".join(parts))
