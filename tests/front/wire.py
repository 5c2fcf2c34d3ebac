"""A client that says exactly what a test tells it to, byte by byte, over a real socket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
from dataclasses import dataclass
from email.utils import formatdate

from pvblob.blobs.auth import DEVELOPMENT_ACCOUNT, DEVELOPMENT_ACCOUNT_KEY, string_to_sign
from pvblob.http import Fields, Request

BLOB = f"/{DEVELOPMENT_ACCOUNT}/box/blob"


@dataclass
class Reply:
    """What came back: status, fields in order (names and values as sent), content."""

    status: int
    pairs: list[tuple[bytes, bytes]]
    content: bytes

    def all(self, name: bytes) -> list[bytes]:
        return [value for found, value in self.pairs if found.lower() == name]

    def one(self, name: bytes) -> bytes:
        (value,) = self.all(name)
        return value

    @property
    def code(self) -> bytes:
        return self.one(b"x-ms-error-code")


class Wire:
    """One connection to a front."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str) -> None:
        self.reader = reader
        self.writer = writer
        self.authority = authority

    @classmethod
    async def open(cls, url: str, *, limit: int = 2**16) -> Wire:
        authority = url.removeprefix("http://")
        host, _, port = authority.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=limit)
        return cls(reader, writer, authority)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, method: str, target: str, fields: dict[str, str] | None = None, content: bytes = b"") -> Reply:
        """Send a signed request and return the reply."""
        await self.send(self.signed(method, target, fields, content))
        return await self.reply(head_only=method == "HEAD")

    def signed(
        self,
        method: str,
        target: str,
        fields: dict[str, str] | None = None,
        content: bytes = b"",
        *,
        account: str = DEVELOPMENT_ACCOUNT,
        key: bytes = DEVELOPMENT_ACCOUNT_KEY,
    ) -> bytes:
        """Return the bytes of a request signed with *key*."""
        given = {"host": self.authority, "x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
        if content:
            given["content-length"] = str(len(content))
        given.update(fields or {})
        request = Request(method, "http", self.authority, target, Fields(given.items()))
        mac = hmac.digest(key, string_to_sign(request, account).encode(), hashlib.sha256)
        given["authorization"] = f"SharedKey {account}:{base64.b64encode(mac).decode()}"
        return head(method, target, given) + content

    async def reply(self, *, head_only: bool = False) -> Reply:
        """Read one reply; asyncio.IncompleteReadError when the connection ends inside it."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
        status = int(lines[0].split(b" ")[1])
        pairs = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines[1:])]
        reply = Reply(status, pairs, b"")
        sizes = reply.all(b"content-length")
        if sizes and not head_only and status not in (100, 204, 304):
            reply.content = await self.reader.readexactly(int(sizes[0]))
        return reply

    async def at_end(self) -> bool:
        """Say whether the server ended the connection, after what was read so far."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def head(method: str, target: str, fields: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
