"""The blocking client: every operation is one call of `operations`, sent through the exchange.

program → `Client` → `Operations` (what to ask) → `Exchange` (the channel). A client has no state of its own: it may be
used by many threads, survives a fork, and pickles as its settings.
"""

from __future__ import annotations

from time import monotonic, sleep

from pvblob.client import answers
from pvblob.client.exchange import Exchange
from pvblob.client.operations import DEVELOPMENT_ACCOUNT, ListOptions, Operations, WriteOptions, copy_pauses_s
from pvblob.client.reads import IN_FLIGHT, STREAM_BYTES, Reads

# What not every program does is imported by the method that does it: a fresh process is to have its first bytes soon.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Any, Self, TypeVar

    from typing_extensions import Buffer

    from pvblob.client import bodies
    from pvblob.client.answers import Page
    from pvblob.client.handles import ContainerHandle
    from pvblob.client.many import Done
    from pvblob.client.operations import Call
    from pvblob.client.properties import BlobPrefix, BlobProperties, ContainerProperties, FoundBlob, Written
    from pvblob.client.uploads import BlockUpload
    from pvblob.errors import BlobError
    from pvblob.vsc.registration import RegisteredMemory

    T = TypeVar("T")


class Client:
    """Blobs of one account, through the host's channel.

    Every operation raises a leaf of `pvblob.BlobError` for the service's own answer (`NotFound`, `AlreadyExists`,
    `PreconditionFailed`, …) and a leaf of `pvblob.ChannelError` when the link failed. `timeout_s` bounds each request,
    waits for a busy or restarting host included.
    """

    def __init__(self, exchange: Exchange, operations: Operations | None = None, timeout_s: float = 60.0) -> None:
        self._exchange = exchange
        self._operations = operations or Operations(DEVELOPMENT_ACCOUNT)
        self._timeout_s = timeout_s
        self._reads = Reads(exchange.device(), self._operations, timeout_s)

    @classmethod
    def connect(
        cls, socket_path: str | None = None, *, account: str = DEVELOPMENT_ACCOUNT, timeout_s: float = 60.0
    ) -> Self:
        """Connect to the host at *socket_path* (default: `$PVBLOB_SOCKET`, then the default socket).

        Raises HostUnavailable when no host listens there, HostRefused when it declines this process.
        """
        exchange = Exchange(socket_path)
        exchange.connect()
        return cls(exchange, Operations(account), timeout_s)

    @property
    def account(self) -> str:
        """The account whose blobs these are."""
        return self._operations.account

    # ---- reading ----------------------------------------------------------------------------------------------------

    def get(
        self,
        container: str,
        blob: str,
        *,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> bytes:
        """Return the blob's bytes from *offset*: at most *length*, or all to the end.

        Fewer than *length* bytes mean that the blob ends there. Raises NotFound; InvalidRange if *offset* lies at or
        past the end (an empty blob read from 0 is b""); PreconditionFailed. Source: Azure REST, "Get Blob".
        """
        began_at = monotonic()
        if length:
            content = self._reads.content((container, blob, if_match, if_none_match), offset, length)
            if content is not None:
                return content
        request = self._operations.read(container, blob, offset, length, if_match, if_none_match)
        return answers.content(self._exchange.perform(request, timeout_s=self._left_s(began_at)), request, offset)

    def read_into(
        self, container: str, blob: str, buffer: Buffer, offset: int = 0, *, if_match: str | None = None
    ) -> BlobProperties:
        """Fill *buffer* with the blob's bytes from *offset*.

        offset: bytes from the start of the blob.  buffer: writable, contiguous; filled whole. Memory that
        was lent (`device().allocate`) or registered (`register`) is filled by the host without a copy.
        Returns the properties (size in bytes, ETag) of the exact version read.
        Raises NotFound; PreconditionFailed; InvalidRange if offset + n passes the end (what lies before the end may
        have been placed, the rest of the buffer is untouched). Source: Azure REST, "Get Blob".
        """
        began_at = monotonic()
        known = self._reads.into((container, blob, if_match, None), buffer, offset)
        if known is not None:
            return known
        size_bytes = memoryview(buffer).nbytes
        request = self._operations.read(container, blob, offset, size_bytes, if_match, None)
        if size_bytes:
            answer = self._exchange.perform_into(request, buffer, timeout_s=self._left_s(began_at))
        else:
            answer = self._exchange.perform(request, timeout_s=self._timeout_s)
        return answers.filled(answer, request, blob, offset, size_bytes)

    def register(self, memory: Any) -> RegisteredMemory:
        """Lend shared memory of the program's own to the host, so that reads into it cost no copy in this process.

        memory: SharedMemory, mmap over a memfd, a shared torch tensor, a contiguous view of any of these, or
        (fd, offset, size_bytes). `read_into` any part of it, and `put` of any part, then go without a copy, also in
        children of a fork and after the host was restarted, until the handle's `deregister`. Raises ValueError for
        memory without a descriptor, LentMemoryExhausted when lent memory is spent.
        """
        return self._exchange.register(memory)

    def view(
        self, container: str, blob: str, *, offset: int = 0, length: int | None = None, if_match: str | None = None
    ) -> memoryview:
        """Return a read-only view of the blob's bytes where the host placed them; nothing is copied here.

        The view works with `numpy.frombuffer`, `struct` and files. Its pages are lent to it until the last view of
        them is dropped. *offset* and *length* as in `get`; without *length* the size is asked for first, and the same
        version is read. Raises what `get` raises; LentMemoryExhausted names the views held when there is no room.
        """
        began_at = monotonic()
        if length is None:
            known = self._run(self._operations.stat(container, blob, if_match))
            # Past the end one byte is asked for, so that the service itself refuses the range.
            length, if_match = max(known.size_bytes - offset, 1 if offset else 0), known.etag
        if (view := self._reads.view((container, blob, if_match, None), offset, length)) is not None:
            return view
        request = self._operations.read(container, blob, offset, length, if_match, None)
        if length == 0:
            answers.check(self._exchange.perform(request, timeout_s=self._timeout_s), request)
            return memoryview(b"")
        answer = self._exchange.perform_view(request, size_bytes_max=length, timeout_s=self._left_s(began_at))
        if answer.view is not None and answer.status < 300:
            return answer.view
        return memoryview(answers.content(answer, request, offset))

    def get_many(
        self, container: str, reads: Iterable[tuple[str, int, int]], *, in_flight: int = IN_FLIGHT
    ) -> Iterator[Done[bytes]]:
        """Read many ranges of the container's blobs at once; yield each as it is done, in no particular order.

        reads: (blob, offset, length) of each, taken as there is room.  in_flight: how many are under way at once; they
        are sent together, with one signal to the host. Each `Done` has the position of its read, and either its bytes
        (fewer than asked for where the blob ends) or its error, so that one failure does not lose the others:
        `done.result()` returns or raises. Leaving the loop early, and Ctrl-C, cancel what is under way.

            for done in client.get_many("data", [("a", 0, 4096), ("b", 8192, 4096)]):
                use(done.position, done.result())
        """
        from pvblob.client.many import Feed, each

        feed = Feed(self._reads, container, reads, in_flight)
        return each(feed, lambda blob, offset, length: self.get(container, blob, offset=offset, length=length))

    def read_many(
        self, container: str, reads: Iterable[tuple[str, int, Buffer]], *, in_flight: int = IN_FLIGHT
    ) -> Iterator[Done[BlobProperties]]:
        """Fill many buffers from the container's blobs at once; yield the properties of each as it is done.

        reads: (blob, offset, buffer) of each; see `read_into` for the buffer and `get_many` for the rest. A buffer
        belongs to its read until that read is done, or until the iterator is left.
        """
        from pvblob.client.many import Feed, each

        feed = Feed(self._reads, container, reads, in_flight)
        return each(feed, lambda blob, offset, buffer: self.read_into(container, blob, buffer, offset))

    def stream(
        self, container: str, blob: str, *, offset: int = 0, length: int | None = None, chunk_bytes: int = STREAM_BYTES
    ) -> Iterator[memoryview]:
        """Yield the blob's bytes in views of at most *chunk_bytes*, all of one version; nothing past its end.

        The next three pieces are under way while the program has one. Raises what `view` raises; PreconditionFailed
        if the blob is replaced meanwhile.
        """
        from pvblob.client import streams

        return streams.stream(self, streams.Span(container, blob, offset, length, chunk_bytes))

    def stat(
        self, container: str, blob: str, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> BlobProperties:
        """Return the blob's properties and metadata. Raises NotFound; PreconditionFailed."""
        return self._run(self._operations.stat(container, blob, if_match, if_none_match))

    # ---- writing ----------------------------------------------------------------------------------------------------

    def put(
        self,
        container: str,
        blob: str,
        data: bodies.Source,
        *,
        overwrite: bool = True,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> Written:
        """Store *data* as the whole content of a block blob.

        data: any bytes-like object, a path, a binary file, or an iterable of bytes-like chunks. Up to 8 MiB travel as
        one Put Blob, more as blocks of 8 MiB that are committed together: readers see the old blob or the new one.
        Raises AlreadyExists when overwrite is False and the blob exists; NotFound for the container;
        PreconditionFailed. Source: Azure REST, "Put Blob", "Put Block", "Put Block List".
        """
        from pvblob.client.uploads import BlockUpload

        options = WriteOptions(overwrite, metadata, content_type, if_match, if_none_match)
        return BlockUpload(self._run, self._operations, (container, blob), options).store(data)

    def begin_upload(
        self,
        container: str,
        blob: str,
        *,
        overwrite: bool = True,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        if_match: str | None = None,
    ) -> BlockUpload:
        """Begin to write a blob piece by piece, for a writer that is handed its bytes: `write` each, then `finish`.

        Nothing is sent here, and readers see nothing before `finish`; an upload that is dropped leaves uncommitted
        blocks, which the service discards with the next write of this blob or after a week.
        """
        from pvblob.client.uploads import BlockUpload

        options = WriteOptions(overwrite, metadata, content_type, if_match)
        return BlockUpload(self._run, self._operations, (container, blob), options)

    def append(self, container: str, blob: str, data: Buffer, *, position: int | None = None) -> int:
        """Append up to 100 MiB to an append blob, made where there is no blob; return the offset where *data* begins.

        Readers see all of it or nothing. position: that offset must be this one, else PreconditionFailed. Raises
        NotFound for the container; Conflict for a blob of another type. Source: Azure REST, "Append Block".
        """
        appending = self._operations.append_block(container, blob, data, position)
        landed = self._run(appending)
        if landed is None:
            self._run(self._operations.create_append_blob(container, blob))
            landed = self._run(appending)
        return answers.landed(landed, blob)

    def copy(
        self,
        source_container: str,
        source_blob: str,
        container: str,
        blob: str,
        *,
        overwrite: bool = True,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        source_if_match: str | None = None,
    ) -> Written:
        """Make *blob* a copy of a blob of the same account, content, settings and (unless given) metadata.

        The bytes do not pass through this process. A service that copies at its leisure is asked until it is done,
        `timeout_s` in all, then DeadlineExceeded. Raises NotFound for the source and for the container;
        AlreadyExists when overwrite is False and the blob exists; PreconditionFailed; Conflict when the copy failed.
        Source: Azure REST, "Copy Blob".
        """
        from pvblob.client.operations import CopyOptions

        options = CopyOptions(overwrite, metadata, if_match, source_if_match)
        source = (source_container, source_blob)
        copied = self._run(self._operations.copy(source, container, blob, options))
        pauses = copy_pauses_s(self._timeout_s)
        while copied.pending:
            sleep(next(pauses))
            copied = self._run(self._operations.copy_state(container, blob))
        return copied.written

    def set_metadata(
        self, container: str, blob: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> Written:
        """Replace the blob's metadata. Names are letters, digits and "_"; they are stored in lower case."""
        return self._run(self._operations.set_metadata(container, blob, metadata, if_match))

    def delete(self, container: str, blob: str, *, missing_ok: bool = False, if_match: str | None = None) -> bool:
        """Delete the blob. Returns False when there was none and missing_ok; raises NotFound otherwise."""
        return self._run(self._operations.delete(container, blob, missing_ok, if_match))

    def delete_many(self, container: str, blobs: Iterable[str]) -> dict[str, BlobError]:
        """Delete many blobs, 256 to a request; return blob → error for those that could not be deleted."""
        from pvblob.client import batch

        failed: dict[str, BlobError] = {}
        for names in batch.batches(blobs):
            refused: dict[str, BlobError] = self._run(self._operations.delete_many(container, names))
            failed |= refused
        return failed

    # ---- listing and containers -------------------------------------------------------------------------------------

    def list(
        self,
        container: str,
        prefix: str = "",
        delimiter: str | None = None,
        start_from: str | None = None,
        *,
        include_metadata: bool = False,
        page_size: int | None = None,
    ) -> Iterator[BlobProperties | BlobPrefix]:
        """Yield the container's blobs in the byte order of their names, page after page as they are consumed.

        prefix: only names that begin with it.  delimiter: names that hold it after the prefix are rolled up into one
        BlobPrefix.  start_from: the first name that may appear.  page_size: entries per request, at most 5,000.
        """
        include = "metadata" if include_metadata else ""
        options = ListOptions(prefix, delimiter, start_from, include, page_size)
        return self._entries(lambda marker: self._operations.list_blobs(container, options, marker))

    def find(self, where: str, container: str | None = None) -> Iterator[FoundBlob]:
        """Yield the account's, or the container's, blobs by their tags, e.g. `"project" = 'x' AND "year" >= '2026'`."""
        from pvblob.client import tags

        return self._entries(lambda marker: tags.find(self._operations, container, where, marker))

    def list_containers(self, prefix: str = "") -> Iterator[ContainerProperties]:
        """Yield the account's containers in the order of their names."""
        return self._entries(lambda marker: self._operations.list_containers(prefix, marker))

    def create_container(
        self, container: str, *, exist_ok: bool = False, metadata: Mapping[str, str] | None = None
    ) -> bool:
        """Create the container. Returns False when it exists and exist_ok; raises AlreadyExists otherwise."""
        return self._run(self._operations.create_container(container, exist_ok, metadata))

    def delete_container(self, container: str, *, missing_ok: bool = False) -> bool:
        """Delete the container and its blobs. Returns False when there was none and missing_ok."""
        return self._run(self._operations.delete_container(container, missing_ok))

    def stat_container(self, container: str) -> ContainerProperties:
        """Return the container's properties and metadata. Raises NotFound."""
        return self._run(self._operations.stat_container(container))

    def container(self, name: str) -> ContainerHandle:
        """Return the container as an object: `client.container("c").blob("b").get()`. Nothing is sent."""
        from pvblob.client.handles import ContainerHandle

        return ContainerHandle(self, name)

    # ---- the client itself ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the channel; views that are held stay readable."""
        self._exchange.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._exchange, self._operations, self._timeout_s)

    def __repr__(self) -> str:
        return f"Client(account={self.account!r}, timeout_s={self._timeout_s})"

    def asking(self, operations: Operations) -> Self:
        """Return a client on the same channel that builds its requests with *operations*."""
        return type(self)(self._exchange, operations, self._timeout_s)

    def _left_s(self, began_at: float) -> float:
        """Return what is left of a request's time, for the general path after the short one."""
        return self._timeout_s - (monotonic() - began_at)

    def _entries(self, page_from: Callable[[str], Call[Page[T]]]) -> Iterator[T]:
        """Yield a listing's entries, a page asked for when the one before is consumed."""
        page = self._run(page_from(""))
        yield from page.entries
        while page.next_marker:
            page = self._run(page_from(page.next_marker))
            yield from page.entries

    def _run(self, call: Call[T]) -> T:
        return call.interpret(self._exchange.perform(call.request, call.body, timeout_s=self._timeout_s))
