"""A container or a blob as an object: names bound once, every call handed on to the client unchanged.

`client.container("c").blob("b").get(offset=4096, length=512)`. Handles hold no state and send nothing when they are
made; what the calls mean, take and raise is said once, by `Client` and `AsyncClient`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pvblob.client import snapshots, tags
from pvblob.client.leases import AsyncHeldLease, HeldLease
from pvblob.client.operations import INFINITE
from pvblob.client.snapshots import SnapshotOperations

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from pvblob.client.aclient import AsyncClient
    from pvblob.client.bodies import AsyncSource, Source
    from pvblob.client.client import Client
    from pvblob.client.properties import BlobPrefix, BlobProperties, ContainerProperties, FoundBlob, Written


@dataclass(frozen=True, slots=True)
class BlobHandle:
    """One blob of a `Client`; it need not exist."""

    client: Client
    container: str
    name: str

    def get(self, *, offset: int = 0, length: int | None = None, if_match: str | None = None) -> bytes:
        """See `Client.get`."""
        return self.client.get(self.container, self.name, offset=offset, length=length, if_match=if_match)

    def read_into(self, buffer: Buffer, offset: int = 0, *, if_match: str | None = None) -> BlobProperties:
        """See `Client.read_into`."""
        return self.client.read_into(self.container, self.name, buffer, offset, if_match=if_match)

    def view(self, *, offset: int = 0, length: int | None = None, if_match: str | None = None) -> memoryview:
        """See `Client.view`."""
        return self.client.view(self.container, self.name, offset=offset, length=length, if_match=if_match)

    def put(
        self,
        data: Source,
        *,
        overwrite: bool = True,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Written:
        """See `Client.put`."""
        return self.client.put(
            self.container, self.name, data, overwrite=overwrite, metadata=metadata, content_type=content_type
        )

    def append(self, data: Buffer, *, position: int | None = None) -> int:
        """See `Client.append`."""
        return self.client.append(self.container, self.name, data, position=position)

    def stat(self) -> BlobProperties:
        """See `Client.stat`."""
        return self.client.stat(self.container, self.name)

    def delete(self, *, missing_ok: bool = False) -> bool:
        """See `Client.delete`."""
        return self.client.delete(self.container, self.name, missing_ok=missing_ok)

    def tags(self) -> dict[str, str]:
        """Return the blob's tags. Raises NotFound."""
        return self.client._run(tags.get_tags(self.client._operations, self.container, self.name))

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Replace the blob's tags, at most ten; its ETag stays. Raises NotFound."""
        self.client._run(tags.set_tags(self.client._operations, self.container, self.name, values))

    def snapshot(self, metadata: Mapping[str, str] | None = None) -> str:
        """Keep what the blob is now; return the moment that names it. metadata: its own, else the blob's.

        It costs no bytes: blob and snapshot share theirs. Raises NotFound. Source: Azure REST, "Snapshot Blob".
        """
        return self.client._run(snapshots.take(self.client._operations, self.container, self.name, metadata))

    def snapshots(self) -> Iterator[BlobProperties]:
        """Yield the blob's snapshots, the oldest first; `snapshot` of each names it."""
        marker: str | None = ""
        while marker is not None:
            page = self.client._run(snapshots.page(self.client._operations, self.container, self.name, marker))
            yield from snapshots.of_blob(page, self.name)
            marker = snapshots.following(page, self.name)

    def at(self, snapshot: str) -> BlobHandle:
        """Return the blob as it was at that moment: to be read, and deleted alone. Nothing is sent."""
        return replace(self, client=self.client.asking(SnapshotOperations(self.client.account, snapshot)))

    def restore(self, snapshot: str) -> Written:
        """Make the blob what it was at that moment; its snapshots stay. Raises NotFound."""
        return self.at(snapshot).client.copy(self.container, self.name, self.container, self.name)

    def lease(self, duration_s: int = INFINITE) -> HeldLease[BlobHandle]:
        """Take a lease of 15 to 60 seconds, or one without end, so that nobody else can change or delete the blob.

        It is let go at the end of a `with`, or when it has lasted. Raises Conflict while somebody else has it;
        NotFound. Source: Azure REST, "Lease Blob", "Lease Container".
        """
        return HeldLease.acquire(self, duration_s)

    @property
    def place(self) -> tuple[str, str | None]:
        """The names of the container and of the blob in it."""
        return self.container, self.name


@dataclass(frozen=True, slots=True)
class ContainerHandle:
    """One container of a `Client`; it need not exist."""

    client: Client
    name: str

    def blob(self, name: str) -> BlobHandle:
        """Return a blob of this container as an object."""
        return BlobHandle(self.client, self.name, name)

    def create(self, *, exist_ok: bool = False) -> bool:
        """See `Client.create_container`."""
        return self.client.create_container(self.name, exist_ok=exist_ok)

    def delete(self, *, missing_ok: bool = False) -> bool:
        """See `Client.delete_container`."""
        return self.client.delete_container(self.name, missing_ok=missing_ok)

    def stat(self) -> ContainerProperties:
        """See `Client.stat_container`."""
        return self.client.stat_container(self.name)

    def list(self, prefix: str = "", delimiter: str | None = None) -> Iterator[BlobProperties | BlobPrefix]:
        """See `Client.list`."""
        return self.client.list(self.name, prefix, delimiter)

    def find(self, where: str) -> Iterator[FoundBlob]:
        """See `Client.find`."""
        return self.client.find(where, self.name)

    def lease(self, duration_s: int = INFINITE) -> HeldLease[ContainerHandle]:
        """Take a lease of 15 to 60 seconds, or one without end, so that nobody else can delete the container.

        It is let go at the end of a `with`, or when it has lasted. Raises Conflict while somebody else has it;
        NotFound. Source: Azure REST, "Lease Blob", "Lease Container".
        """
        return HeldLease.acquire(self, duration_s)

    @property
    def place(self) -> tuple[str, str | None]:
        """The names of the container and of the blob in it."""
        return self.name, None


@dataclass(frozen=True, slots=True)
class AsyncBlobHandle:
    """One blob of an `AsyncClient`; it need not exist."""

    client: AsyncClient
    container: str
    name: str

    async def get(self, *, offset: int = 0, length: int | None = None, if_match: str | None = None) -> bytes:
        """See `Client.get`."""
        return await self.client.get(self.container, self.name, offset=offset, length=length, if_match=if_match)

    async def read_into(self, buffer: Buffer, offset: int = 0, *, if_match: str | None = None) -> BlobProperties:
        """See `Client.read_into`."""
        return await self.client.read_into(self.container, self.name, buffer, offset, if_match=if_match)

    async def view(self, *, offset: int = 0, length: int | None = None, if_match: str | None = None) -> memoryview:
        """See `Client.view`."""
        return await self.client.view(self.container, self.name, offset=offset, length=length, if_match=if_match)

    async def put(
        self,
        data: AsyncSource,
        *,
        overwrite: bool = True,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Written:
        """See `AsyncClient.put`."""
        return await self.client.put(
            self.container, self.name, data, overwrite=overwrite, metadata=metadata, content_type=content_type
        )

    async def append(self, data: Buffer, *, position: int | None = None) -> int:
        """See `Client.append`."""
        return await self.client.append(self.container, self.name, data, position=position)

    async def stat(self) -> BlobProperties:
        """See `Client.stat`."""
        return await self.client.stat(self.container, self.name)

    async def delete(self, *, missing_ok: bool = False) -> bool:
        """See `Client.delete`."""
        return await self.client.delete(self.container, self.name, missing_ok=missing_ok)

    async def tags(self) -> dict[str, str]:
        """See `BlobHandle.tags`."""
        return await self.client._run(tags.get_tags(self.client._operations, self.container, self.name))

    async def set_tags(self, values: Mapping[str, str]) -> None:
        """See `BlobHandle.set_tags`."""
        await self.client._run(tags.set_tags(self.client._operations, self.container, self.name, values))

    async def snapshot(self, metadata: Mapping[str, str] | None = None) -> str:
        """See `BlobHandle.snapshot`."""
        return await self.client._run(snapshots.take(self.client._operations, self.container, self.name, metadata))

    async def snapshots(self) -> AsyncIterator[BlobProperties]:
        """See `BlobHandle.snapshots`."""
        marker: str | None = ""
        while marker is not None:
            page = await self.client._run(snapshots.page(self.client._operations, self.container, self.name, marker))
            for found in snapshots.of_blob(page, self.name):
                yield found
            marker = snapshots.following(page, self.name)

    def at(self, snapshot: str) -> AsyncBlobHandle:
        """See `BlobHandle.at`."""
        return replace(self, client=self.client.asking(SnapshotOperations(self.client.account, snapshot)))

    async def restore(self, snapshot: str) -> Written:
        """See `BlobHandle.restore`."""
        return await self.at(snapshot).client.copy(self.container, self.name, self.container, self.name)

    async def lease(self, duration_s: int = INFINITE) -> AsyncHeldLease[AsyncBlobHandle]:
        """Take a lease of 15 to 60 seconds, or one without end, so that nobody else can change or delete the blob.

        It is let go at the end of a `with`, or when it has lasted. Raises Conflict while somebody else has it;
        NotFound. Source: Azure REST, "Lease Blob", "Lease Container".
        """
        return await AsyncHeldLease.acquire(self, duration_s)

    @property
    def place(self) -> tuple[str, str | None]:
        """The names of the container and of the blob in it."""
        return self.container, self.name


@dataclass(frozen=True, slots=True)
class AsyncContainerHandle:
    """One container of an `AsyncClient`; it need not exist."""

    client: AsyncClient
    name: str

    def blob(self, name: str) -> AsyncBlobHandle:
        """Return a blob of this container as an object."""
        return AsyncBlobHandle(self.client, self.name, name)

    async def create(self, *, exist_ok: bool = False) -> bool:
        """See `Client.create_container`."""
        return await self.client.create_container(self.name, exist_ok=exist_ok)

    async def delete(self, *, missing_ok: bool = False) -> bool:
        """See `Client.delete_container`."""
        return await self.client.delete_container(self.name, missing_ok=missing_ok)

    async def stat(self) -> ContainerProperties:
        """See `Client.stat_container`."""
        return await self.client.stat_container(self.name)

    def list(self, prefix: str = "", delimiter: str | None = None) -> AsyncIterator[BlobProperties | BlobPrefix]:
        """See `Client.list`."""
        return self.client.list(self.name, prefix, delimiter)

    def find(self, where: str) -> AsyncIterator[FoundBlob]:
        """See `Client.find`."""
        return self.client.find(where, self.name)

    async def lease(self, duration_s: int = INFINITE) -> AsyncHeldLease[AsyncContainerHandle]:
        """Take a lease of 15 to 60 seconds, or one without end, so that nobody else can delete the container.

        It is let go at the end of a `with`, or when it has lasted. Raises Conflict while somebody else has it;
        NotFound. Source: Azure REST, "Lease Blob", "Lease Container".
        """
        return await AsyncHeldLease.acquire(self, duration_s)

    @property
    def place(self) -> tuple[str, str | None]:
        """The names of the container and of the blob in it."""
        return self.name, None
