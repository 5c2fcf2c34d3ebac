"""A request's content as it arrives on an HTTP connection, streamed to where it will live.

The flow: socket → the connection's bounded buffer → `read` for small documents, `store` for blobs: checksum and write
happen on a worker thread while the loop receives the next batch. Invariant: exactly `size_bytes` bytes are delivered or
ConnectionError is raised, and no thread touches the file after `store` returned or raised.
It must not know what the bytes mean.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Executor

from aiohttp import StreamReader

from pvblob import _native
from pvblob.http import Stored

# A hop to a worker thread costs about as much as writing 128 KiB here; below this the loop does it itself.
INLINE_BYTES_MAX = 256 * 1024
BATCH_BYTES = 2 * 1024 * 1024


class HttpBody:
    """One request's content; see `pvblob.http.Body`.

    continue_hook: called once, before the first byte is waited for (it answers Expect: 100-continue).
    """

    def __init__(
        self,
        stream: StreamReader,
        size_bytes: int,
        *,
        continue_hook: Callable[[], None],
        executor: Executor,
        stall_timeout_s: float,
    ) -> None:
        self._stream = stream
        self._size_bytes = size_bytes
        self._missing_bytes = size_bytes
        self._continue_hook: Callable[[], None] | None = continue_hook
        self._executor = executor
        self._stall_timeout_s = stall_timeout_s
        self._broken = False

    @property
    def size_bytes(self) -> int:
        """Content-Length, 0 when there is none."""
        return self._size_bytes

    @property
    def lent(self) -> None:
        """A connection's bytes can be read once."""
        return None

    @property
    def missing_bytes(self) -> int:
        """How many bytes nobody has taken yet."""
        return self._missing_bytes

    @property
    def broken(self) -> bool:
        """Whether the client went away or stalled while the content was awaited."""
        return self._broken

    async def read(self) -> bytes:
        """Return the content. Raises ConnectionError when the client goes away or stalls."""
        chunks = []
        while self._missing_bytes:
            chunks.append(await self._next_chunk())
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def store(self, fd: int, offset: int, *, md5: bool) -> Stored:
        """Write the content to *fd* at byte *offset*; see `pvblob.http.Body.store`."""
        sink = _Sink(fd, offset, md5)
        if self._size_bytes <= INLINE_BYTES_MAX:
            while self._missing_bytes:
                sink.write(await self._next_batch())
        else:
            await self._store_on_threads(sink)
        return sink.stored()

    async def _store_on_threads(self, sink: _Sink) -> None:
        loop = asyncio.get_running_loop()
        writing: asyncio.Future[None] | None = None
        try:
            while self._missing_bytes:
                batch = await self._next_batch()
                if writing is not None:
                    await asyncio.shield(writing)
                writing = loop.run_in_executor(self._executor, sink.write, batch)
        finally:
            # Whatever ended the loop, the caller may close or reuse the file's bytes once this returns.
            if writing is not None:
                await _finished(writing)
        if writing is not None:
            writing.result()

    async def _next_batch(self) -> list[bytes]:
        batch: list[bytes] = []
        size_bytes = 0
        while self._missing_bytes and size_bytes < BATCH_BYTES:
            batch.append(await self._next_chunk())
            size_bytes += len(batch[-1])
        return batch

    async def _next_chunk(self) -> bytes:
        if self._continue_hook is not None:
            self._continue_hook()
            self._continue_hook = None
        try:
            async with asyncio.timeout(self._stall_timeout_s):
                chunk, _ = await self._stream.readchunk()
        except Exception as error:
            # The timeout, the parser and the transport report a body that stops in classes of their own.
            self._broken = True
            reason = f"nothing for {self._stall_timeout_s} s" if isinstance(error, TimeoutError) else str(error)
            raise ConnectionResetError(f"{self._missing_bytes} bytes of the body did not arrive: {reason}") from error
        if not chunk:
            self._broken = True
            raise ConnectionResetError(f"the body ended {self._missing_bytes} bytes before its Content-Length")
        self._missing_bytes -= len(chunk)
        return chunk


class _Sink:
    """Where batches go, in order: a file's bytes and the checksums over them."""

    def __init__(self, fd: int, offset: int, md5: bool) -> None:
        self._fd = fd
        self._offset = offset
        self._crc64 = 0
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None

    def write(self, batch: list[bytes]) -> None:
        for chunk in batch:
            self._crc64 = _native.crc64(chunk, self._crc64)
            if self._md5 is not None:
                self._md5.update(chunk)
            self._write_chunk(memoryview(chunk))

    def _write_chunk(self, view: memoryview) -> None:
        while view:
            written = os.pwrite(self._fd, view, self._offset)
            self._offset += written
            view = view[written:]

    def stored(self) -> Stored:
        return Stored(self._crc64, None if self._md5 is None else self._md5.digest())


async def _finished(future: asyncio.Future[None]) -> None:
    """Wait for *future*, come what may: a second cancellation is put off until the thread is done."""
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
