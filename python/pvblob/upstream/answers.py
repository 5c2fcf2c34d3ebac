"""From an answer of the service to a `Response`: what is small is bytes, what is large stays on its way.

A document whose length nobody said (a listing, a query's result) is read whole: into memory while it is small, then
into a file without a name.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack

from pvblob.http import Extent, Fields, FileContent, Response
from pvblob.upstream.forward import answered_fields
from pvblob.upstream.transport import Answer, TransportFailure

# Content up to here comes with the head, in one step: a second one costs more than the copy.
INLINE_BYTES_MAX = 256 * 1024
IN_MEMORY_BYTES_MAX = 8 << 20
SPOOLED_BYTES_MAX = 4 << 30


def plain_response(status: int, fields: Fields, content: bytes) -> Response:
    """Return the response made of an answer whose whole content is *content*."""
    kept = answered_fields(fields)
    if "content-length" not in kept:
        kept.set("content-length", str(len(content)))
    return Response(status, kept, content)


async def read_whole(answer: Answer) -> Response:
    """Return the response of *answer*, its content read to the end. Raises TransportFailure when there is no end."""
    try:
        if answer.content is not None:
            return plain_response(answer.status, answer.fields, answer.content)
        parts: list[bytes] = []
        size_bytes = 0
        while part := await answer.read(IN_MEMORY_BYTES_MAX - size_bytes):
            parts.append(part)
            size_bytes += len(part)
            if size_bytes == IN_MEMORY_BYTES_MAX:
                return await _spooled(answer, b"".join(parts))
        return plain_response(answer.status, answer.fields, b"".join(parts))
    finally:
        answer.drop()


async def _spooled(answer: Answer, begin: bytes) -> Response:
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        file.write(begin)
        size_bytes = len(begin)
        while moved := await answer.fill(file.fileno(), size_bytes, SPOOLED_BYTES_MAX - size_bytes):
            size_bytes += moved
            if size_bytes == SPOOLED_BYTES_MAX:
                raise TransportFailure("truncated", f"its content is larger than {SPOOLED_BYTES_MAX} bytes")
        fields = answered_fields(answer.fields)
        fields.set("content-length", str(size_bytes))
        content = FileContent((Extent(file.fileno(), 0, size_bytes),), stack.pop_all().close)
        return Response(answer.status, fields, content)
