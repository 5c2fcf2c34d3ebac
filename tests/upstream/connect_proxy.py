"""A real HTTP proxy: it connects where CONNECT says, by the names it alone knows, and carries bytes both ways."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class ConnectProxy:
    """names: ports of this machine by host name.  credential: USER:PASSWORD it wants; None: nothing.

    asked: heads of the requests it had.
    """

    names: dict[str, int] = field(default_factory=dict)
    credential: str | None = None
    asked: list[bytes] = field(default_factory=list)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head)
            refusal = self._refusal(head)
            if refusal:
                writer.write(f"HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
                return
            host, _, port = head.split(b" ")[1].decode().rpartition(":")
            far = await asyncio.open_connection("127.0.0.1", self.names.get(host, int(port)))
            writer.write(b"HTTP/1.1 200 Connection established\r\nProxy-Agent: test\r\n\r\n")
            await asyncio.gather(_carry(reader, far[1]), _carry(far[0], writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    def _refusal(self, head: bytes) -> str | None:
        if not head.startswith(b"CONNECT "):
            return "405 Method Not Allowed"
        wanted = None if self.credential is None else base64.b64encode(self.credential.encode())
        if wanted is not None and b"\r\nProxy-Authorization: Basic " + wanted + b"\r\n" not in head:
            return "407 Proxy Authentication Required"
        return None


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.transport.abort()


@asynccontextmanager
async def connect_proxy(
    names: dict[str, int] | None = None, credential: str | None = None
) -> AsyncIterator[ConnectProxy]:
    """Run one on a free port."""
    made = ConnectProxy(names or {}, credential)
    server = await asyncio.start_server(made.serve, "127.0.0.1")
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
