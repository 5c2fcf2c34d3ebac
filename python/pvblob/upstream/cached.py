"""Content that is read from cached blocks as it is asked for: what is too large to be had at once.

A block that is not here is fetched and kept; one that cannot be kept (the disk is full) goes straight to the reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

from pvblob import _native
from pvblob.http import ArrivingContent, ContentLost
from pvblob.upstream.block_files import BLOCK_BYTES
from pvblob.upstream.downloads import RemoteContent
from pvblob.upstream.failures import GivenUp
from pvblob.upstream.fetching import Reading

BLOCKS_AHEAD = 4


class CachedContent(ArrivingContent):
    """*size_bytes* bytes from *first* of a blob.

    block: gives a descriptor, the caller's to close, of the block of a number; None when it cannot be kept here.
    remote: gives the content of the blob from a byte on, so many of them, from the account.  reading: is told what is
    read next, before it is.
    """

    def __init__(
        self,
        first: int,
        size_bytes: int,
        block: Callable[[int, Reading], Awaitable[int | None]],
        remote: Callable[[int, int], Awaitable[RemoteContent]],
        reading: Callable[[int, int], Reading],
    ) -> None:
        self.size_bytes = size_bytes
        self._first = first
        self._block = block
        self._remote = remote
        self._reading = reading

    async def place(self, buffer: _native.HostRequest, offset: int, length: int) -> None:
        """See `ArrivingContent.place`."""
        turns = asyncio.Semaphore(BLOCKS_AHEAD)
        begin = self._first + offset
        reading = self._reading(begin, length)

        async def place(at: int, start: int, size: int) -> None:
            async with turns:
                await self._place(buffer, at, start, size, reading)

        tasks = [asyncio.ensure_future(place(start - begin, start, size)) for start, size in _parts(begin, length)]
        try:
            await asyncio.gather(*tasks)
        except GivenUp as given_up:
            raise ContentLost(given_up.response) from None
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def chunks(self) -> AsyncIterator[bytes]:
        """See `ArrivingContent.chunks`."""
        loop = asyncio.get_running_loop()
        try:
            for start, size in _parts(self._first, self.size_bytes):
                fd = await self._block(start // BLOCK_BYTES, self._reading(start, size))
                if fd is not None:
                    try:
                        yield await loop.run_in_executor(None, os.pread, fd, size, start % BLOCK_BYTES)
                    finally:
                        os.close(fd)
                else:
                    content = await self._remote(start, size)
                    with contextlib.closing(_Releasing(content)):
                        async for chunk in content.chunks():
                            yield chunk
        except GivenUp as given_up:
            raise ContentLost(given_up.response) from None

    def release(self) -> None:
        """Nothing is held between two steps."""

    async def _place(self, buffer: _native.HostRequest, at: int, start: int, size: int, reading: Reading) -> None:
        fd = await self._block(start // BLOCK_BYTES, reading)
        if fd is None:
            content = await self._remote(start, size)
            with contextlib.closing(_Releasing(content)):
                await content.place_at(buffer, at, 0, size)
            return
        loading = asyncio.get_running_loop().run_in_executor(None, buffer.load_data, at, fd, start % BLOCK_BYTES, size)
        try:
            await asyncio.shield(loading)
        finally:
            # A cancelled caller completes the request: until the thread is done with its pages that must wait.
            while not loading.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([loading])
            os.close(fd)


class _Releasing:
    """A content whose `close` is its release."""

    def __init__(self, content: RemoteContent) -> None:
        self.close = content.release


def _parts(begin: int, length: int) -> list[tuple[int, int]]:
    """Return (first byte, size) of the parts of bytes *begin* to *begin + length*, cut where blocks end."""
    parts = []
    end = begin + length
    while begin < end:
        size = min(end - begin, BLOCK_BYTES - begin % BLOCK_BYTES)
        parts.append((begin, size))
        begin += size
    return parts
