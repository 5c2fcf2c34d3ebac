"""Content on its way from an account: read once from the answer it came with, and by ranges pinned by ETag after that.

A range that breaks off goes on where it broke, under If-Match, so the bytes placed are of one version or the content
is lost. Ranges larger than a part are had in parallel, each part straight to its place in the guest's buffer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from pvblob import _native
from pvblob.frozen import replace
from pvblob.http import ArrivingContent, ContentLost, Fields, Request
from pvblob.upstream import failures
from pvblob.upstream.answers import plain_response
from pvblob.upstream.attempts import Attempts
from pvblob.upstream.failures import GivenUp
from pvblob.upstream.transport import NO_BODY, Answer, TransportFailure

CHUNK_BYTES = 1 << 20
# A body that breaks off again and again without a byte in between is not worth more.
_BREAKS_MAX = 8


@dataclass(frozen=True, slots=True)
class Cutting:
    """How large contents are cut.

    part_size_bytes: of a range.  parallel: ranges, or blocks, of one content at a time.  put_block_bytes: a Put Blob
    larger than this becomes blocks of this size; None: it stays one request.
    """

    part_size_bytes: int = 8 << 20
    parallel: int = 4
    put_block_bytes: int | None = None


@dataclass(slots=True)
class _Stream:
    """The answer the content began with, as long as nobody reads elsewhere. position: of its next byte."""

    answer: Answer
    position: int
    end: int


class RemoteContent(ArrivingContent):
    """The content of *answer* to *request*: bytes *first* to *first + size_bytes* of the version *etag* of a blob.

    stream_end: how many bytes of the content the answer itself carries; the rest is asked for by ranges.
    """

    def __init__(
        self,
        attempts: Attempts,
        request: Request,
        answer: Answer,
        size_bytes: int,
        *,
        first: int,
        etag: str,
        cutting: Cutting,
        stream_end: int | None = None,
    ) -> None:
        self.size_bytes = size_bytes
        self._attempts = attempts
        self._request = request
        self._first = first
        self._etag = etag
        self._cutting = cutting
        self._stream: _Stream | None = _Stream(answer, 0, size_bytes if stream_end is None else stream_end)

    async def place(self, buffer: _native.HostRequest | int, offset: int, length: int) -> None:
        """See `ArrivingContent.place`; *buffer* may be a file too. Parts of `part_size_bytes` run in parallel."""
        await self.place_at(buffer, 0, offset, length)

    async def place_at(self, buffer: _native.HostRequest | int, at: int, offset: int, length: int) -> None:
        """`place`, but to *at* of the buffer."""
        pieces = self._pieces(offset, length)
        self._keep_stream_for(*pieces[0])
        if len(pieces) == 1:
            await self._place(buffer, offset - at, *pieces[0])
            return
        turns = asyncio.Semaphore(self._cutting.parallel)

        async def place(start: int, size: int) -> None:
            async with turns:
                await self._place(buffer, offset - at, start, size)

        tasks = [asyncio.ensure_future(place(*piece)) for piece in pieces]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            # Until the last of them is gone the buffer is not free.
            await asyncio.wait(tasks)

    async def chunks(self) -> AsyncIterator[bytes]:
        """See `ArrivingContent.chunks`."""
        position = 0
        while position < self.size_bytes:
            end = min(self.size_bytes, position + self._cutting.part_size_bytes)
            async for chunk in self._chunks(position, end):
                yield chunk
            position = end

    def release(self) -> None:
        """Let go of the answer's connection."""
        if self._stream is not None:
            self._stream.answer.drop()
            self._stream = None

    def _pieces(self, offset: int, length: int) -> list[tuple[int, int]]:
        part = self._cutting.part_size_bytes
        stream = self._stream
        comes = stream is not None and (stream.position, stream.end) == (offset, offset + length)
        if comes and length <= 4 * part:
            return [(offset, length)]  # it comes already: asking again would cost its connection
        end = offset + length
        pieces = [(start, min(part, end - start)) for start in range(offset, end, part)]
        # A rest too small for a request of its own goes with the last.
        if len(pieces) > 1 and pieces[-1][1] < part // 8:
            start, size = pieces[-2]
            pieces[-2:] = [(start, size + pieces[-1][1])]
        return pieces

    def _keep_stream_for(self, offset: int, length: int) -> None:
        """End the answer's own stream with this piece: between pieces nobody holds a connection others wait for."""
        stream = self._stream
        if stream is not None and stream.position == offset:
            stream.end = min(stream.end, offset + length)
        else:
            self.release()

    async def _place(self, buffer: _native.HostRequest | int, base: int, start: int, size: int) -> None:
        """Put bytes *start* to *start + size* of the content at *start - base* of the buffer."""
        done, breaks = 0, 0
        while done < size:
            stream = await self._stream_at(start + done, start + size)
            try:
                wanted = min(size - done, stream.end - stream.position)
                moved = await stream.answer.fill(buffer, start - base + done, wanted)
                if not moved:
                    raise TransportFailure("truncated", "the content ended before its end")
                stream.position += moved
                done += moved
            except TransportFailure as failure:
                breaks += 1
                self._broke(stream, failure, breaks)
            finally:
                self._leave(stream)

    async def _chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        breaks = 0
        while start < end:
            stream = await self._stream_at(start, end)
            try:
                while start < min(end, stream.end):
                    chunk = await stream.answer.read(min(CHUNK_BYTES, min(end, stream.end) - start))
                    if not chunk:
                        raise TransportFailure("truncated", "the content ended before its end")
                    stream.position += len(chunk)
                    start += len(chunk)
                    breaks = 0
                    yield chunk
            except TransportFailure as failure:
                breaks += 1
                self._broke(stream, failure, breaks)
            finally:
                self._leave(stream)

    async def _stream_at(self, start: int, end: int) -> _Stream:
        """Return something that gives the content from *start*: the answer it began with, or that of a new range."""
        stream = self._stream
        if stream is not None and stream.position == start < stream.end:
            self._stream = None  # ours until `_leave`
            return stream
        request = pinned_range(self._request, self._first + start, self._first + end, self._etag)
        try:
            answer = await self._attempts.perform(request, NO_BODY, inline_max=0)
        except GivenUp as given_up:
            raise self._lost(given_up) from None
        if answer.status != 206 or answer.size_bytes != end - start:
            await self._refused(answer, end - start)
        return _Stream(answer, start, end)

    async def _refused(self, answer: Answer, wanted: int) -> None:
        """The blob has changed, or its container is gone, or the server does not keep its word."""
        status, size_bytes = answer.status, answer.size_bytes
        content = answer.content or b""
        if answer.content is None and size_bytes and size_bytes <= CHUNK_BYTES and status >= 300:
            with contextlib.suppress(TransportFailure):
                content = await answer.read(size_bytes)
        answer.drop()
        if status >= 300:
            raise ContentLost(plain_response(status, answer.fields, content))
        reason = f"it answered {status} with {size_bytes} bytes to a range of {wanted}"
        raise self._lost(failures.unreachable(self._request, self._attempts.account, reason))

    def _broke(self, stream: _Stream, failure: TransportFailure, breaks: int) -> None:
        stream.answer.drop()
        stream.end = stream.position
        if breaks > _BREAKS_MAX or failure.kind == "local":
            raise self._lost(failures.unreachable(self._request, self._attempts.account, str(failure))) from failure

    def _leave(self, stream: _Stream) -> None:
        """Keep what can be read on, drop what is at its end."""
        if stream.position >= stream.end:
            stream.answer.drop()
        elif self._stream is None:
            self._stream = stream
        else:
            stream.answer.drop()

    @staticmethod
    def _lost(given_up: GivenUp) -> ContentLost:
        return ContentLost(given_up.response)


def pinned_range(request: Request, first: int, end: int, etag: str) -> Request:
    """Return the request for bytes *first* to *end* (exclusive) of the version *etag* of what *request* reads."""
    fields = Fields.lowered(list(request.fields.pairs()))
    for name in ("range", "if-none-match", "if-modified-since", "if-unmodified-since", "x-ms-range-get-content-md5"):
        fields.discard(name)
    fields.set("x-ms-range", f"bytes={first}-{end - 1}")
    fields.set("if-match", etag)
    return replace(request, fields=fields)
