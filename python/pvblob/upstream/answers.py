"""From an answer of the service to a `Response`: what is small is bytes, what is large stays on its way.

A document whose length nobody said (a listing, a query's result) is read whole: into memory while it is small, then
into a file without a name.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack

from pvblob.http import Extent, Fields, FileContent, Request, Response
from pvblob.upstream.failures import unreachable
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


async def read_whole(request: Request, account: str, answer: Answer) -> Response:
    """Return the response of *answer*, its content read to the end. Raises GivenUp."""
    try:
        if answer.content is not None:
            return plain_response(answer.status, answer.fields, answer.content)
        content = await answer.read(IN_MEMORY_BYTES_MAX)
        if len(content) < IN_MEMORY_BYTES_MAX:
            return plain_response(answer.status, answer.fields, content)
        return await _spooled(answer, content)
    except TransportFailure as failure:
        raise unreachable(request, account, str(failure)) from None
    finally:
        answer.drop()


async def _spooled(answer: Answer, begin: bytes) -> Response:
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        file.write(begin)
        room = SPOOLED_BYTES_MAX - len(begin)
        size_bytes = len(begin) + await answer.fill(file.fileno(), len(begin), room)
        if size_bytes == SPOOLED_BYTES_MAX:
            raise TransportFailure("truncated", f"its content is larger than {SPOOLED_BYTES_MAX} bytes")
        fields = answered_fields(answer.fields)
        fields.set("content-length", str(size_bytes))
        content = FileContent((Extent(file.fileno(), 0, size_bytes),), stack.pop_all().close)
        return Response(answer.status, fields, content)
