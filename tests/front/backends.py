"""A backend of a few lines for tests of the HTTP front: it stores bodies in one file and answers from it.

It records every request, every release and every body that broke, so that a test can say what reached it.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pvblob.http import Body, ByteRange, Extent, Fields, FileContent, Request, Response, Stored


class MemoryBackend:
    """PUT stores the body under the target, GET and HEAD answer with it, everything else is 204.

    Set `answer` to answer every request with that; clear `may_answer` to hold answers back.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self._end = 0
        self.places: dict[str, tuple[int, int]] = {}
        self.stored: dict[str, Stored] = {}
        self.requests: list[Request] = []
        self.broken: list[Exception] = []
        self.pinned = 0
        self.releases = 0
        self.answer: Response | None = None
        self.fault: Exception | None = None
        self.reads_bodies = True
        self.swallows_broken_bodies = False
        self.called = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def execute(self, request: Request, body: Body) -> Response:
        self.requests.append(request)
        self.called.set()
        await self.may_answer.wait()
        if self.fault is not None:
            raise self.fault
        if self.answer is not None:
            return self.answer
        if request.method == "PUT":
            return await self._put(request, body) if self.reads_bodies else Response(409, Fields())
        if request.method in ("GET", "HEAD") and request.target in self.places:
            return self._get(request)
        return Response(204, Fields())

    async def _put(self, request: Request, body: Body) -> Response:
        offset, self._end = self._end, self._end + body.size_bytes
        try:
            self.stored[request.target] = await body.store(self._fd, offset, md5=True)
        except ConnectionError as error:
            self.broken.append(error)
            if self.swallows_broken_bodies:
                return Response(400, Fields(), self.pin(Extent(self._fd, 0, 0)))
            raise
        self.places[request.target] = (offset, body.size_bytes)
        return Response(201, Fields([("Content-Length", "0"), ("ETag", '"0x1"')]))

    def _get(self, request: Request) -> Response:
        offset, size_bytes = self.places[request.target]
        span = ByteRange.parse(request.fields.get("x-ms-range") or request.fields.get("range") or "")
        first, length = (0, size_bytes) if span is None else span.resolve(size_bytes) or (0, 0)
        fields = Fields([("content-length", str(length)), ("etag", '"0x1"')])
        return Response(200 if span is None else 206, fields, self.pin(Extent(self._fd, offset + first, length)))

    def pin(self, *extents: Extent) -> FileContent:
        """Return content whose release is counted."""
        self.pinned += 1

        def release() -> None:
            self.releases += 1

        return FileContent(extents, release)

    def bytes_of(self, target: str) -> bytes:
        offset, size_bytes = self.places[target]
        return os.pread(self._fd, size_bytes, offset)

    def put(self, target: str, data: bytes) -> None:
        """Store *data* without a request."""
        os.pwrite(self._fd, data, self._end)
        self.places[target] = (self._end, len(data))
        self._end += len(data)

    def truncate(self, size_bytes: int) -> None:
        os.ftruncate(self._fd, size_bytes)

    def close(self) -> None:
        os.close(self._fd)
