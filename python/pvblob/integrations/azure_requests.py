"""An azure-core request, of either family, made into the nouns of the exchange: `http.Request` and a body.

It runs once per call, so it takes the URL apart with two searches and no parser, and reads the header mapping's lower
case names as they are stored. The URL's path and query are handed on untouched: they are signed, and the host parses
them. Nothing here sends anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from pvblob.http_request import METADATA, Fields, Request, metadata_spelling
from pvblob.integrations.azure_bodies import Piece, as_buffer, async_upload_body, cut, upload_body

if TYPE_CHECKING:
    from pvblob.client.exchange import AsyncUploadSource, UploadSource

# The service refuses these without a Content-Length even when they have no body; the SDK leaves it to the transport.
_METHODS_WITH_LENGTH = frozenset({"PUT", "POST", "PATCH", "DELETE"})


def is_rest(request: Any) -> bool:
    """Tell azure.core.rest requests from legacy ones, as the stock transports do: only the former have `content`."""
    return hasattr(request, "content")


def request_head(request: Any) -> Request:
    """Return method, URL and header fields of *request*. ValueError when the URL is not absolute."""
    scheme, separator, rest = request.url.partition("://")
    if not separator:
        raise ValueError(f"the request's URL has no scheme: {request.url!r}")
    slash = rest.find("/")
    if slash < 0 or "?" in rest[:slash]:
        slash, rest = _with_path(rest)
    target = rest[slash:]
    if not target.isascii() or " " in target or "#" in target:
        target = quote(target.partition("#")[0], safe="/?:@!$&'()*+,;=~%[]")
    method = request.method.upper()
    fields = _fields(request.headers)
    if method == "PUT":  # what may set metadata
        _keep_spelling(request.headers, fields)
    return Request(method, scheme, rest[:slash], target, fields)


def body_of(request: Any, head: Request) -> Piece | UploadSource | None:
    """Return the body of *request* for a synchronous exchange, and make *head*'s Content-Length say its size."""
    body = _raw_body(request)
    if body is None:
        _declare_no_body(head)
        return None
    buffer = as_buffer(body)
    if buffer is not None:
        return _measured(buffer, head, measured_by_sdk=not isinstance(body, str))
    declared = head.fields.get("content-length")
    sent = upload_body(body, None if declared is None else int(declared))
    if declared is None:
        head.fields.add("content-length", str(_size_bytes(sent)))
    return sent


async def async_body_of(request: Any, head: Request) -> Piece | AsyncUploadSource | None:
    """Return the body of *request* for an async exchange, and make *head*'s Content-Length say its size."""
    body = _raw_body(request)
    if body is None:
        _declare_no_body(head)
        return None
    buffer = as_buffer(body)
    if buffer is not None:
        return _measured(buffer, head, measured_by_sdk=not isinstance(body, str))
    declared = head.fields.get("content-length")
    sent = await async_upload_body(body, None if declared is None else int(declared))
    if declared is None:
        head.fields.add("content-length", str(_size_bytes(sent)))
    return sent


def deadline_s(target: str, default_s: float, read_timeout: Any, connection_timeout: Any) -> float:
    """Return the seconds this request may take, everything below the seam included.

    The smaller of what the caller said: `read_timeout=` of the call (for the stock transports the longest silence, here
    a bound on the whole request) and `timeout=` of the operation (the service's own bound, which the SDK sends as a
    query parameter). Neither: *default_s*. There is no connection to set up, so `connection_timeout=` bounds nothing,
    unless it is the deprecated pair (connect, read).
    """
    if isinstance(connection_timeout, tuple) and read_timeout is None:
        read_timeout = connection_timeout[1]
    if "timeout=" in target:
        stated = parse_qs(target.partition("?")[2]).get("timeout", ("",))[0]
        if stated.isascii() and stated.isdigit() and int(stated) > 0:
            return float(stated) if read_timeout is None else min(float(stated), float(read_timeout))
    return default_s if read_timeout is None else float(read_timeout)


def _with_path(rest: str) -> tuple[int, str]:
    # RFC 9110 §4.2.1: an empty path means "/". A slash inside the query is none of the path's.
    authority, question, query = rest.partition("?")
    return len(authority), f"{authority}/{question}{query}"


def _fields(headers: Any) -> Fields:
    # azure-core's own mapping stores lower-case names; asking for them saves two calls per field.
    if hasattr(headers, "lowerkey_items"):
        pairs = list(headers.lowerkey_items())
        try:
            if "".join([value for _, value in pairs]).isascii():
                return Fields.lowered(pairs)
        except TypeError:  # a value that is no str
            pass
    else:
        pairs = list(headers.items())
    return Fields((name, _field_text(value)) for name, value in pairs if value is not None)


def _keep_spelling(headers: Any, fields: Fields) -> None:
    names = [name[len(METADATA) :] for name in headers if name.lower().startswith(METADATA)]
    for name, value in metadata_spelling(names) if names else ():
        fields.add(name, value)


def _field_text(value: Any) -> str:
    """Return UTF-8 bytes as text of one character each: UTF-8 is the form in which the SDK signs a value."""
    return (value if isinstance(value, bytes) else str(value).encode()).decode("latin-1")


def _raw_body(request: Any) -> Any:
    if is_rest(request):
        body, files = request.content, request._files
    else:
        body, files = request.data, request.files
    if files:
        raise TypeError("multipart forms (files=) are no part of the Blob service's API: pass the body as bytes")
    return body


def _declare_no_body(head: Request) -> None:
    if head.method in _METHODS_WITH_LENGTH and "content-length" not in head.fields:
        head.fields.add("content-length", "0")


def _measured(buffer: Piece, head: Request, *, measured_by_sdk: bool) -> Piece:
    declared = head.fields.get("content-length")
    if declared is None or not measured_by_sdk:  # for a str the SDK counts characters
        head.fields.set("content-length", str(len(buffer)))
        return buffer
    return buffer if int(declared) == len(buffer) else cut(buffer, int(declared))


def _size_bytes(body: Any) -> int:
    return len(body) if isinstance(body, (bytes, bytearray, memoryview)) else int(body.size_bytes)
