"""An answer's content on its way out: file bytes go from the page cache to the socket by sendfile(2).

The flow: `Response` → one head → small content joined to it, large content by `loop.sendfile`, so a body of any size is
never copied in user space. Invariant: whatever happens, `FileContent.release` has been called exactly once when
`send` returns or raises. It must not know what is sent, or to whom.
"""

from __future__ import annotations

import asyncio
import errno
import os
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import IO, cast

from aiohttp.abc import AbstractStreamWriter

from pvblob.http import Extent, FileContent

# Up to here one read and one write beat the several system calls of a sendfile.
JOINED_BYTES_MAX = 64 * 1024
# The bytes one stall timeout covers, and the unit in which cold data is brought into the page cache.
SLICE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Outlet:
    """A connection to write to.

    transport: of the connection.  writer: its flow control.  executor: where reads that would block go.
    stall_timeout_s: a client that takes nothing for so long is given up.
    """

    transport: asyncio.Transport
    writer: AbstractStreamWriter
    executor: Executor
    stall_timeout_s: float


async def send(outlet: Outlet, head: bytes, content: bytes | FileContent) -> None:
    """Write *head* and *content*; takes over *content*'s release.

    Raises ConnectionError when the client went away or stalls, OSError when the file cannot be read.
    """
    if isinstance(content, bytes):
        await _send_bytes(outlet, head, content)
        return
    try:
        if content.size_bytes <= JOINED_BYTES_MAX:
            await _send_bytes(outlet, head, await _read(outlet.executor, content))
        else:
            await _send_files(outlet, head, content)
    finally:
        content.release()


def discard(content: bytes | FileContent) -> None:
    """Give back content that will not be sent."""
    if isinstance(content, FileContent):
        content.release()


async def _send_bytes(outlet: Outlet, head: bytes, content: bytes) -> None:
    if len(content) <= JOINED_BYTES_MAX:
        outlet.transport.write(head + content)
    else:
        outlet.transport.write(head)
        outlet.transport.write(content)
    try:
        async with asyncio.timeout(outlet.stall_timeout_s):
            await outlet.writer.drain()
    except TimeoutError as error:
        raise _stalled(outlet) from error


async def _send_files(outlet: Outlet, head: bytes, content: FileContent) -> None:
    outlet.transport.write(head)
    for extent in content.extents:
        for offset in range(extent.offset, extent.offset + extent.length, SLICE_BYTES):
            length = min(SLICE_BYTES, extent.offset + extent.length - offset)
            await _send_slice(outlet, Extent(extent.fd, offset, length))


async def _send_slice(outlet: Outlet, extent: Extent) -> None:
    loop = asyncio.get_running_loop()
    if not _resident(extent):
        # sendfile would wait for the disk on the loop's own thread, and with it everybody else.
        await loop.run_in_executor(outlet.executor, _warm, extent)
    if outlet.transport.is_closing():
        raise ConnectionResetError("the client went away")
    try:
        async with asyncio.timeout(outlet.stall_timeout_s):
            file = cast("IO[bytes]", _OpenFile(extent.fd))
            sent = await loop.sendfile(outlet.transport, file, extent.offset, extent.length, fallback=False)
    except TimeoutError as error:
        raise _stalled(outlet) from error
    if sent != extent.length:
        raise _truncated(extent)


class _OpenFile:
    """What `loop.sendfile` asks of a file; the store keeps the descriptor open until release."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd


async def _read(executor: Executor, content: FileContent) -> bytes:
    pieces = []
    for extent in content.extents:
        piece = _read_resident(extent)
        if piece is None:
            piece = await asyncio.get_running_loop().run_in_executor(executor, _read_blocking, extent)
        pieces.append(piece)
    return b"".join(pieces)


def _read_resident(extent: Extent) -> bytes | None:
    """Return the extent's bytes if that needs no disk, else None."""
    buffer = bytearray(extent.length)
    try:
        count = os.preadv(extent.fd, [buffer], extent.offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        # tmpfs and memfd: always resident.
        return _read_blocking(extent)
    return bytes(buffer) if count == extent.length else None


def _read_blocking(extent: Extent) -> bytes:
    pieces = []
    offset, missing = extent.offset, extent.length
    while missing:
        piece = os.pread(extent.fd, missing, offset)
        if not piece:
            raise _truncated(extent)
        pieces.append(piece)
        offset += len(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _resident(extent: Extent) -> bool:
    """Guess from its ends whether the extent is in the page cache: what is read together stays together."""
    probe = bytearray(1)
    try:
        return all(
            os.preadv(extent.fd, [probe], offset, os.RWF_NOWAIT) == 1
            for offset in (extent.offset, extent.offset + extent.length - 1)
        )
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return True


def _warm(extent: Extent) -> None:
    """Bring the extent into the page cache, blocking."""
    buffer = bytearray(min(extent.length, 1024 * 1024))
    for offset in range(extent.offset, extent.offset + extent.length, len(buffer)):
        os.preadv(extent.fd, [buffer], offset)


def _truncated(extent: Extent) -> OSError:
    return OSError(errno.EIO, f"the file ends before byte {extent.offset + extent.length} of an extent")


def _stalled(outlet: Outlet) -> ConnectionError:
    return ConnectionAbortedError(f"the client took nothing for {outlet.stall_timeout_s} s")
