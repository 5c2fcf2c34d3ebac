"""Content codings: what the stock transports undo by default when a blob carries `Content-Encoding: gzip` or `deflate`.

The SDK passes `decompress=False` down when the user does not want this. Codings other than these two are left alone, as
the stock transports leave them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from azure.core.exceptions import DecodeError


def decoded(content: bytes, headers: Mapping[str, str]) -> bytes:
    """Return *content* with its content coding undone, the same object when there is none.

    A range of a coded blob ends early; what it holds is returned. Raises azure.core's DecodeError for other damage.
    """
    coding = headers.get("content-encoding")
    if not coding or not content:
        return content
    decode = _DECODERS.get(coding.strip().lower())
    if decode is None:
        return content
    import zlib

    try:
        return decode(content, zlib)
    except zlib.error as error:
        raise DecodeError(f"the content is not {coding}: {error}", error=error) from error


def _gunzip(content: bytes, zlib: Any) -> bytes:
    # RFC 1952 §2.2: a gzip file is a series of members.
    parts, rest = [], content
    while rest:
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        parts.append(member.decompress(rest))
        rest = member.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _inflate(content: bytes, zlib: Any) -> bytes:
    # RFC 9110 §8.4.1.2: some senders leave out the zlib header that "deflate" prescribes.
    try:
        return bytes(zlib.decompressobj().decompress(content))
    except zlib.error:
        return bytes(zlib.decompressobj(-zlib.MAX_WBITS).decompress(content))


_DECODERS: dict[str, Callable[[bytes, Any], bytes]] = {"gzip": _gunzip, "x-gzip": _gunzip, "deflate": _inflate}
