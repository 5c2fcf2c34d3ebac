"""A blob as a stream of pieces: the next ones are under way while the program works on one.

The first read tells the version and the size; from then on a `Window` keeps up to AHEAD pieces under way, each into
lent memory of its own, and hands them over in order. What a program holds of them is its own business: memory that is
spent makes the stream take one piece at a time, not fail, as long as one finds room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from pvblob.client import answers
from pvblob.client.many import Done, Feed, aeach, each
from pvblob.errors import DeadlineExceeded, LentMemoryExhausted, PvblobError

if TYPE_CHECKING:
    from pvblob import _native
    from pvblob.client.aclient import AsyncClient
    from pvblob.client.client import Client
    from pvblob.client.exchange import Answer
    from pvblob.client.operations import Operations
    from pvblob.client.properties import BlobProperties
    from pvblob.http import Request

AHEAD = 3
"""So many pieces are under way at once: with that of the program, half of the memory that a process lends."""
PATIENCE_S = 0.01
"""How long memory for another piece is waited for while one is under way: as long as a host takes to map some."""


class Span(NamedTuple):
    """Which bytes of a blob a program asked for, and how many in a piece. length: None: to the end."""

    container: str
    blob: str
    offset: int
    length: int | None
    chunk_bytes: int

    @property
    def first_bytes(self) -> int:
        """How many bytes are asked for before anything is known."""
        return self.chunk_bytes if self.length is None else min(self.length, self.chunk_bytes)

    def first(self, operations: Operations) -> Request:
        """Return the read that tells the version."""
        if self.chunk_bytes < 1:
            raise ValueError(f"chunk_bytes is {self.chunk_bytes}: at least 1")
        return operations.read(self.container, self.blob, self.offset, self.first_bytes, None, None)

    def opened(self, answer: Answer, request: Request, timeout_s: float) -> Opened | None:
        """Say what that read's answer means. None: nothing lies there."""
        if answer.status == 416:
            return None
        known = answers.properties(answer, request, self.blob)
        end = known.size_bytes if self.length is None else min(known.size_bytes, self.offset + self.length)
        piece = answer.view if answer.view is not None else memoryview(answer.content)
        if not len(piece):
            return None
        return Opened(piece, Window(self, self.offset + len(piece), end, timeout_s), known.etag)


class Window:
    """The pieces of *span* from *start* to *end*, bytes from the blob's beginning, that are under way or have arrived.

    timeout_s: how long memory for a piece is waited for when no other is under way.
    """

    def __init__(self, span: Span, start: int, end: int, timeout_s: float) -> None:
        size_bytes = span.chunk_bytes
        self._blob = span.blob
        self._timeout_s = timeout_s
        self._pieces = deque((at, min(size_bytes, end - at)) for at in range(start, end, size_bytes))
        self._stock: deque[_native.LentBuffer] = deque()
        self._held: dict[int, _native.LentBuffer] = {}
        self._arrived: dict[int, Done[Any]] = {}
        self._sent = 0
        self._turn = 0

    def wanted_bytes(self) -> int:
        """Return the size of the piece that memory should be supplied for now; 0: none."""
        stocked = len(self._stock)
        return self._pieces[stocked][1] if stocked + len(self._held) < AHEAD and stocked < len(self._pieces) else 0

    def patient_until(self) -> float:
        """Return the deadline for that memory."""
        return monotonic() + (PATIENCE_S if self._held or self._stock else self._timeout_s)

    def supply(self, buffer: _native.LentBuffer) -> None:
        """Take memory for the next piece."""
        self._stock.append(buffer)

    def go_without(self, failure: PvblobError) -> None:
        """Take it that there is no memory now. Raises *failure* when nothing is under way that would bring some."""
        if not self._held and not self._stock:
            raise failure

    def __iter__(self) -> Window:
        return self

    def __next__(self) -> tuple[str, int, _native.LentBuffer]:
        """Return the next read. StopIteration: none at the moment; there may be one later."""
        if not self._stock:
            raise StopIteration
        buffer, (offset, _) = self._stock.popleft(), self._pieces.popleft()
        self._held[self._sent] = buffer
        self._sent += 1
        return self._blob, offset, buffer

    def arrived(self, done: Done[Any]) -> Iterator[memoryview]:
        """Take a finished read; yield the pieces whose turn it is. Raises the error of one that failed, in its turn."""
        self._arrived[done.position] = done
        while self._turn in self._arrived:
            self._arrived.pop(self._turn).result()
            buffer = self._held.pop(self._turn)
            self._turn += 1
            yield memoryview(buffer).toreadonly()


class Opened(NamedTuple):
    """A stream after its first read: that piece, the others, the version they are of."""

    piece: memoryview
    window: Window
    etag: str


def stream(client: Client, span: Span) -> Iterator[memoryview]:
    """See `Client.stream`."""
    request, device = span.first(client._operations), client._exchange.device()
    answer = client._exchange.perform_view(request, size_bytes_max=span.first_bytes, timeout_s=client._timeout_s)
    opened = span.opened(answer, request, client._timeout_s)
    del answer
    if opened is None:
        return
    piece, window, etag = opened
    del opened
    yield piece
    del piece  # it is the program's own

    def one(blob: str, offset: int, buffer: Any) -> BlobProperties:
        return client.read_into(span.container, blob, buffer, offset, if_match=etag)

    def refill() -> None:
        while size_bytes := window.wanted_bytes():
            try:
                window.supply(device.lend(size_bytes, size_bytes, window.patient_until()))
            except (LentMemoryExhausted, DeadlineExceeded) as failure:
                window.go_without(failure)
                return

    refill()
    for done in each(Feed(client._reads, span.container, window, AHEAD, etag), one):
        yield from window.arrived(done)
        refill()


async def astream(client: AsyncClient, span: Span) -> AsyncIterator[memoryview]:
    """See `Client.stream`."""
    request, device = span.first(client._operations), client._exchange.adevice()
    answer = await client._exchange.perform_view(request, size_bytes_max=span.first_bytes, timeout_s=client._timeout_s)
    opened = span.opened(answer, request, client._timeout_s)
    del answer
    if opened is None:
        return
    piece, window, etag = opened
    del opened
    yield piece
    del piece  # it is the program's own

    async def one(blob: str, offset: int, buffer: Any) -> BlobProperties:
        return await client.read_into(span.container, blob, buffer, offset, if_match=etag)

    async def refill() -> None:
        while size_bytes := window.wanted_bytes():
            try:
                window.supply(await device.lend(size_bytes, size_bytes, window.patient_until()))
            except (LentMemoryExhausted, DeadlineExceeded) as failure:
                window.go_without(failure)
                return

    await refill()
    async for done in aeach(Feed(client._reads, span.container, window, AHEAD, etag), one, device):
        for piece in window.arrived(done):
            yield piece
            del piece
        await refill()
