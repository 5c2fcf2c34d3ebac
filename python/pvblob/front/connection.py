"""One HTTP connection: aiohttp's parser and keep-alive, with this front's own answers.

The flow: aiohttp's `RequestHandler` parses and calls the front's handler; what that returns is an `Answer`, which
writes itself. Invariant: every byte that leaves the connection is written here, so no framework field (Server,
Content-Type) is ever added. It must not know backends or accounts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from pvblob.blobs.auth import Rejection
from pvblob.front.content import Outlet, send
from pvblob.front.limits import FrontCounters, FrontLimits
from pvblob.front.mapped import MappedFiles
from pvblob.front.message import response_head
from pvblob.http import Content, Fields, Request, discard

logger = logging.getLogger(__name__)

_UNREADABLE_REQUEST = Request("GET", "http", "", "/", Fields())
_BUSY = Rejection(503, "ServerBusy", "This host serves as many connections as it may; try again later.")


class Answer(web.StreamResponse):
    """A response that is written as it is: head, then content.

    outlet: None when the client has gone already.  It owns the content's release.
    """

    def __init__(
        self,
        outlet: Outlet | None,
        head: bytes,
        content: Content,
        *,
        keep_alive: bool,
        counters: FrontCounters,
    ) -> None:
        super().__init__()
        self._outlet = outlet
        self._head = head
        self._content = content
        self._stays = keep_alive
        self._counters = counters

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may carry another request."""
        return self._stays

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Do nothing: `write_eof` writes head and content together."""
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Write everything. Raises ConnectionError for any failure: after the head nothing else can be said."""
        outlet = self._outlet
        if outlet is None:
            self._counters.disconnected += 1
            discard(self._content)
            raise ConnectionResetError("the client went away")
        try:
            await send(outlet, self._head, self._content)
        except BaseException as error:
            # The length announced cannot be kept any more; only ending the connection tells the client so.
            outlet.transport.abort()
            self._counters.disconnected += 1
            if isinstance(error, Exception):
                raise ConnectionResetError(f"the answer could not be finished: {error}") from error
            raise


class Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = ("_server", "executor")

    def __init__(self, server: ConnectionServer, loop: asyncio.AbstractEventLoop) -> None:
        limits = server.limits
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.idle_timeout_s,
            access_log=None,  # type: ignore[arg-type]  # aiohttp tests it for truth
            max_line_size=limits.target_bytes_max,
            max_field_size=limits.field_bytes_max,
            max_headers=limits.fields_max,
            auto_decompress=False,
        )
        self.executor = server.executor
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or say that there are too many."""
        if len(self._server.connections) < self._server.limits.connections_max:
            super().connection_made(transport)
            assert isinstance(transport, asyncio.Transport)
            # `Outlet` asks for it: drained means with the kernel, so that content can be released.
            transport.set_write_buffer_limits(high=0)
            return
        self._server.counters.turned_away += 1
        head, content = _message(_BUSY, _UNREADABLE_REQUEST, keep_alive=False)
        assert isinstance(transport, asyncio.Transport)
        transport.write(head + content)
        transport.close()
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be parsed: 4xx in Azure's error format, and the connection ends."""
        logger.debug("a request could not be read: %s", exc)
        if status < 500:
            text = f"The request could not be read as HTTP/1.1: {message or exc}"
            rejection = Rejection(status, "InvalidInput", text)
        else:
            rejection = Rejection(status, "InternalError", "The server encountered an internal error.")
        return self.refuse(rejection, _UNREADABLE_REQUEST, request, keep_alive=False)

    def refuse(
        self, rejection: Rejection, request: Request, http_request: web.BaseRequest, *, keep_alive: bool
    ) -> Answer:
        """Return the answer that says *rejection* to *request*."""
        self._server.counters.refused += 1
        head, content = _message(rejection, request, keep_alive=keep_alive)
        return self.answer(http_request, head, content, keep_alive=keep_alive)

    def answer(self, http_request: web.BaseRequest, head: bytes, content: Content, *, keep_alive: bool) -> Answer:
        """Return the answer to *http_request* made of *head* and *content*, whose release it takes over."""
        transport = self.transport
        outlet = None
        if transport is not None and not transport.is_closing():
            server = self._server
            outlet = Outlet(
                transport, http_request.writer, server.files, server.executor, server.limits.stall_timeout_s
            )
        return Answer(outlet, head, content, keep_alive=keep_alive, counters=self._server.counters)


class ConnectionServer(web.Server):
    """Makes a `Connection` for every client and ends them all on shutdown."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        limits: FrontLimits,
        counters: FrontCounters,
        executor: Executor,
    ) -> None:
        super().__init__(handler)
        self.limits = limits
        self.counters = counters
        self.executor = executor
        self.files = MappedFiles(limits.mapped_files_max)

    def __call__(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self, self._loop)


def _message(rejection: Rejection, request: Request, *, keep_alive: bool) -> tuple[bytes, bytes]:
    response = rejection.response(request)
    assert isinstance(response.content, bytes)
    size_bytes = None if request.method == "HEAD" else len(response.content)
    return response_head(response, content_size_bytes=size_bytes, keep_alive=keep_alive), response.content
