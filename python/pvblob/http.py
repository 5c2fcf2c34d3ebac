"""The nouns every layer shares: Fields, Request, Response, ByteRange, bodies; and the contract of a backend.

A request enters the host over a channel (RFC 9292 in the guest's request buffer) or over HTTP; in both cases it becomes
a `Request` plus a `Body`, and a `Backend` answers with a `Response`. Nothing here knows a channel, a socket or a store.
Field names are lower case; field values are text in which every character stands for one byte (ISO 8859-1), so any
bytes that arrive can be handed on unchanged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from pvblob import _native


class Fields:
    """An ordered multi-map of header fields; look-ups ignore case.

    Names are stored in lower case. `get` returns the first value of a name, as Azure's own parsers do.
    """

    __slots__ = ("_first", "_pairs")

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs: list[tuple[str, str]] = []
        self._first: dict[str, str] = {}
        for name, value in pairs:
            self.add(name, value)

    @classmethod
    def lowered(cls, pairs: list[tuple[str, str]]) -> Fields:
        """Wrap *pairs* (taken over, not copied) whose names are lower case already: what the RFC 9292 decoder gives."""
        fields = cls.__new__(cls)
        fields._pairs = pairs
        fields._first = dict(reversed(pairs))
        return fields

    def add(self, name: str, value: str) -> None:
        """Append one field, keeping those of the same name."""
        lowered = name.lower()
        self._pairs.append((lowered, value))
        self._first.setdefault(lowered, value)

    def set(self, name: str, value: str) -> None:
        """Replace every field of this name by one."""
        self.discard(name)
        self.add(name, value)

    def discard(self, name: str) -> None:
        """Remove every field of this name, if any."""
        lowered = name.lower()
        if self._first.pop(lowered, None) is not None:
            self._pairs = [pair for pair in self._pairs if pair[0] != lowered]

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of *name*, or *default*."""
        value = self._first.get(name)
        if value is None and name not in self._first:
            value = self._first.get(name.lower(), default)
        return value

    def pairs(self) -> list[tuple[str, str]]:
        """Return the fields in order; the list belongs to this object."""
        return self._pairs

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._first

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self._pairs == other._pairs

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Fields({self._pairs!r})"


METADATA = "x-ms-meta-"
# How the metadata names of one message are spelled, prefix left out, separated by commas. It is there only when one of
# them is not all lower case, which is how the names themselves travel (RFC 9292 §3.6). See docs/decisions/0003.
METADATA_NAMES = "pvblob-metadata-names"


def metadata_spelling(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the field that keeps the case of metadata *names* (without prefix), or none when nothing would be lost."""
    names = list(names)
    return [(METADATA_NAMES, ",".join(names))] if any(name != name.lower() for name in names) else []


def spelled_metadata(fields: Fields) -> dict[str, str]:
    """Return lower-case name → name as spelled, both with prefix, for the fields that METADATA_NAMES speaks of.

    The first spelling of a name counts.
    """
    noted = fields.get(METADATA_NAMES)
    names = (METADATA + name for name in noted.split(",")) if noted else ()
    spelling: dict[str, str] = {}
    for name in names:
        spelling.setdefault(name.lower(), name)
    return spelling


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


@dataclass(slots=True)
class Request:
    """One REST request, its body aside.

    method: upper case.  scheme, authority: as in the URL (`https`, `devstoreaccount1.blob.core.windows.net`).
    target: raw path and query exactly as sent, percent-encoding untouched, beginning with "/".
    once: set for requests that came over a channel.  guest: who asks, for fair shares.  deadline_s: the moment, by
    `time.monotonic`, at which nobody waits for the answer any more; None: nobody said.
    wants_offload: an answer that can be given again is worth an `Offer`.  reader: the same number for requests of one
    program, 0 when nobody knows: who reads on where it read before.
    """

    method: str
    scheme: str
    authority: str
    target: str
    fields: Fields
    once: OnceKey | None = None
    wants_offload: bool = False
    guest: str = ""
    deadline_s: float | None = None
    reader: int = 0


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
    content: all bytes, pinned. Whoever receives a Response with an Offer owns its release.
    """

    etag: str
    version: str
    whole: Head
    part: Head
    head: Head
    not_modified: Head | None
    generations: tuple[Observed, ...]
    content: FileContent

    @property
    def extents(self) -> tuple[Extent, ...]:
        """Where the bytes lie."""
        return self.content.extents


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


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A requested range: first byte, and last byte inclusive or None for "to the end". Source: RFC 9110 §14.1.2."""

    first: int
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> ByteRange | None:
        """Parse `bytes=first-last` or `bytes=first-`; None for anything else (Azure ignores ranges it cannot read)."""
        unit, equals, span = text.strip().partition("=")
        first, dash, last = span.partition("-")
        if unit.strip().lower() != "bytes" or not equals or not dash:
            return None
        if not (first.isascii() and first.isdigit()) or (last and not (last.isascii() and last.isdigit())):
            return None
        parsed = cls(int(first), int(last) if last else None)
        return None if parsed.last is not None and parsed.last < parsed.first else parsed

    def resolve(self, size_bytes: int) -> tuple[int, int] | None:
        """Return (offset, length) within a blob of *size_bytes*, cut at its end; None when it begins past the end."""
        if self.first >= size_bytes:
            return None
        last = size_bytes - 1 if self.last is None else min(self.last, size_bytes - 1)
        return self.first, last - self.first + 1

    def __str__(self) -> str:
        return f"bytes={self.first}-{'' if self.last is None else self.last}"


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
