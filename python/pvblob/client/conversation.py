"""One REST request as a conversation with the host: which packets, in which order, into which buffers. Sans-I/O.

`download` and `upload` are generators: they yield steps (see `steps`), are sent what each asks for, and return the
Answer. They know design rule 6 (bodies bigger than a packet travel in pieces of one GUID) and where content lies. While
the host moves one piece, this side copies the one before or behind it, in two buffers by turns. Nothing here waits, so
the blocking and the asyncio Exchange drive the same code.
"""

from __future__ import annotations

from pvblob.client.pieces import Filled, Slices
from pvblob.client.sinks import Answer, BytesSink
from pvblob.client.steps import Post, collect, lend, post
from pvblob.errors import RemoteProtocolError
from pvblob.http_request import METADATA_NAMES, ByteRange, Fields
from pvblob.vsc.status import INSUFFICIENT_BUFFER, raise_for_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pvblob import _native
    from pvblob.client.pieces import Pieces
    from pvblob.client.sinks import Sink
    from pvblob.client.steps import Conversation, Steps, Ticket
    from pvblob.http_request import Request

    Decoded = tuple[int, list[tuple[str, str]], bytes]
    Control = tuple[tuple[str, str], ...]

# One packet carries at most this much content. Larger packets gain nothing (baseline.md, point 6), and this keeps the
# PFN list at 16 KiB, so several packets fit the ring at once.
PIECE_BYTES = 8 << 20
# Pages for an answer of unknown length that is no blob: a listing's page. Untouched pages cost nothing.
DOCUMENT_BYTES = 1 << 20

REQUEST_BYTES = 4096
RESPONSE_BYTES = 16384

BODY_OFFSET = "pvblob-body-offset"
BODY_LENGTH = "pvblob-body-length"
BODY_RECEIVED = "pvblob-body-received"


class Posted:
    """A packet under way, and what it takes to send it again."""

    __slots__ = ("control", "data", "data_valid", "response", "ticket")

    def __init__(
        self,
        ticket: Ticket,
        response: _native.LentBuffer,
        data: _native.LentBuffer | None,
        data_valid: int,
        control: Control,
    ) -> None:
        self.ticket = ticket
        self.response = response
        self.data = data
        self.data_valid = data_valid
        self.control = control


class Packet:
    """The head of one packet at a time: where the request message is written and the response is read."""

    __slots__ = ("envelope", "guid", "request", "resubmission")

    def __init__(self, request: Request, guid: bytes, resubmission: bool, envelope: _native.LentBuffer) -> None:
        self.request = request
        self.guid = guid
        self.resubmission = resubmission
        self.envelope = envelope

    def send(self, data: _native.LentBuffer | None, data_valid: int, control: Control = ()) -> Steps[Decoded]:
        """Send a packet and wait for its answer."""
        return (yield from self.collect((yield from self.post(data, data_valid, control))))

    def post(self, data: _native.LentBuffer | None, data_valid: int, control: Control = ()) -> Steps[Posted]:
        """Send a packet; the envelope belongs to it until it is collected. A long head gets a larger one."""
        request = self.request
        extra = (*control, ("pvblob-resubmission", "1")) if self.resubmission else control
        pairs = [*request.fields.pairs(), *extra] if extra else request.fields.pairs()
        while True:
            room = len(self.envelope) - RESPONSE_BYTES
            length = self.envelope.write_request(
                request.method, request.scheme, request.authority, request.target, pairs, room
            )
            if length <= room:
                break
            self.envelope = yield from lend(_pages(length) + RESPONSE_BYTES)
        at = _pages(length)
        response = self.envelope.slice(at, len(self.envelope) - at)
        ticket = yield from post(Post(self.envelope.slice(0, length), response, data, data_valid, self.guid))
        return Posted(ticket, response, data, data_valid, control)

    def collect(self, posted: Posted) -> Steps[Decoded]:
        """Wait for a packet's completion and decode its answer; one that needs more room is asked for again."""
        while True:
            status, response_length = yield from collect(posted.ticket)
            if status != INSUFFICIENT_BUFFER or response_length <= len(posted.response):
                break
            self.envelope = yield from lend(len(self.envelope) + _pages(response_length))
            posted = yield from self.post(posted.data, posted.data_valid, posted.control)
        raise_for_status(status, f"{self.request.method} {self.request.target}")
        try:
            return posted.response.read_response(response_length)
        except ValueError as broken:
            raise RemoteProtocolError(f"the host's answer is not a Binary HTTP response: {broken}") from None


def _pages(size_bytes: int) -> int:
    return -(-size_bytes // 4096) * 4096


def envelope() -> Steps[_native.LentBuffer]:
    """Lend the buffer that holds a request message and, behind it, the response message."""
    return (yield from lend(REQUEST_BYTES + RESPONSE_BYTES))


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


def download(packet: Packet, sink: Sink, room_bytes: int) -> Conversation:
    """Converse about a request without a body. Error answers (status ≥ 300) always come as `content`."""
    data = (yield from sink.buffer(room_bytes, 0)) if room_bytes else None
    status, pairs, content = yield from packet.send(data, 0)
    placed, fields = placed_and_fields(pairs)
    if placed is None:  # no bytes in the data buffer: they are in the message, or there are none
        return _answer_in_message(sink, status, fields, content)
    if status >= 300 and not isinstance(sink, BytesSink):
        sink = BytesSink()
    total = int(fields.get("content-length") or placed)
    sink.expect(total)
    if data is not None and placed:
        yield from _take(packet, sink, data, placed, total)
    return sink.finish(status, fields)


def _take(packet: Packet, sink: Sink, data: _native.LentBuffer, placed: int, total: int) -> Steps[None]:
    """Hand the first *placed* bytes of an answer to *sink*, and each following piece while the next is under way."""
    arrived = placed
    while arrived < total:
        room_bytes = min(PIECE_BYTES, total - arrived)
        following = yield from sink.second_buffer(room_bytes, arrived)
        if following is None:
            sink.take(data, placed)
            following, placed = (yield from sink.buffer(room_bytes, arrived)), 0
        posted = yield from packet.post(following, 0, ((BODY_OFFSET, str(arrived)),))
        if placed:
            sink.take(data, placed)
        status, pairs, _ = yield from packet.collect(posted)
        got, _ = placed_and_fields(pairs)
        if status != 200 or not got:
            raise AnswerLost(f"the host no longer keeps the rest of {packet.request.target} at byte {arrived}")
        data, placed, arrived = following, got, arrived + got
    sink.take(data, placed)


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
    pieces: Pieces = Slices(lent, PIECE_BYTES) if lent is not None else Filled(size_bytes, PIECE_BYTES)
    data, length = yield from pieces.next()
    sent = 0
    while True:
        control = () if length == size_bytes else _piece_fields(sent, size_bytes)
        posted = yield from packet.post(data, length, control)
        sent += length
        following = (yield from pieces.ahead()) if sent < size_bytes else None
        status, pairs, content = yield from packet.collect(posted)
        if sent == size_bytes or status != 202 or not any(name == BODY_RECEIVED for name, _ in pairs):
            return (yield from _upload_answer(packet, status, pairs, content))
        data, length = following or (yield from pieces.next())


def _piece_fields(offset: int, size_bytes: int) -> tuple[tuple[str, str], ...]:
    return (BODY_OFFSET, str(offset)), (BODY_LENGTH, str(size_bytes))


def _upload_answer(packet: Packet, status: int, pairs: list[tuple[str, str]], content: bytes) -> Conversation:
    """The answer to an upload comes in the message; one that is too large for it is fetched like a download."""
    placed, fields = placed_and_fields(pairs)
    total = int(fields.get("content-length") or 0)
    if placed is None or content or not total:
        return Answer(status, fields, content)
    parts = []
    while placed < total:
        data = yield from lend(min(PIECE_BYTES, total - placed))
        piece_status, pairs, _ = yield from packet.send(data, 0, ((BODY_OFFSET, str(placed)),))
        got, _ = placed_and_fields(pairs)
        if piece_status != 200 or not got:
            raise RemoteProtocolError("the host executed the request but no longer keeps its answer")
        parts.append(bytes(memoryview(data)[:got]))
        placed += got
    return Answer(status, fields, b"".join(parts))
