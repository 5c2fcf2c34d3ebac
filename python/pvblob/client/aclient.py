"""The asyncio client: the same operations as `Client`, awaited.

program → `AsyncClient` → `Operations` (what to ask) → `AsyncExchange` (the channel). It has no state of its own: one
client serves tasks of several event loops, survives a fork, and pickles as its settings. Cancelling a task cancels its
request at the host. What each operation takes, returns and raises is said in full by `Client`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from pvblob.client import answers, batch, bodies, streams, tags
from pvblob.client.awaited_reads import AwaitedReads
from pvblob.client.exchange import AsyncExchange
from pvblob.client.handles import AsyncContainerHandle
from pvblob.client.many import Done, Feed, aeach
from pvblob.client.operations import (
    DEVELOPMENT_ACCOUNT,
    Call,
    CopyOptions,
    ListOptions,
    Operations,
    WriteOptions,
    block_id,
    copy_pauses_s,
)
from pvblob.client.reads import IN_FLIGHT, STREAM_BYTES, Reads

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

    from pvblob.client.answers import Page
    from pvblob.client.properties import BlobPrefix, BlobProperties, ContainerProperties, FoundBlob, Written
    from pvblob.errors import BlobError
    from pvblob.vsc.registration import RegisteredMemory

T = TypeVar("T")


class AsyncClient:
    """Blobs of one account, through the host's channel.

    Every operation raises a leaf of `pvblob.BlobError` for the service's own answer (`NotFound`, `AlreadyExists`,
    `PreconditionFailed`, …) and a leaf of `pvblob.ChannelError` when the link failed. `timeout_s` bounds each request,
    waits for a busy or restarting host included.
    """

    def __init__(self, exchange: AsyncExchange, operations: Operations | None = None, timeout_s: float = 60.0) -> None:
        self._exchange = exchange
        self._operations = operations or Operations(DEVELOPMENT_ACCOUNT)
        self._timeout_s = timeout_s
        self._reads = Reads(exchange.device(), self._operations, timeout_s)
        self._awaited = AwaitedReads(self._reads, exchange.adevice(), timeout_s)

    @classmethod
    async def connect(
        cls, socket_path: str | None = None, *, account: str = DEVELOPMENT_ACCOUNT, timeout_s: float = 60.0
    ) -> Self:
        """Connect to the host at *socket_path* (default: `$PVBLOB_SOCKET`, then the default socket).

        Raises HostUnavailable when no host listens there, HostRefused when it declines this process.
        """
        exchange = AsyncExchange(socket_path)
        await exchange.connect()
        return cls(exchange, Operations(account), timeout_s)

    @property
    def account(self) -> str:
        """The account whose blobs these are."""
        return self._operations.account

    # ---- reading ----------------------------------------------------------------------------------------------------

    async def get(
        self,
        container: str,
        blob: str,
        *,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> bytes:
        """See `Client.get`."""
        began_at = monotonic()
        if length:
            content = await self._awaited.content((container, blob, if_match, if_none_match), offset, length)
            if content is not None:
                return content
        request = self._operations.read(container, blob, offset, length, if_match, if_none_match)
        return answers.content(await self._exchange.perform(request, timeout_s=self._left_s(began_at)), request, offset)

    async def read_into(
        self, container: str, blob: str, buffer: Buffer, offset: int = 0, *, if_match: str | None = None
    ) -> BlobProperties:
        """See `Client.read_into`."""
        began_at = monotonic()
        known = await self._awaited.into((container, blob, if_match, None), buffer, offset)
        if known is not None:
            return known
        size_bytes = memoryview(buffer).nbytes
        request = self._operations.read(container, blob, offset, size_bytes, if_match, None)
        if size_bytes:
            answer = await self._exchange.perform_into(request, buffer, timeout_s=self._left_s(began_at))
        else:
            answer = await self._exchange.perform(request, timeout_s=self._timeout_s)
        return answers.filled(answer, request, blob, offset, size_bytes)

    async def register(self, memory: Any) -> RegisteredMemory:
        """Lend shared memory of the program's own to the host, so that reads into it cost no copy in this process.

        memory: SharedMemory, mmap over a memfd, a shared torch tensor, a contiguous view of any of these, or
        (fd, offset, size_bytes). `read_into` any part of it, and `put` of any part, then go without a copy, also in
        children of a fork and after the host was restarted, until the handle's `deregister`. Raises ValueError for
        memory without a descriptor, LentMemoryExhausted when lent memory is spent.
        """
        return await self._exchange.register(memory)

    async def view(
        self, container: str, blob: str, *, offset: int = 0, length: int | None = None, if_match: str | None = None
    ) -> memoryview:
        """See `Client.view`."""
        if length is None:
            known = await self._run(self._operations.stat(container, blob, if_match))
            # Past the end one byte is asked for, so that the service itself refuses the range.
            length, if_match = max(known.size_bytes - offset, 1 if offset else 0), known.etag
        request = self._operations.read(container, blob, offset, length, if_match, None)
        if length == 0:
            answers.check(await self._exchange.perform(request, timeout_s=self._timeout_s), request)
            return memoryview(b"")
        answer = await self._exchange.perform_view(request, size_bytes_max=length, timeout_s=self._timeout_s)
        if answer.view is not None and answer.status < 300:
            return answer.view
        return memoryview(answers.content(answer, request, offset))

    def get_many(
        self, container: str, reads: Iterable[tuple[str, int, int]], *, in_flight: int = IN_FLIGHT
    ) -> AsyncIterator[Done[bytes]]:
        """See `Client.get_many`; to be used with `async for`."""

        async def one(blob: str, offset: int, length: int) -> bytes:
            return await self.get(container, blob, offset=offset, length=length)

        return aeach(Feed(self._reads, container, reads, in_flight), one, self._exchange.adevice())

    def read_many(
        self, container: str, reads: Iterable[tuple[str, int, Buffer]], *, in_flight: int = IN_FLIGHT
    ) -> AsyncIterator[Done[BlobProperties]]:
        """See `Client.read_many`; to be used with `async for`."""

        async def one(blob: str, offset: int, buffer: Buffer) -> BlobProperties:
            return await self.read_into(container, blob, buffer, offset)

        return aeach(Feed(self._reads, container, reads, in_flight), one, self._exchange.adevice())

    def stream(
        self, container: str, blob: str, *, offset: int = 0, length: int | None = None, chunk_bytes: int = STREAM_BYTES
    ) -> AsyncIterator[memoryview]:
        """See `Client.stream`."""
        return streams.astream(self, streams.Span(container, blob, offset, length, chunk_bytes))

    async def stat(
        self, container: str, blob: str, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> BlobProperties:
        """See `Client.stat`."""
        return await self._run(self._operations.stat(container, blob, if_match, if_none_match))

    # ---- writing ----------------------------------------------------------------------------------------------------

    async def put(
        self,
        container: str,
        blob: str,
        data: bodies.AsyncSource,
        *,
        overwrite: bool = True,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> Written:
        """See `Client.put`."""
        options = WriteOptions(overwrite, metadata, content_type, if_match, if_none_match)
        upload, block_ids = os.urandom(12), list[str]()
        async for piece, is_last in bodies.async_pieces(data):
            if is_last and not block_ids:
                return await self._run(self._operations.put_blob(container, blob, piece, options))
            if memoryview(piece).nbytes:
                block_ids.append(block_id(upload, len(block_ids)))
                await self._run(self._operations.put_block(container, blob, block_ids[-1], piece))
        return await self._run(self._operations.put_block_list(container, blob, block_ids, options))

    async def append(self, container: str, blob: str, data: Buffer, *, position: int | None = None) -> int:
        """See `Client.append`."""
        appending = self._operations.append_block(container, blob, data, position)
        landed = await self._run(appending)
        if landed is None:
            await self._run(self._operations.create_append_blob(container, blob))
            landed = await self._run(appending)
        return answers.landed(landed, blob)

    async def copy(
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
        """See `Client.copy`."""
        options = CopyOptions(overwrite, metadata, if_match, source_if_match)
        source = (source_container, source_blob)
        copied = await self._run(self._operations.copy(source, container, blob, options))
        pauses = copy_pauses_s(self._timeout_s)
        while copied.pending:
            await asyncio.sleep(next(pauses))
            copied = await self._run(self._operations.copy_state(container, blob))
        return copied.written

    async def set_metadata(
        self, container: str, blob: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> Written:
        """See `Client.set_metadata`."""
        return await self._run(self._operations.set_metadata(container, blob, metadata, if_match))

    async def delete(self, container: str, blob: str, *, missing_ok: bool = False, if_match: str | None = None) -> bool:
        """See `Client.delete`."""
        return await self._run(self._operations.delete(container, blob, missing_ok, if_match))

    async def delete_many(self, container: str, blobs: Iterable[str]) -> dict[str, BlobError]:
        """See `Client.delete_many`."""
        failed: dict[str, BlobError] = {}
        for names in batch.batches(blobs):
            refused: dict[str, BlobError] = await self._run(self._operations.delete_many(container, names))
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
    ) -> AsyncIterator[BlobProperties | BlobPrefix]:
        """See `Client.list`."""
        include = "metadata" if include_metadata else ""
        options = ListOptions(prefix, delimiter, start_from, include, page_size)
        return self._entries(lambda marker: self._operations.list_blobs(container, options, marker))

    def find(self, where: str, container: str | None = None) -> AsyncIterator[FoundBlob]:
        """See `Client.find`."""
        return self._entries(lambda marker: tags.find(self._operations, container, where, marker))

    def list_containers(self, prefix: str = "") -> AsyncIterator[ContainerProperties]:
        """See `Client.list_containers`."""
        return self._entries(lambda marker: self._operations.list_containers(prefix, marker))

    async def create_container(
        self, container: str, *, exist_ok: bool = False, metadata: Mapping[str, str] | None = None
    ) -> bool:
        """See `Client.create_container`."""
        return await self._run(self._operations.create_container(container, exist_ok, metadata))

    async def delete_container(self, container: str, *, missing_ok: bool = False) -> bool:
        """See `Client.delete_container`."""
        return await self._run(self._operations.delete_container(container, missing_ok))

    async def stat_container(self, container: str) -> ContainerProperties:
        """See `Client.stat_container`."""
        return await self._run(self._operations.stat_container(container))

    def container(self, name: str) -> AsyncContainerHandle:
        """Return the container as an object: `client.container("c").blob("b").get()`. Nothing is sent."""
        return AsyncContainerHandle(self, name)

    # ---- the client itself ------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """See `Client.close`."""
        await self._exchange.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._exchange, self._operations, self._timeout_s)

    def __repr__(self) -> str:
        return f"AsyncClient(account={self.account!r}, timeout_s={self._timeout_s})"

    def asking(self, operations: Operations) -> Self:
        """Return a client on the same channel that builds its requests with *operations*."""
        return type(self)(self._exchange, operations, self._timeout_s)

    def _left_s(self, began_at: float) -> float:
        """Return what is left of a request's time, for the general path after the short one."""
        return self._timeout_s - (monotonic() - began_at)

    async def _entries(self, page_from: Callable[[str], Call[Page[T]]]) -> AsyncIterator[T]:
        """Yield a listing's entries, a page asked for when the one before is consumed."""
        page = await self._run(page_from(""))
        for entry in page.entries:
            yield entry
        while page.next_marker:
            page = await self._run(page_from(page.next_marker))
            for entry in page.entries:
                yield entry

    async def _run(self, call: Call[T]) -> T:
        return call.interpret(await self._exchange.perform(call.request, call.body, timeout_s=self._timeout_s))
