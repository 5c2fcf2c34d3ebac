"""What is known of a cached blob's version, and the answers made of it: heads as the service gives them, in our slots.

Everything here is made of a 206 answer of the service to a range of the blob: its fields are those of every other read
of the same version, but for the few that speak of the range or of the one request.
Source: Azure REST, "Get Blob".
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import formatdate
from typing import Literal
from uuid import uuid4

from pvblob.frozen import replace
from pvblob.http import ByteRange, Fields, Head, Request, Slot
from pvblob.upstream.forward import DEFAULT_VERSION

# They speak of one answer. The blob's own MD5 is `content-md5` to a whole read, `x-ms-blob-content-md5` to a range.
_OF_ONE_ANSWER = frozenset(
    {
        "content-length",
        "content-md5",
        "content-range",
        "date",
        "x-ms-blob-content-md5",
        "x-ms-client-request-id",
        "x-ms-request-id",
        "x-ms-version",
    }
)


@dataclass(frozen=True, slots=True)
class BlobHead:
    """One version of a blob. etag: as sent, quotes included.  pairs: fields of every read of it."""

    etag: str
    size_bytes: int
    md5: str | None
    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, fields: Fields) -> BlobHead | None:
        """Return the version that a 206 answer's *fields* describe, or None when they do not say enough."""
        etag = fields.get("etag")
        total = (fields.get("content-range") or "").rpartition("/")[2]
        if not etag or etag.startswith("W/") or not (total.isascii() and total.isdigit()):
            return None
        pairs = tuple(pair for pair in fields.pairs() if pair[0] not in _OF_ONE_ANSWER)
        return cls(etag, int(total), fields.get("x-ms-blob-content-md5"), pairs)

    def answer_fields(self, request: Request, span: tuple[int, int] | None) -> Fields:
        """Return the fields of the answer to *request*: of bytes *span* = (offset, length), or of the whole blob."""
        offset, length = span or (0, self.size_bytes)
        fields = Fields.lowered(
            [
                ("content-length", str(length)),
                ("date", formatdate(time.time(), usegmt=True)),
                ("x-ms-request-id", str(uuid4())),
                ("x-ms-version", request.fields.get("x-ms-version") or DEFAULT_VERSION),
                *self.pairs,
            ]
        )
        client_id = request.fields.get("x-ms-client-request-id")
        if client_id is not None and client_id.isprintable():
            fields.add("x-ms-client-request-id", client_id)
        if span is not None:
            fields.add("content-range", f"bytes {offset}-{offset + length - 1}/{self.size_bytes}")
        if self.md5 is not None:
            fields.add("content-md5" if span is None else "x-ms-blob-content-md5", self.md5)
        return fields

    def ready(self, status: int, pairs: tuple[tuple[str, str], ...], *, part: bool = False) -> Head:
        """Return the same as a head whose varying values are slots; *pairs* as in `pairs`."""
        lines: list[tuple[str, str | Slot]] = [
            ("content-length", Slot.LENGTH),
            ("date", Slot.DATE),
            ("x-ms-request-id", Slot.REQUEST_ID),
            ("x-ms-version", Slot.VERSION),
            *pairs,
            ("x-ms-client-request-id", Slot.CLIENT_REQUEST_ID),
        ]
        if part:
            lines.append(("content-range", Slot.RANGE))
        if self.md5 is not None:
            lines.append(("x-ms-blob-content-md5" if part else "content-md5", self.md5))
        return Head(status, lines)


def own_pairs(fields: Fields) -> tuple[tuple[str, str], ...]:
    """Return the fields of an answer that do not speak of one answer."""
    return tuple(pair for pair in fields.pairs() if pair[0] not in _OF_ONE_ANSWER)


def asked_range(request: Request) -> ByteRange | Literal[False] | None:
    """Return the range asked for, None for the whole blob, False for one that cannot be read."""
    text = request.fields.get("x-ms-range") or request.fields.get("range")
    if text is None:
        return None
    return ByteRange.parse(text) or False


def bare(request: Request) -> Request:
    """Return *request* without its range, its condition and what belongs to one guest."""
    fields = Fields.lowered(list(request.fields.pairs()))
    for name in ("range", "x-ms-range", "if-match", "x-ms-client-request-id"):
        fields.discard(name)
    return replace(request, fields=fields)


def head_of(request: Request, head: BlobHead) -> Request:
    """Return the HEAD request for the version that *head* describes."""
    made = bare(request)
    made.fields.set("if-match", head.etag)
    return replace(made, method="HEAD", wants_offload=False)
