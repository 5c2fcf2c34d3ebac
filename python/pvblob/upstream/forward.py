"""A guest's request as it goes upstream: every field and byte kept, but what belongs to one connection or one sender.

Invariant: what policy judged is what is sent. A path with dot segments is refused, because servers resolve them: they
would lead out of the container that was judged.
"""

from __future__ import annotations

import re

from pvblob.blobs.auth import Rejection
from pvblob.http import METADATA_NAMES, Fields, Request
from pvblob.upstream.credentials import strip_guests_credential
from pvblob.upstream.endpoint import EndpointUrl, target_at, url_at

# They belong to one connection. Source: RFC 9110 §7.6.1. Host and Content-Length are written anew.
_OF_ONE_CONNECTION = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_WITH_CONTENT = frozenset({"PUT", "POST", "PATCH"})
_DOT_SEGMENT = re.compile(r"(?:^|/|\\|%2f|%5c)(?:\.|%2e){1,2}(?:/|\\|%2f|%5c|$)", re.IGNORECASE)
# Said for guests that say none: without it a request signed with a key speaks a version of 2009.
DEFAULT_VERSION = "2023-11-03"

DOTS_REFUSED = Rejection(
    400, "InvalidUri", "The path has a segment '.' or '..': the service would resolve it and answer for another name."
)


def has_dot_segment(target: str) -> bool:
    """Say whether the path of a raw target has a segment that is `.` or `..`, percent-encoded or not."""
    return _DOT_SEGMENT.search(target.partition("?")[0]) is not None


def forwarded(request: Request, endpoint: EndpointUrl, account: str, size_bytes: int, *, guests_own: bool) -> Request:
    """Return *request* as it is sent to *endpoint* with *size_bytes* of content, not authorized yet.

    guests_own: the guest's credential stays in it.
    """
    fields = request.fields
    dropped = _OF_ONE_CONNECTION
    named = fields.get("connection")
    if named:
        dropped = dropped | {name.strip().lower() for name in named.split(",")}
    pairs = [(name, value) for name, value in fields.pairs() if name not in dropped]
    pairs = [pair for pair in pairs if not pair[0].startswith("pvblob-") or pair[0] == METADATA_NAMES]
    pairs.append(("host", endpoint.authority))
    if size_bytes or request.method in _WITH_CONTENT:
        pairs.append(("content-length", str(size_bytes)))
    target = target_at(endpoint, request.authority, request.target)
    sent = Request(request.method, endpoint.scheme, endpoint.authority, target, Fields.lowered(pairs))
    if not guests_own:
        strip_guests_credential(sent)
        if "x-ms-version" not in fields:
            sent.fields.set("x-ms-version", DEFAULT_VERSION)
    source = fields.get("x-ms-copy-source")
    if source is not None:
        sent.fields.set("x-ms-copy-source", url_at(endpoint, account, source))
    return sent


def answered_fields(fields: Fields) -> Fields:
    """Return an answer's fields without those of its connection; Content-Length stays."""
    kept = _OF_ONE_CONNECTION - {"content-length"}
    return Fields.lowered([pair for pair in fields.pairs() if pair[0] not in kept])
