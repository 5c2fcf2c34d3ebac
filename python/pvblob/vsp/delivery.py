"""From a backend's Response to the guest's buffers: where content lies, and what is kept for later pieces.

Rule (design §3): content goes into the data buffer when that buffer carried no input, the content fits and it is no
error; else into the RFC 9292 content of the response buffer; else the host keeps the answer and the guest fetches it
in pieces. `pvblob-data-length` says how many bytes lie in the data buffer; `content-length` stays HTTP's.
"""

from __future__ import annotations

from pvblob import _native
from pvblob.http import ArrivingContent, Content, ContentLost, Extent, Response, discard
from pvblob.vsp.turnstile import Turnstile

DATA_LENGTH = "pvblob-data-length"
BODY_OFFSET = "pvblob-body-offset"
BODY_LENGTH = "pvblob-body-length"
BODY_RELEASE = "pvblob-body-release"
BODY_RECEIVED = "pvblob-body-received"
RESUBMISSION = "pvblob-resubmission"

# What an answer to a mutation needs at most, so that 0x8007007A can be said before anything is executed: the head of
# such an answer has some twenty short fields, and an error's XML is below 1 KiB.
RESPONSE_BYTES_MIN = 4096

# Up to here the loop's own thread copies what is in the page cache: handing it over would take longer.
READ_AT_ONCE_BYTES_MAX = 64 << 10


class HeldContent:
    """Content with a count of those who may still read it; the last one to let go releases it."""

    __slots__ = ("_holders", "content", "private_bytes", "size_bytes")

    def __init__(self, content: Content) -> None:
        self.content = content
        self.size_bytes = content_size(content)
        self.private_bytes = len(content) if isinstance(content, bytes) else 0  # what it costs in the host's memory
        self._holders = 1

    def hold(self) -> None:
        """Count one more holder."""
        self._holders += 1

    def let_go(self) -> None:
        """Count one holder less."""
        self._holders -= 1
        if self._holders == 0:
            discard(self.content)


def content_size(content: Content) -> int:
    """Return the size in bytes of any kind of content."""
    return len(content) if isinstance(content, bytes) else content.size_bytes


def cut(extents: tuple[Extent, ...], offset: int, length: int) -> list[tuple[int, int, int]]:
    """Return the (fd, offset, length) runs that hold *length* bytes from byte *offset* of the extents' bytes."""
    runs = []
    for fd, start, size in extents:
        if length and offset < size:
            run = min(size - offset, length)
            runs.append((fd, start + offset, run))
            length -= run
            offset = 0
        else:
            offset = max(0, offset - size)
    return runs


class Delivery:
    """Completes requests. `filled` runs once the data plane has read the last byte it needs of a file content.

    fills: bounds what the data plane's file readers are given, so that one guest's reads do not queue before another's.
    """

    def __init__(self, fills: Turnstile) -> None:
        self._fills = fills
        self._filling: dict[int, tuple[HeldContent, int, int]] = {}  # by request: content, channel, bytes

    def filled(self, request_id: int) -> None:
        """The data plane has completed this request from files: it reads them no more."""
        filling = self._filling.pop(request_id, None)
        if filling is not None:
            held, channel, size_bytes = filling
            held.let_go()
            self._fills.leave(channel, size_bytes)

    async def answer(self, request: _native.HostRequest, method: str, response: Response) -> HeldContent | None:
        """Complete *request* with *response*. Content that did not fit comes back, held for the caller to keep.

        Cancelled before its turn to be filled came, it raises and has not completed the request.
        """
        held = HeldContent(response.content)
        try:
            kept = await self._answer(request, method, response, held)
        except ContentLost as lost:
            held.let_go()
            return await self.answer(request, method, lost.response)
        except BaseException:
            held.let_go()
            raise
        if kept:
            return held
        held.let_go()
        return None

    async def _answer(self, request: _native.HostRequest, method: str, response: Response, held: HeldContent) -> bool:
        size = 0 if method == "HEAD" else held.size_bytes
        pairs = response.fields.pairs()
        content = response.content
        # Errors go into the message even where there is room: the data buffer may be the program's own memory, and a
        # refused read leaves it untouched.
        room = 0 if request.data_valid or response.status >= 300 else request.data_length
        if size <= room:
            if size:
                pairs = [*pairs, (DATA_LENGTH, str(size))]
            await self._place(request, _native.encode_response(response.status, pairs, b""), held, 0, size)
        elif isinstance(content, bytes) and self._inline(request, response.status, pairs, content):
            pass
        else:
            pairs = [*pairs, (DATA_LENGTH, str(room))]
            await self._place(request, _native.encode_response(response.status, pairs, b""), held, 0, room)
            return True
        return False

    async def piece(self, request: _native.HostRequest, held: HeldContent, offset: int) -> bool:
        """Complete *request* with the held bytes from *offset*; True when these were the last ones."""
        room = 0 if request.data_valid else request.data_length
        length = min(room, held.size_bytes - offset)
        fields = [("content-length", str(held.size_bytes)), (DATA_LENGTH, str(length))]
        try:
            await self._place(request, _native.encode_response(200, fields, b""), held, offset, length)
        except ContentLost as lost:
            await self.answer(request, "GET", lost.response)
            return True
        return offset + length == held.size_bytes

    @staticmethod
    def _inline(request: _native.HostRequest, status: int, pairs: list[tuple[str, str]], content: bytes) -> bool:
        if len(content) > request.response_capacity:
            return False
        whole = _native.encode_response(status, pairs, content)
        if len(whole) > request.response_capacity:
            return False
        request.complete(0, whole)
        return True

    async def _place(
        self, request: _native.HostRequest, head: bytes, held: HeldContent, offset: int, length: int
    ) -> None:
        """Put *length* bytes into the data buffer (perhaps none) and complete; a head that does not fit is refused.

        Refusing here is right for reads only (0x8007007A says that nothing was executed): a mutation is asked for
        RESPONSE_BYTES_MIN before it runs.
        """
        if len(head) > request.response_capacity:
            request.complete(_native.HRESULT["INSUFFICIENT_BUFFER"], b"", len(head))
        elif length == 0:
            request.complete(0, head)
        elif isinstance(held.content, bytes):
            request.complete_with_bytes(head, held.content[offset : offset + length])
        elif isinstance(held.content, ArrivingContent):
            held.hold()
            try:
                await held.content.place(request, offset, length)
                request.complete(0, head)
            finally:
                held.let_go()
        else:
            runs = cut(held.content.extents, offset, length)
            if length <= READ_AT_ONCE_BYTES_MAX and request.complete_from_cache(head, runs):
                return
            await self._fills.enter(request.channel, length)
            held.hold()
            self._filling[request.id] = (held, request.channel, length)
            if not request.complete_with_files(head, runs):
                self.filled(request.id)
