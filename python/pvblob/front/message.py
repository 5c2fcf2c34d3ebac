"""Heads of HTTP messages: from what the parser read to `Request`, from `Response` to the bytes of a head.

The flow: the connection's parser gives the raw request line and fields, `to_request` makes the noun every backend
knows; on the way back `response_head` makes bytes. Invariant: bytes pass unchanged both ways (percent-encoding is
untouched, field values are ISO 8859-1, one character per byte, metadata names keep their case), except that no value
can end a line.
It must not know accounts, operations or sockets.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from pvblob.http import Request, Response
from pvblob.http_fields import received_fields, spelled_fields

# They describe one connection, not the answer; this module writes its own. Source: RFC 9110 §7.6.1.
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"})
_LINE_ENDS = str.maketrans("\r\n\0", "   ")
_WITHOUT_CONTENT = frozenset({204, 304})


def to_request(method: str, raw_path: str, raw_fields: Iterable[tuple[bytes, bytes]]) -> Request | None:
    """Return the request a parsed head describes; None when its target is no path (authority or asterisk form).

    raw_path: the request target as aiohttp's parser gives it.  raw_fields: names and values as sent.
    Source: RFC 9112 §3.2 (origin form; absolute form, whose authority wins over Host).
    """
    fields = received_fields([(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw_fields])
    # The parser decoded the target as UTF-8 with escapes for what is not; this gives back the bytes that were sent.
    target = raw_path.encode("utf-8", "surrogateescape").decode("latin-1")
    authority = fields.get("host") or ""
    if not target.startswith("/"):
        _, found, rest = target.partition("://")
        if not found:
            return None
        authority, slash, path = rest.partition("/")
        target = slash + path or "/"
    return Request(method, "http", authority, target, fields)


def may_have_content(request: Request, response: Response) -> bool:
    """Say whether content may follow the head. Source: RFC 9112 §6.3."""
    return request.method != "HEAD" and response.status not in _WITHOUT_CONTENT and response.status >= 200


def response_head(response: Response, *, content_size_bytes: int | None, keep_alive: bool) -> bytes:
    """Return status line and fields, the empty line included.

    content_size_bytes: what will follow, stated as Content-Length whatever the response says, so that the framing is
    always right; None when nothing may follow (the response's own Content-Length then says what GET would have).
    """
    lines = [f"{name}: {value}\r\n" for name, value in spelled_fields(response.fields) if name not in _HOP_BY_HOP]
    if content_size_bytes is not None:
        lines = [line for line in lines if not line.startswith("content-length:")]
        lines.append(f"content-length: {content_size_bytes}\r\n")
    if "date" not in response.fields:
        lines.append(f"date: {_http_date(int(time.time()))}\r\n")
    lines.append(f"connection: {'keep-alive' if keep_alive else 'close'}\r\n")
    head = "".join(lines)
    if head.count("\n") != len(lines) or head.count("\r") != len(lines) or "\0" in head:
        # A value holds a line end: metadata that came over a channel may. Source: RFC 9110 §5.5.
        head = "".join(line[:-2].translate(_LINE_ENDS) + "\r\n" for line in lines)
    return f"HTTP/1.1 {response.status} {_reason(response.status)}\r\n{head}\r\n".encode("latin-1")


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


@lru_cache(maxsize=2)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)
