"""Request bodies as they lie in guests' pages: `http.Body` over one packet, or over the pieces of several.

Bulk bytes never pass through Python: `store` has the data plane copy them to a private block, checksum that copy and
write that copy (design rule 1), in a thread of the host's pool and without the GIL. What takes less time than such a
thread waits for the GIL is left to the data plane's own threads. `read` makes private bytes first, for what Python
parses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

from pvblob import _native
from pvblob.http import Stored
from pvblob.vsp.turnstile import Turnstile

T = TypeVar("T")

# Above it, the turns and shares of the pool matter more than its threads' way to the GIL.
STORE_SOON_BYTES_MAX = 64 << 10


class PieceError(Exception):
    """A piece of an upload does not continue it: a gap, an overlap, a wrong total."""


class BodyPool:
    """The threads that move bodies, reached in fair turns: *turnstile* lets in no more than there are threads."""

    def __init__(self, executor: Executor, turnstile: Turnstile) -> None:
        self._executor = executor
        self._turnstile = turnstile
        self._storing: dict[int, asyncio.Future[None]] = {}  # what the data plane's threads write, by request

    async def store(self, request: _native.HostRequest, fd: int, offset: int, digest: _native.Digest) -> None:
        """Write the content of *request* to *fd* at *offset* and add it to *digest*; the same promise as `run`."""
        if request.data_valid > STORE_SOON_BYTES_MAX:
            await self.run(request.channel, request.data_valid, partial(request.store_data, fd, offset, digest))
            return
        await _finished(self._store_soon(request, fd, offset, digest))

    def _store_soon(
        self, request: _native.HostRequest, fd: int, offset: int, digest: _native.Digest
    ) -> asyncio.Future[None]:
        request.store_soon(fd, offset, digest)
        stored = self._storing[request.id] = asyncio.get_running_loop().create_future()
        return stored

    async def settle(self) -> None:
        """Wait until the data plane writes nothing any more; `stored` must go on to be called, and `store` not."""
        if self._storing:
            await asyncio.wait(self._storing.values())

    def stored(self, request_id: int, error: Exception | None) -> None:
        """The data plane has written the content of this request, or has failed to."""
        stored = self._storing.pop(request_id)
        if error is None:
            stored.set_result(None)
        else:
            stored.set_exception(error)

    async def run(self, guest: int, size_bytes: int, call: Callable[[], T]) -> T:
        """Run *call* in a thread and wait for its end even when cancelled: it works on the guest's pages and our file.

        A cancelled caller completes the request, and from then on the guest may reuse the pages and the store the
        space. guest: the channel on whose behalf; size_bytes: how much is moved.
        """
        await self._turnstile.enter(guest, size_bytes)
        try:
            return await _finished(asyncio.get_running_loop().run_in_executor(self._executor, call))
        finally:
            self._turnstile.leave(guest, size_bytes)


async def _finished(future: asyncio.Future[T]) -> T:
    """Wait for the result of *future*; the cancelled caller too waits for its end."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await _outlast(future)
        raise
    finally:
        # An error holds this frame by its traceback, and so the request: if the frame held the error too, the guest's
        # pages would stay mapped until the garbage collector finds the cycle.
        del future


async def _outlast(future: asyncio.Future[T]) -> None:
    """Wait for *future* through any number of further cancellations: a deadline may follow the guest's own cancel."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    future.exception()


class ChannelBody:
    """The body of one packet: the valid bytes of its data buffer, or the content inside its request message."""

    __slots__ = ("_content", "_pool", "_request", "size_bytes")

    def __init__(self, request: _native.HostRequest, content: bytes, pool: BodyPool) -> None:
        self._request = request
        self._content = content
        self._pool = pool
        self.size_bytes = len(content) or request.data_valid

    @property
    def lent(self) -> bytes | _native.HostRequest:
        """The packet itself: its pages stay the host's until it is completed."""
        return self._content or self._request

    async def read(self) -> bytes:
        """Return the content as private bytes."""
        return self._content or self._request.read_data()

    async def store(self, fd: int, offset: int, *, md5: bool) -> Stored:
        """Write the content to *fd* at *offset* in the pool; checksums are those of the private copy written."""
        digest = _native.Digest(md5)
        request, content = self._request, self._content
        if content:
            await self._pool.run(request.channel, self.size_bytes, partial(digest.write, content, fd, offset))
        else:
            await self._pool.store(request, fd, offset, digest)
        return Stored(digest.crc64, digest.md5())


class PiecedBody:
    """A body that arrives in packets of one GUID, each with its offset (design rule 6); it is executed once.

    `feed` is called for each piece in order. A piece is answered (by `acknowledge`) when its bytes are where they go;
    the last one stays unanswered until the whole request has its answer.
    """

    def __init__(
        self, size_bytes: int, pool: BodyPool, acknowledge: Callable[[_native.HostRequest, int], None]
    ) -> None:
        self.size_bytes = size_bytes
        self._pool = pool
        self._acknowledge = acknowledge
        self._pieces: asyncio.Queue[_native.HostRequest] = asyncio.Queue(1)
        self._fed_bytes = 0
        self._stored_bytes = 0
        self.waiting: _native.HostRequest | None = None  # the piece nobody has answered yet
        self.cancelled_status = _native.HRESULT["CANCELLED"]  # what to answer it when the execution is cancelled

    @property
    def lent(self) -> None:
        """A piece is the guest's again as soon as it is acknowledged."""
        return None

    def feed(self, piece: _native.HostRequest, offset: int) -> None:
        """Accept the piece that continues the body at *offset*. Raises PieceError; then nothing has changed."""
        if self.waiting is not None:
            raise PieceError("the piece before it has not been answered")
        if offset != self._fed_bytes:
            raise PieceError(f"it begins at {offset}, but {self._fed_bytes} bytes have arrived")
        if not piece.data_valid or offset + piece.data_valid > self.size_bytes:
            raise PieceError(f"{piece.data_valid} bytes at {offset} do not fit a body of {self.size_bytes}")
        self._fed_bytes += piece.data_valid
        self.waiting = piece
        self._pieces.put_nowait(piece)

    def _stored(self, piece: _native.HostRequest) -> None:
        self._stored_bytes += piece.data_valid
        if self._stored_bytes < self.size_bytes:
            self.waiting = None
            self._acknowledge(piece, self._stored_bytes)

    async def read(self) -> bytes:
        """Return the whole content as private bytes; the backend has checked `size_bytes` against its bound."""
        parts = []
        while self._stored_bytes < self.size_bytes:
            piece = await self._pieces.get()
            parts.append(piece.read_data())
            self._stored(piece)
        return b"".join(parts)

    async def store(self, fd: int, offset: int, *, md5: bool) -> Stored:
        """Write each piece to its place in *fd* as it arrives."""
        digest = _native.Digest(md5)
        while self._stored_bytes < self.size_bytes:
            piece = await self._pieces.get()
            await self._pool.store(piece, fd, offset + self._stored_bytes, digest)
            self._stored(piece)
        return Stored(digest.crc64, digest.md5())
