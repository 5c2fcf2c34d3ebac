"""The HTTP front: each HTTP request becomes one `Backend.execute`, once its sender is known.

The flow: head → `to_request` → authentication → backend, with the body still on the socket → `Answer`. Invariant: no
byte of a body is asked for, and no backend is called, before the signature was checked; no request, however odd, is
answered with 500 or left without an answer. It must not know what operations mean.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict
from types import MappingProxyType
from typing import NamedTuple

from aiohttp import web

from pvblob.blobs.auth import DEVELOPMENT_ACCOUNT, DEVELOPMENT_ACCOUNT_KEY, Rejection
from pvblob.blobs.auth.gate import CredentialGate, Grant
from pvblob.blobs.auth.sas import Origin
from pvblob.front.connection import Answer, Connection, ConnectionServer
from pvblob.front.exchange import Exchange
from pvblob.front.limits import FrontCounters, FrontLimits
from pvblob.front.message import to_request
from pvblob.http import Backend, Fields, Request

logger = logging.getLogger(__name__)

_BAD_TARGET = Rejection(400, "InvalidUri", "The requested URI does not represent any resource on the server.")
_NO_LENGTH = Rejection(411, "MissingContentLengthHeader", "Content-Length HTTP header is missing.")
_INTERNAL_ERROR = Rejection(500, "InternalError", "The server encountered an internal error. Please retry the request.")
_WORKERS_MAX = 4
_ERROR_LOG_INTERVAL_S = 10.0
_DEFAULT_LIMITS = FrontLimits()


class _Running(NamedTuple):
    listener: asyncio.Server
    connections: ConnectionServer
    executor: Executor


class HttpFront:
    """Serves a backend over HTTP/1.1 on one address, on the running event loop.

    host, port: where to listen; port 0 takes a free one.  accounts: name → key (raw bytes), beside the well-known
    development account, which `development_account=False` leaves out.  tls: a server's context, else plain HTTP; it may
    load another certificate while the front runs.  The backend stays the caller's: it is neither
    opened nor closed here.
    """

    def __init__(
        self,
        backend: Backend,
        host: str,
        port: int,
        *,
        accounts: Mapping[str, bytes] = MappingProxyType({}),
        development_account: bool = True,
        limits: FrontLimits = _DEFAULT_LIMITS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._backend = backend
        self._host = host
        self._port = port
        built_in = {DEVELOPMENT_ACCOUNT: DEVELOPMENT_ACCOUNT_KEY} if development_account else {}
        self._gate = CredentialGate({**built_in, **accounts})
        self._limits = limits
        self._tls = tls
        self._running: _Running | None = None
        self._error_logged_at_s = float("-inf")
        self.counters = FrontCounters()

    @property
    def url(self) -> str:
        """`http://host:port` (or https) with the real port. Raises RuntimeError before `start`."""
        if self._running is None:
            raise RuntimeError("the front is not started: it has no port yet")
        host, port = self._running.listener.sockets[0].getsockname()[:2]
        scheme = "https" if self._tls else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def state(self) -> dict[str, int]:
        """Return how many connections are open, and what has happened so far, by name (`FrontCounters`)."""
        connections = 0 if self._running is None else len(self._running.connections.connections)
        return {"connections": connections, **asdict(self.counters)}

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        if self._running is not None:
            raise RuntimeError("the front is started already")
        executor = ThreadPoolExecutor(_WORKERS_MAX, thread_name_prefix="pvblob-front")
        connections = ConnectionServer(self._handle, self._limits, self.counters, executor)
        loop = asyncio.get_running_loop()
        try:
            listener = await loop.create_server(connections, self._host, self._port, backlog=1024, ssl=self._tls)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        self._running = _Running(listener, connections, executor)

    async def stop(self, *, grace_s: float = 5.0) -> None:
        """Stop listening, give requests under way *grace_s* to finish, end every connection. Idempotent."""
        running, self._running = self._running, None
        if running is None:
            return
        running.listener.close()
        running.connections.pre_shutdown()
        await running.connections.shutdown(grace_s)
        await running.listener.wait_closed()
        running.connections.files.clear()
        await asyncio.get_running_loop().run_in_executor(None, running.executor.shutdown)

    async def _handle(self, http_request: web.BaseRequest) -> web.StreamResponse:
        self.counters.received += 1
        connection = http_request.protocol
        assert isinstance(connection, Connection)
        exchange = Exchange(http_request, connection, self._limits)
        request = to_request(http_request.method, http_request.raw_path, http_request.raw_headers)
        if request is None:
            return exchange.refuse(_BAD_TARGET, Request(http_request.method, "http", "", "/", Fields()))
        origin = Origin(encrypted=http_request.secure, address=http_request.remote)
        grant = self._gate.authenticate(request, origin)
        if isinstance(grant, Rejection):
            return exchange.refuse(grant, request)
        if "transfer-encoding" in request.fields:
            # The size must be known before the first byte is read (`http.Body`), as for the real service.
            return exchange.refuse(_NO_LENGTH, request)
        return await self._execute(exchange, request, grant, origin)

    async def _execute(self, exchange: Exchange, request: Request, grant: Grant, origin: Origin) -> Answer:
        body = exchange.body(request)
        try:
            response = await self._gate.execute(self._backend, request, body, grant, origin)
            if body.broken:
                # Whatever the backend made of it, nobody is left to read an answer.
                return exchange.abandon(response)
            return exchange.answer(request, response, body)
        except Exception as error:
            if body.broken:
                return exchange.abandon()
            self.counters.failed += 1
            self._log_fault(request, error)
            return exchange.refuse(_INTERNAL_ERROR, request)

    def _log_fault(self, request: Request, error: Exception) -> None:
        """Log a fault of ours, but not as often as a peer can provoke it (design rule 11)."""
        now_s = time.monotonic()
        if now_s - self._error_logged_at_s >= _ERROR_LOG_INTERVAL_S:
            self._error_logged_at_s = now_s
            failed = self.counters.failed
            logger.error("%s %s failed; %d so far", request.method, request.target, failed, exc_info=error)
