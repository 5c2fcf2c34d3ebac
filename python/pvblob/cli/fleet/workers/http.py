"""Plain HTTP without a library: one socket, one reused buffer. The least that a Python program can do over HTTP."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pvblob.cli.fleet.corpus import name
from pvblob.cli.fleet.workers.contract import Address, Call, Task, Worker, WritingWorker

if TYPE_CHECKING:
    from typing_extensions import Buffer

HEAD_BYTES_MAX = 4096
TIMEOUT_S = 120.0


class Connection:
    """One keep-alive connection. Requests are few bytes; responses go to *buffer* by recv_into."""

    def __init__(self, url: str, buffer: bytearray) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(None)  # a timeout would cost a poll for each call
        self._buffer = buffer
        self._view = memoryview(buffer)

    def send(self, *pieces: Buffer) -> None:
        """Send a request."""
        for piece in pieces:
            self._socket.sendall(piece)

    def response(self, size_bytes: int, *statuses: bytes) -> memoryview:
        """Receive the response, with that many bytes of content; return them where they lie in the buffer.

        Raises ValueError for another status, EOFError when the server closes.
        """
        held, head = 0, -1
        while head < 0:
            held += self._receive(held)
            head = self._buffer.find(b"\r\n\r\n", 0, held)
        if self._buffer[9:12] not in statuses:
            raise ValueError(f"the server answered {bytes(self._buffer[:64])!r}")
        content = head + 4
        while held < content + size_bytes:
            held += self._receive(held)
        return self._view[content : content + size_bytes]

    def _receive(self, held: int) -> int:
        received = self._socket.recv_into(self._view[held:])
        if not received:
            raise EOFError("the server closed the connection")
        return received

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class Get(Worker):
    """GET with Range; each request in flight has a connection of its own, as HTTP/1.1 clients do."""

    def __init__(self, address: Address, task: Task, number: int) -> None:
        super().__init__(address, task, number)
        self._connections = [
            Connection(address.url, bytearray(task.block_bytes + HEAD_BYTES_MAX)) for _ in range(task.in_flight)
        ]
        self._heads = [_head(blob) for blob in range(task.blobs)]

    def calls(self) -> Sequence[Call]:
        """Return a GET for each blob."""
        return [self._get(blob) for blob in range(self.task.blobs)]

    def _get(self, blob: int) -> Call:
        connection, size_bytes, head = self._connections[0], self.task.block_bytes, self._heads[blob]

        def call(offset: int) -> memoryview:
            connection.send(head % (offset, offset + size_bytes - 1))
            return connection.response(size_bytes, b"206")

        return call

    def many(self, places: Iterator[tuple[int, int]]) -> Iterator[tuple[int, Buffer]]:
        """Send a request over each connection, then receive over each, again and again."""
        size_bytes, position = self.task.block_bytes, 0
        while True:
            busy = []
            for connection, (blob, offset) in zip(self._connections, places, strict=False):
                connection.send(self._heads[blob] % (offset, offset + size_bytes - 1))
                busy.append(connection)
            for connection in busy:
                yield position, connection.response(size_bytes, b"206")
                position += 1
            if len(busy) < len(self._connections):
                return

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()


def _head(blob: int) -> bytes:
    return b"GET /%s HTTP/1.1\r\nHost: x\r\nRange: bytes=%%d-%%d\r\n\r\n" % name(blob).encode("ascii")


class Put(WritingWorker):
    """PUT to a WebDAV server, which answers when the file has its name."""

    def __init__(self, address: Address, task: Task, number: int) -> None:
        super().__init__(address, task, number)
        self._connection = Connection(address.url, bytearray(task.block_bytes + HEAD_BYTES_MAX))

    def calls(self) -> Sequence[Call]:
        """Return a PUT for each slot."""
        return [self._put(slot) for slot in range(self.SLOTS)]

    def _put(self, slot: int) -> Call:
        connection, data, size_bytes = self._connection, self.data[slot], self.task.block_bytes
        head = b"PUT /%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (self.names[slot].encode(), size_bytes)
        # A small body travels with its head, a large one is not copied for that.
        pieces = (head + data,) if size_bytes <= HEAD_BYTES_MAX else (head, data)

        def call(_offset: int) -> None:
            connection.send(*pieces)
            connection.response(0, b"201", b"204")  # new, or in place of another

        return call

    def read_back(self, slot: int) -> Buffer:
        """Return the stored file."""
        self._connection.send(b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % self.names[slot].encode())
        return self._connection.response(self.task.block_bytes, b"200")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
