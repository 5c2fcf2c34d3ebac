"""A request's content as something that can be sent more than once: where it lies, or a copy in memory or on disk.

What lies whole in a guest's packet goes out of the guest's pages. What arrives in pieces or over HTTP is kept first,
within a bound for the whole machine: an attempt that failed must be able to begin again.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pvblob.http import Body
from pvblob.upstream.transport import NO_BODY, Part

READ_BYTES_MAX = 256 * 1024
IN_MEMORY_BYTES_MAX = 64 << 20


class SpoolFull(Exception):
    """There is no room for a body, and waiting will not make any."""


class Spool:
    """Room for bodies that must be kept while they are sent: *bytes_max* for all of them together."""

    def __init__(self, bytes_max: int = 8 << 30) -> None:
        self._bytes_max = bytes_max
        self._used = 0
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def part(self, body: Body) -> AsyncIterator[Part]:
        """Give the body as a part that can be read often, until the block ends. Raises SpoolFull, OSError."""
        size_bytes = body.size_bytes
        if not size_bytes:
            yield NO_BODY
        elif (lent := body.lent) is not None:
            yield Part(lent, 0, size_bytes)
        elif size_bytes <= READ_BYTES_MAX:
            yield Part(await body.read(), 0, size_bytes)
        else:
            async with self._room(size_bytes):
                fd = _file(size_bytes)
                try:
                    await body.store(fd, 0, md5=False)
                    yield Part(fd, 0, size_bytes)
                finally:
                    os.close(fd)

    @asynccontextmanager
    async def _room(self, size_bytes: int) -> AsyncIterator[None]:
        if size_bytes > self._bytes_max:
            raise SpoolFull(f"a body of {size_bytes} bytes does not fit the {self._bytes_max} bytes kept for bodies")
        async with self._freed:
            await self._freed.wait_for(lambda: self._used + size_bytes <= self._bytes_max)
            self._used += size_bytes
        try:
            yield
        finally:
            self._used -= size_bytes
            async with self._freed:
                self._freed.notify_all()


def _file(size_bytes: int) -> int:
    if size_bytes <= IN_MEMORY_BYTES_MAX:
        return os.memfd_create("pvblob-body", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())
