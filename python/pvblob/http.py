"""The nouns of the host: Response, contents, bodies, the contract of a backend; and those shared with guests.

A request enters the host over a channel (RFC 9292 in the guest's request buffer) or over HTTP; in both cases it becomes
a `Request` plus a `Body`, and a `Backend` answers with a `Response`. Nothing here knows a channel, a socket or a store.
What a guest needs too is in `http_request`, which is quickly imported; the host finds it here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pvblob.http_request import (
    METADATA,
    METADATA_NAMES,
    ByteRange,
    Fields,
    Request,
    metadata_spelling,
    spelled_metadata,
)

if TYPE_CHECKING:
    from pvblob import _native

__all__ = [
    "METADATA",
    "METADATA_NAMES",
    "ArrivingContent",
    "Backend",
    "Body",
    "ByteRange",
    "BytesBody",
    "Content",
    "ContentLost",
    "Extent",
    "Fields",
    "FileContent",
    "Head",
    "Observed",
    "Offer",
    "OnceKey",
    "Request",
    "Response",
    "Slot",
    "Stored",
    "discard",
    "metadata_spelling",
    "spelled_metadata",
]


class OnceKey(NamedTuple):
    """What makes a write once-only: design rule 4.

    guest: the guest's identity (e.g. "uid:1000").  nonce: the client's 16 bytes from OPEN_CHANNEL.  guid: the request's
    16 bytes.  digest: SHA-256 of the request head.  resubmission: the client says it sent this request before.
    """

    guest: str
    nonce: bytes
    guid: bytes
    digest: bytes
    resubmission: bool


class Extent(NamedTuple):
    """A run of bytes in an open file: descriptor, offset and length in bytes."""

    fd: int
    offset: int
    length: int


def _nothing_to_release() -> None:
    return None


@dataclass(slots=True)
class FileContent:
    """Content that lies in files: whoever answers moves it, by system call, to where it will be read.

    extents: in order.  release: to be called exactly once when no byte will be read any more; until then the store
    neither reuses nor punches these bytes, and the descriptors stay open.
    """

    extents: tuple[Extent, ...]
    release: Callable[[], None] = _nothing_to_release

    @property
    def size_bytes(self) -> int:
        """The sum of the extents' lengths."""
        return sum(extent.length for extent in self.extents)


@dataclass(slots=True)
class LentContent:
    """Content of which the data plane reads the parts that are here: they come and go while it is offered.

    parts: where.  release: as for `FileContent`.
    """

    parts: _native.Parts
    release: Callable[[], None] = _nothing_to_release


class Slot(IntEnum):
    """What the data plane fills into a head that is ready otherwise; the numbers are `_native`'s.

    LENGTH: Content-Length.  DATE: the date.  REQUEST_ID: a fresh one.  VERSION: the request's x-ms-version, else the
    offer's.  CLIENT_REQUEST_ID: the request's, no line without one.  RANGE: Content-Range.  PLACED: the bytes placed in
    the data buffer, no line without any.
    """

    LENGTH = 0
    DATE = 1
    REQUEST_ID = 2
    VERSION = 3
    CLIENT_REQUEST_ID = 4
    RANGE = 5
    PLACED = 6


class Head(NamedTuple):
    """A response head whose values are text or slots; names lower case, in the order of the answer."""

    status: int
    lines: list[tuple[str, str | Slot]]


class Observed(NamedTuple):
    """A generation, and its value before the data was looked at: an answer holds while the value is still that."""

    generation: _native.Generation
    value: int


@dataclass(slots=True)
class Offer:
    """That an answer can be given again without asking, until one of *generations* moves (design §7).

    It covers GET (whole, or one range) and HEAD of the request's target, judged by If-Match and If-None-Match on *etag*
    (the opaque tag, without quotes), and nothing else that a request may say. version: answered to a request without
    x-ms-version.  not_modified: the answer to If-None-Match that names *etag*; None: left to the backend.
    content: all bytes, pinned, or those that are here; a read of what is not is left to the backend. Whoever receives a
    Response with an Offer owns its release.
    """

    etag: str
    version: str
    whole: Head
    part: Head
    head: Head
    not_modified: Head | None
    generations: tuple[Observed, ...]
    content: FileContent | LentContent

    @property
    def extents(self) -> tuple[Extent, ...]:
        """Where all bytes lie; none when they are lent in parts."""
        return self.content.extents if isinstance(self.content, FileContent) else ()

    @property
    def parts(self) -> _native.Parts | None:
        """Where the bytes that are here lie, when they are lent in parts."""
        return self.content.parts if isinstance(self.content, LentContent) else None


class ArrivingContent(ABC):
    """Content that is still on its way from elsewhere: whoever answers says where it is to go.

    `size_bytes` is exact. Whoever receives it owns its `release`; until then `place` may be asked for any part, again
    and in any order: all parts are of one version.
    """

    size_bytes: int

    @abstractmethod
    async def place(self, buffer: _native.HostRequest, offset: int, length: int) -> None:
        """Put *length* bytes from *offset* of the content at the start of a guest's data buffer.

        When this returns or raises, the buffer is touched no more. Raises ContentLost.
        """

    @abstractmethod
    def chunks(self) -> AsyncIterator[bytes]:
        """Give the whole content in order, once. Raises ContentLost."""

    @abstractmethod
    def release(self) -> None:
        """Let go of the content; idempotent."""


Content = bytes | FileContent | ArrivingContent


@dataclass(slots=True)
class Response:
    """The answer to one request.

    status: HTTP status.  fields: complete, `content-length` included (for HEAD: what GET would have).
    content: bytes in memory, in files, or on their way. Whoever receives a Response owns its content's release.
    offer: only when the request `wants_offload`.
    """

    status: int
    fields: Fields
    content: Content = b""
    offer: Offer | None = None


class ContentLost(ConnectionError):
    """The rest of an `ArrivingContent` cannot be had; *response* is what to answer where nothing has been said yet."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"the content was lost: {response.fields.get('x-ms-error-code') or response.status}")
        self.response = response


def discard(content: Content) -> None:
    """Give back content that nobody will read."""
    if not isinstance(content, bytes):
        content.release()


class Stored(NamedTuple):
    """Checksums of the bytes a body stored: CRC-64/NVME always, MD5 (16 bytes) when asked for."""

    crc64: int
    md5: bytes | None


class Body(Protocol):
    """A request's content where it lies now: a guest's pages, an HTTP connection, memory.

    It is consumed at most once, by `read` or by `store`, unless it is `lent`.
    """

    @property
    def size_bytes(self) -> int:
        """Exact length, known before the first byte is read."""
        ...

    @property
    def lent(self) -> bytes | _native.HostRequest | None:
        """Where the whole content lies, for the data plane to read as often as it likes until the answer; or None."""
        ...

    async def read(self) -> bytes:
        """Return the content as private bytes. The caller checks `size_bytes` against its bound first."""
        ...

    async def store(self, fd: int, offset: int, *, md5: bool) -> Stored:
        """Write the content to *fd* at byte *offset*; the checksums are those of the bytes written.

        Raises OSError when the file system refuses, ConnectionError when the sender went away.
        """
        ...


class Backend(Protocol):
    """Who executes requests: the embedded service, or an upstream account.

    The caller vouches for identity (the channel, or a verified signature) before it calls; the backend checks
    everything about the request itself. `execute` raises nothing on account of the request: every failure is a
    Response with an error status. Cancelling it before a write is committed leaves no trace of the write.
    """

    async def execute(self, request: Request, body: Body) -> Response:
        """Execute one request and return its answer."""
        ...


@dataclass(slots=True)
class BytesBody:
    """A body that is in memory already. `data` may be any bytes-like object; it is not copied before it is used."""

    data: bytes | bytearray | memoryview = field(default=b"")

    @property
    def size_bytes(self) -> int:
        """Length of the buffer in bytes."""
        return memoryview(self.data).nbytes

    @property
    def lent(self) -> bytes | None:
        """The buffer, if nobody can change it."""
        return self.data if isinstance(self.data, bytes) else None

    async def read(self) -> bytes:
        """Return the content as bytes."""
        return bytes(self.data)

    async def store(self, fd: int, offset: int, *, md5: bool) -> Stored:
        """Write the content to *fd* at byte *offset*, blocking: meant for small bodies and for tests."""
        from pvblob import _native

        crc64, digest = _native.store_bytes(self.data, fd, offset, md5)
        return Stored(crc64, digest)
