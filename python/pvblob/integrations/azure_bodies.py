"""Request bodies as the Azure SDK hands them over, made into what an `Exchange` takes: a buffer, or a source of chunks.

`azure_requests` asks here for every body that is not bytes. Invariant: a body is exactly as long as its Content-Length
says (what lies beyond is not sent, as an HTTP server would not read it; a body that ends early is the caller's error).
Short bodies are gathered, so that the exchange can send them again to a restarted host whatever they came from; long
ones are read when the exchange asks for them. Nothing here knows a channel or a header.
"""

from __future__ import annotations

import asyncio
import inspect
import io
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeAlias

# The SDK's own block size: what most uploads consist of is gathered whole.
CHUNK_BYTES = 4 << 20

Piece: TypeAlias = bytes | bytearray | memoryview


def as_buffer(body: Any) -> Piece | None:
    """Return *body* as one flat buffer if it is in memory already, else None.

    bytes, bytearray, memoryview (of any shape) and other exporters are copied only if they are scattered; str becomes
    UTF-8. None for whatever has `read`: its position counts.
    """
    if isinstance(body, (bytes, bytearray)):
        return body
    if isinstance(body, str):
        return body.encode()
    if hasattr(body, "read"):
        return None
    try:
        view = memoryview(body)
    except TypeError:
        return None
    return _flat(view)


def cut(buffer: Piece, size_bytes: int) -> Piece:
    """Return the first *size_bytes* of *buffer*. ValueError when it is shorter."""
    if len(buffer) < size_bytes:
        raise _ended_early(len(buffer), size_bytes)
    return buffer if len(buffer) == size_bytes else memoryview(buffer)[:size_bytes]


class FileSource:
    """A body behind a blocking `read`: a file, the SDK's SubStream, its structured-message stream.

    size_bytes: exact length, known before the first byte.
    """

    def __init__(self, file: Any, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._file = file
        self._start = _position(file)

    def rewind(self) -> bool:
        """Go back to where the body began. False: the file cannot."""
        if self._start is not None:
            self._file.seek(self._start)
        return self._start is not None

    def chunks(self) -> Iterator[Piece]:
        """Yield the body in pieces of up to `CHUNK_BYTES`. ValueError when the file ends early."""
        sent = 0
        while sent < self.size_bytes:
            piece = _piece(self._file.read(min(CHUNK_BYTES, self.size_bytes - sent)), sent, self.size_bytes)
            sent += len(piece)
            yield piece


class IteratorSource:
    """A body that an iterator or generator yields: what it gave is gone. size_bytes: exact length."""

    def __init__(self, pieces: Iterable[Any], size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._pieces = pieces

    def chunks(self) -> Iterator[Piece]:
        """Yield the body as the iterator gives it. ValueError when it ends early."""
        sent, pieces = 0, iter(self._pieces)
        while sent < self.size_bytes:
            piece = _next_piece(next(pieces, None), sent, self.size_bytes)
            sent += len(piece)
            if piece:
                yield piece


class AsyncFileSource(FileSource):
    """A body behind `read` in an async client: coroutines are awaited, a blocking file is read off the event loop."""

    async def chunks(self) -> AsyncIterator[Piece]:  # type: ignore[override]
        """Yield the body in pieces of up to `CHUNK_BYTES`. ValueError when the file ends early."""
        sent, read = 0, _awaitable_read(self._file)
        while sent < self.size_bytes:
            piece = _piece(await read(min(CHUNK_BYTES, self.size_bytes - sent)), sent, self.size_bytes)
            sent += len(piece)
            yield piece


class AsyncIteratorSource:
    """A body that an async generator yields, or a plain iterator in an async client. size_bytes: exact length."""

    def __init__(self, pieces: AsyncIterable[Any] | Iterable[Any], size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._pieces = pieces

    async def chunks(self) -> AsyncIterator[Piece]:
        """Yield the body as the iterator gives it. ValueError when it ends early."""
        sent, pieces = 0, _asynchronous(self._pieces)
        while sent < self.size_bytes:
            piece = _next_piece(await anext(pieces, None), sent, self.size_bytes)
            sent += len(piece)
            if piece:
                yield piece


def upload_body(body: Any, size_bytes: int | None) -> FileSource | IteratorSource | Piece:
    """Return what sends *body* (not a buffer) in a synchronous client.

    size_bytes: its Content-Length; None: found by `len` or by seeking, else the body is gathered whatever its size, for
    a request's length is part of its head. TypeError names what is accepted.
    """
    source: FileSource | IteratorSource
    if hasattr(body, "read"):
        if size_bytes is None and (size_bytes := _size_of_file(body)) is None:
            return b"".join(iter(lambda: _bytes_like(body.read(CHUNK_BYTES)), b""))
        source = FileSource(body, size_bytes)
    elif hasattr(body, "__iter__") and not isinstance(body, dict):
        if size_bytes is None:
            return b"".join(map(_bytes_like, body))
        source = IteratorSource(body, size_bytes)
    else:
        raise _not_a_body(body, "")
    return source if source.size_bytes > CHUNK_BYTES else b"".join(source.chunks())


async def async_upload_body(body: Any, size_bytes: int | None) -> AsyncFileSource | AsyncIteratorSource | Piece:
    """Return what sends *body* (not a buffer) in an async client; otherwise as `upload_body`."""
    source: AsyncFileSource | AsyncIteratorSource
    if hasattr(body, "read"):
        if size_bytes is None and (size_bytes := _size_of_file(body)) is None:
            return b"".join([_bytes_like(piece) async for piece in _until_empty(_awaitable_read(body))])
        source = AsyncFileSource(body, size_bytes)
    elif hasattr(body, "__aiter__") or (hasattr(body, "__iter__") and not isinstance(body, dict)):
        if size_bytes is None:
            return b"".join([_bytes_like(piece) async for piece in _asynchronous(body)])
        source = AsyncIteratorSource(body, size_bytes)
    else:
        raise _not_a_body(body, ", async iterators, objects with an async read")
    return source if source.size_bytes > CHUNK_BYTES else b"".join([piece async for piece in source.chunks()])


async def _asynchronous(pieces: AsyncIterable[Any] | Iterable[Any]) -> AsyncIterator[Any]:
    if isinstance(pieces, AsyncIterable):
        async for piece in pieces:
            yield piece
    else:
        for piece in pieces:
            yield piece


async def _until_empty(read: Callable[[int], Awaitable[Any]]) -> AsyncIterator[Any]:
    while piece := await read(CHUNK_BYTES):
        yield piece


def _awaitable_read(file: Any) -> Callable[[int], Awaitable[Any]]:
    async def read(size_bytes: int) -> Any:
        # Memory never blocks; anything else may be a slow disk or a pipe, which must not hold up the event loop.
        in_loop = isinstance(file, io.BytesIO) or inspect.iscoroutinefunction(file.read)
        given = file.read(size_bytes) if in_loop else await asyncio.to_thread(file.read, size_bytes)
        return await given if inspect.isawaitable(given) else given

    return read


def _size_of_file(file: Any) -> int | None:
    if hasattr(file, "__len__"):
        return len(file)
    start = _position(file)
    if start is None:
        return None
    file.seek(0, io.SEEK_END)
    end = _position(file)
    file.seek(start)
    return None if end is None else max(end - start, 0)


def _position(file: Any) -> int | None:
    """Return where a file that can seek stands; None for one that cannot, or that only tells asynchronously."""
    if inspect.iscoroutinefunction(file.read):
        return None
    try:
        position = file.tell() if file.seekable() else None
    except (AttributeError, OSError, ValueError):
        return None
    return position if isinstance(position, int) else None


def _flat(view: memoryview) -> Piece:
    if not view.contiguous:
        return view.tobytes()
    return view if view.ndim == 1 and view.format == "B" else view.cast("B")


def _bytes_like(given: Any) -> Piece:
    if isinstance(given, (bytes, bytearray)):
        return given
    if isinstance(given, str):
        return given.encode()
    try:
        return _flat(memoryview(given))
    except TypeError:
        raise TypeError(f"the request body gave {type(given).__name__} where bytes are wanted") from None


def _next_piece(given: Any, sent: int, size_bytes: int) -> Piece:
    if given is None:
        raise _ended_early(sent, size_bytes)
    piece = _bytes_like(given)
    return piece if len(piece) <= size_bytes - sent else memoryview(piece)[: size_bytes - sent]


def _piece(given: Any, sent: int, size_bytes: int) -> Piece:
    """As `_next_piece`, for files: there an empty piece is the end."""
    return _next_piece(given or None, sent, size_bytes)


def _ended_early(size_bytes: int, declared: int) -> ValueError:
    return ValueError(
        f"the request body ended after {size_bytes} bytes although its Content-Length is {declared}: "
        "pass the exact length, and a body that was not read before"
    )


def _not_a_body(body: object, more: str) -> TypeError:
    return TypeError(
        f"cannot send a request body of type {type(body).__name__}: "
        f"pass bytes, another buffer, str, a binary file, an iterator of bytes{more}"
    )
