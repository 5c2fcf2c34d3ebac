"""Where an upload's bytes come from: a buffer, an iterator of chunks, an asynchronous iterator of chunks.

A conversation asks for the next n bytes (`Fill`), the program gives chunks of any size; a source cuts one to the other.
"""

from __future__ import annotations

from collections.abc import Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Protocol, TypeAlias

    from typing_extensions import Buffer

    UploadBody: TypeAlias = "Buffer | UploadSource | None"
    AsyncUploadBody: TypeAlias = "Buffer | UploadSource | AsyncUploadSource | None"
    Source: TypeAlias = "MemorySource | ChunkSource"
else:
    Protocol = object


class UploadSource(Protocol):
    """A body that is not one buffer; it is read once, in order."""

    @property
    def size_bytes(self) -> int:
        """Exact length, known before the first byte."""

    def chunks(self) -> Iterator[Buffer]:
        """Yield bytes-like pieces of any size whose lengths sum to `size_bytes`."""


class AsyncUploadSource(Protocol):
    """A body that an event loop produces; it is read once, in order."""

    @property
    def size_bytes(self) -> int:
        """Exact length, known before the first byte."""

    def chunks(self) -> AsyncIterator[Buffer]:
        """Yield bytes-like pieces of any size whose lengths sum to `size_bytes`."""


class MemorySource:
    """A buffer of the program's; it can be read again for another attempt."""

    def __init__(self, body: Buffer) -> None:
        self.memory = memoryview(body).cast("B")
        self.size_bytes = self.memory.nbytes
        self._at = 0

    def rewind(self) -> bool:
        """Begin again at the first byte. True: it can."""
        self._at = 0
        return True

    def fill(self, into: memoryview) -> int:
        """Write the next bytes to *into* and return how many."""
        part = self.memory[self._at : self._at + len(into)]
        into[: len(part)] = part
        self._at += len(part)
        return len(part)

    async def afill(self, into: memoryview) -> int:
        """Write the next bytes to *into* and return how many; nothing to wait for."""
        return self.fill(into)


class ChunkSource:
    """An iterator of chunks; what it gave is gone, unless the body can rewind."""

    def __init__(self, body: UploadSource | AsyncUploadSource) -> None:
        self.size_bytes = body.size_bytes
        self._body = body
        self._chunks = body.chunks()
        self._rest = memoryview(b"")
        self._begun = False

    def rewind(self) -> bool:
        """Begin again: possible while nothing was read, or when the body offers `rewind() -> bool` and it succeeds."""
        if not self._begun:
            return True
        rewind = getattr(self._body, "rewind", None)
        if rewind is None or not rewind():
            return False
        self._chunks, self._rest, self._begun = self._body.chunks(), memoryview(b""), False
        return True

    def _from_rest(self, into: memoryview) -> int:
        part = self._rest[: len(into)]
        into[: len(part)] = part
        self._rest = self._rest[len(part) :]
        return len(part)

    def _next(self, chunk: Buffer | None) -> None:
        if chunk is None:
            raise ValueError(f"the body ended before the {self.size_bytes} bytes it announced")
        self._rest = memoryview(chunk).cast("B")

    def fill(self, into: memoryview) -> int:
        """Fill *into* whole. Raises ValueError when the chunks end early, TypeError when they come asynchronously."""
        if not isinstance(self._chunks, Iterator):
            raise TypeError("an asynchronous body needs AsyncExchange")
        self._begun = True
        done = self._from_rest(into)
        while done < len(into):
            self._next(next(self._chunks, None))
            done += self._from_rest(into[done:])
        return done

    async def afill(self, into: memoryview) -> int:
        """Fill *into* whole from chunks of either kind. Raises ValueError when they end early."""
        if isinstance(self._chunks, Iterator):
            return self.fill(into)
        self._begun = True
        done = self._from_rest(into)
        while done < len(into):
            self._next(await anext(self._chunks, None))
            done += self._from_rest(into[done:])
        return done


def source_of(body: Buffer | UploadSource | AsyncUploadSource) -> Source:
    """Return the source that reads *body*."""
    return ChunkSource(body) if hasattr(body, "chunks") else MemorySource(body)  # type: ignore[arg-type]
