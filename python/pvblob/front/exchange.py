"""One request and its answer on a connection: the body's start, the connection's fate, the answer's framing.

The flow: the front makes an `Exchange` per request, takes the body from it and gives it the response. Invariant: the
connection is kept only when the next byte on it will be the next request's first. It must not know who asks for what.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, web

from pvblob.blobs.auth import Rejection
from pvblob.front.body import HttpBody
from pvblob.front.connection import Answer, Connection
from pvblob.front.limits import FrontLimits
from pvblob.front.message import may_have_content, response_head
from pvblob.http import Request, Response, discard

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Exchange:
    """One request on *connection*, from its head to its answer."""

    def __init__(self, http_request: web.BaseRequest, connection: Connection, limits: FrontLimits) -> None:
        self._http_request = http_request
        self._connection = connection
        self._limits = limits
        self._continue_owed = False

    def body(self, request: Request) -> HttpBody:
        """Return the request's content, still on its way.

        The parser has checked that Content-Length is one decimal number. Source: RFC 9110 §10.1.1 for Expect.
        """
        expectation = (request.fields.get("expect") or "").lower()
        self._continue_owed = expectation == "100-continue" and self._http_request.version >= HttpVersion11
        return HttpBody(
            self._http_request.content,
            int(request.fields.get("content-length") or 0),
            continue_hook=self._send_continue,
            executor=self._connection.executor,
            stall_timeout_s=self._limits.stall_timeout_s,
        )

    def refuse(self, rejection: Rejection, request: Request) -> Answer:
        """Return the answer that says *rejection*; a body that is on its way ends the connection."""
        keep_alive = self._http_request.keep_alive and self._http_request.content.is_eof()
        return self._connection.refuse(rejection, request, self._http_request, keep_alive=keep_alive)

    def answer(self, request: Request, response: Response, body: HttpBody) -> Answer:
        """Return the answer made of *response*, whose content it takes over. Raises ValueError for bad field text."""
        keep_alive = self._http_request.keep_alive and self._is_at_next_request(body)
        content = response.content
        if not may_have_content(request, response):
            discard(content)
            content = b""
            size_bytes = None
        else:
            size_bytes = len(content) if isinstance(content, bytes) else content.size_bytes
        try:
            head = response_head(response, content_size_bytes=size_bytes, keep_alive=keep_alive)
        except BaseException:
            discard(content)
            raise
        return self._connection.answer(self._http_request, head, content, keep_alive=keep_alive)

    def abandon(self, response: Response | None = None) -> Answer:
        """Return the answer to a client that has gone or stalled: none. *response* is given back."""
        if response is not None:
            discard(response.content)
        transport = self._connection.transport
        if transport is not None:
            transport.abort()
        return self._connection.answer(self._http_request, b"", b"", keep_alive=False)

    def _send_continue(self) -> None:
        transport = self._connection.transport
        if self._continue_owed and transport is not None:
            transport.write(_CONTINUE)
        self._continue_owed = False

    def _is_at_next_request(self, body: HttpBody) -> bool:
        if self._http_request.content.is_eof():
            return True
        # A client still waiting for "100 Continue" may or may not send its body after this answer. Otherwise the
        # connection reads and drops the rest, which is worth it only while that is cheaper than a new connection.
        return not self._continue_owed and body.missing_bytes <= self._limits.unread_bytes_max
