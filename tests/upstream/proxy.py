"""A real TCP proxy between a host and the service elsewhere, which does what networks do: delays, cuts, stalls, drips.

It never reads what it carries (TLS); faults are counted in connections and bytes. `Plain` faults, which need an HTTP
answer, come from `answering`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

# Under way in each direction of a connection.
READS_MAX = 64


@dataclass
class Faults:
    """What goes wrong from now on.

    latency_s: each way.  cut_after_bytes: an answer's connection is reset after so many bytes, *cuts* times.
    stall_after_bytes: nothing more comes after so many bytes, *cuts* times.  drip_bytes_per_s: answers come so slowly.
    refuse: connections are closed at once, so many times.
    """

    latency_s: float = 0.0
    cut_after_bytes: int | None = None
    stall_after_bytes: int | None = None
    cuts: int = 0
    drip_bytes_per_s: int | None = None
    refuse: int = 0


@dataclass
class FaultyProxy:
    """Forwards to *port* of this machine, with *faults*. connections: how many have been made."""

    port: int
    faults: Faults = field(default_factory=Faults)
    connections: int = 0
    bytes_down: int = 0
    listening_port: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.listening_port)
        self.listening_port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        self.cut_all()
        await self._server.wait_closed()
        for serving in self._serving:
            serving.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    def cut_all(self) -> None:
        """Reset every connection."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, down_reader: asyncio.StreamReader, down: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(down)
        own = asyncio.current_task()
        assert own is not None
        self._serving.add(own)
        own.add_done_callback(self._serving.discard)
        try:
            if self.faults.refuse > 0:
                self.faults.refuse -= 1
                down.transport.abort()
                return
            up_reader, up = await asyncio.open_connection("127.0.0.1", self.port)
            self._open.add(up)
            try:
                async with asyncio.TaskGroup() as ways:
                    ways.create_task(self._carry(down_reader, up))
                    ways.create_task(self._answer(up_reader, down))
            finally:
                self._open.discard(up)
                up.transport.abort()
        except* (OSError, asyncio.CancelledError):
            pass  # a side went away, or the proxy stops: what StreamReaderProtocol must not be told
        finally:
            self._open.discard(down)
            down.transport.abort()

    async def _delayed(self, reader: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
        """Yield what comes, late by the latency; more may be under way meanwhile. Raises OSError."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes | OSError]] = asyncio.Queue(READS_MAX)

        async def read() -> None:
            data: bytes | OSError = b"-"
            while data and isinstance(data, bytes):
                try:
                    data = await reader.read(65536)
                except OSError as error:
                    data = error
                await under_way.put((loop.time() + self.faults.latency_s, data))

        reading = asyncio.ensure_future(read())
        try:
            while True:
                due_s, data = await under_way.get()
                await asyncio.sleep(due_s - loop.time())
                if isinstance(data, OSError):
                    raise data
                if not data:
                    return
                yield data
        finally:
            reading.cancel()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with aclosing(self._delayed(reader)) as coming:
            async for data in coming:
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with aclosing(self._delayed(reader)) as coming:
            await self._pass_on(coming, writer)

    async def _pass_on(self, coming: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
        passed = 0
        async for data in coming:
            faults = self.faults
            if faults.drip_bytes_per_s:
                await asyncio.sleep(len(data) / faults.drip_bytes_per_s)
            passed += len(data)
            self.bytes_down += len(data)
            if faults.cuts > 0 and faults.cut_after_bytes is not None and passed > faults.cut_after_bytes:
                faults.cuts -= 1
                writer.transport.abort()
                return
            if faults.cuts > 0 and faults.stall_after_bytes is not None and passed > faults.stall_after_bytes:
                faults.cuts -= 1
                async for _ in coming:  # until the other side gives up
                    pass
                return
            writer.write(data)
            await writer.drain()
        writer.transport.abort()


Answerer = Callable[[bytes], bytes | Awaitable[bytes]]


@dataclass
class _Answering:
    """A server of `answering`: its connections, each served by a task that can be ended."""

    answer: Answerer
    serving: set[asyncio.Task[None]] = field(default_factory=set)
    guards: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        await reader.readexactly(int(line.partition(b":")[2]))
                made = self.answer(head)
                said = made if isinstance(made, bytes) else await made
                writer.write(said)
                await writer.drain()
                if not said or b"connection: close" in said:
                    break

    async def guarded(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = asyncio.current_task()
        assert own is not None
        self.guards.add(own)
        own.add_done_callback(self.guards.discard)
        task = asyncio.ensure_future(self.serve(reader, writer))
        self.serving.add(task)
        await asyncio.wait([task])
        self.serving.discard(task)
        # Everything written reaches the client before the end does.
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await writer.wait_closed()
        writer.transport.abort()


@asynccontextmanager
async def answering(certificate: Path | None, answer: Answerer) -> AsyncIterator[int]:
    """Serve on a free port what *answer* makes of each request's head (content is read and dropped); give the port.

    An empty answer, and one that says `connection: close`, ends the connection.
    """
    tls = None
    if certificate is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    made = _Answering(answer)
    server = await asyncio.start_server(made.guarded, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(made.serving):
            task.cancel()
        await server.wait_closed()
        if made.guards:
            await asyncio.wait(made.guards)
