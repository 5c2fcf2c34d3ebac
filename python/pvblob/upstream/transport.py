"""The data plane's HTTPS on an asyncio loop: one coroutine per operation, cancelled for real when its task is.

Invariant: when a coroutine here returns or raises, CancelledError included, no buffer it was given is touched any more.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from pvblob import _native
from pvblob.http import Request
from pvblob.http_fields import received_fields, spelled_fields
from pvblob.upstream.budget import Lease

OUTCOMES_PER_TURN = 64


class TransportFailure(ConnectionError):
    """An operation failed. kind: see `_native.UpstreamClient`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind

    @property
    def nothing_was_sent(self) -> bool:
        """Whether the server cannot have seen a byte of the request."""
        return self.kind in ("unreachable", "untrusted", "unsendable")


class Part(NamedTuple):
    """*size_bytes* of a body from *offset* of where it lies; it can be read as often as need be."""

    source: bytes | _native.HostRequest | int | None
    offset: int
    size_bytes: int


NO_BODY = Part(None, 0, 0)


class Answer:
    """An answer's head, and its content: inline, or to be read by `read` and `fill` until the end.

    size_bytes: of the content still to be read, or None when the server does not say.
    """

    def __init__(self, transport: Transport, exchange: _native.UpstreamExchange, value: tuple[Any, ...]) -> None:
        self._transport = transport
        self._exchange: _native.UpstreamExchange | None = exchange
        self.status: int
        self.status, pairs, self.size_bytes, self.content, self.reused = value
        self.fields = received_fields(pairs)
        self.lease: Lease | None = None  # given back with the connection
        self.received: Callable[[int], None] = lambda _size_bytes: None  # counts content

    async def read(self, limit: int) -> bytes:
        """Return up to *limit* bytes; fewer at the end, or before a failure that the next one raises."""
        data: bytes = await self._transport.run(self._live(), "read", limit)
        self.received(len(data))
        return data

    async def fill(
        self, sink: _native.HostRequest | int, offset: int, length: int, digest: _native.Digest | None = None
    ) -> int:
        """Place up to *length* bytes at *offset* of *sink*; fewer as for `read`. Raises TransportFailure."""
        count: int = await self._transport.run(self._live(), "fill", sink, offset, length, digest)
        self.received(count)
        return count

    def _live(self) -> _native.UpstreamExchange:
        if self._exchange is None:
            raise TransportFailure("truncated", "the answer was dropped")
        return self._exchange

    def drop(self) -> None:
        """Let go; a connection with content unread is closed. Idempotent."""
        if self._exchange is not None:
            self._exchange.cancel()
            self._exchange = None
        if self.lease is not None:
            self.lease.release()


class Transport:
    """Runs operations of one `_native.UpstreamClient` on the running loop, until `close`."""

    def __init__(self, threads: int = 2) -> None:
        self._client = _native.UpstreamClient(threads)
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count(1)
        self._loop.add_reader(self._client.fileno(), self._take)

    def close(self) -> None:
        """Stop the threads and close every connection; what waits is cancelled."""
        self._loop.remove_reader(self._client.fileno())
        for future in self._waiting.values():
            future.cancel()
        self._client.stop()

    async def send(
        self, endpoint: _native.UpstreamEndpoint, request: Request, part: Part, timeout_s: float, inline_max: int
    ) -> Answer:
        """Send *request* (complete: Host and Content-Length included) with *part* as its content.

        timeout_s: until the answer's head is there.  inline_max: content up to so many bytes comes with it.
        Raises TransportFailure.
        """
        operation, future = self._begin()
        head = (request.method, request.target, spelled_fields(request.fields))
        exchange = self._client.send(operation, endpoint, head, *part, timeout_s, inline_max)
        return Answer(self, exchange, await self._finish(operation, future, exchange))

    async def run(self, exchange: _native.UpstreamExchange, name: str, *arguments: Any) -> Any:
        """Run the operation *name* on *exchange*. Raises TransportFailure."""
        operation, future = self._begin()
        getattr(self._client, name)(operation, exchange, *arguments)
        return await self._finish(operation, future, exchange)

    async def warm(self, endpoint: _native.UpstreamEndpoint, count: int) -> int:
        """Have *count* idle connections; return how many were made. Raises TransportFailure."""
        operation, future = self._begin()
        self._client.warm(operation, endpoint, count)
        made: int = await self._finish(operation, future, None)
        return made

    def _begin(self) -> tuple[int, asyncio.Future[Any]]:
        operation = next(self._ids)
        self._waiting[operation] = self._loop.create_future()
        return operation, self._waiting[operation]

    async def _finish(
        self, operation: int, future: asyncio.Future[Any], exchange: _native.UpstreamExchange | None
    ) -> Any:
        try:
            return await future
        except BaseException:
            if exchange is not None:
                exchange.cancel()
            raise
        finally:
            self._waiting.pop(operation, None)

    def _take(self) -> None:
        for operation, failure, value in self._client.take(OUTCOMES_PER_TURN):
            future = self._waiting.get(operation)
            if future is None or future.done():
                continue  # cancelled meanwhile
            if failure is not None:
                future.set_exception(TransportFailure(*failure))
            else:
                future.set_result(value)
