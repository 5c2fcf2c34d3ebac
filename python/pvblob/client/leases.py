"""Leases that this program holds: taken by a handle's `lease`, let go at the end of a `with`.

    with client.container("jobs").blob("leader").lease(30) as held:
        held.handle.put(b"me")   # writes by this handle carry the lease; by others they fail while it lasts
        held.renew()

Nothing here waits by itself, and nothing renews by itself: a program that works longer than its lease renews it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from pvblob.client.operations import LeasedOperations
from pvblob.errors import BlobError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from pvblob.client.aclient import AsyncClient
    from pvblob.client.client import Client
    from pvblob.client.handles import AsyncBlobHandle, AsyncContainerHandle, BlobHandle, ContainerHandle

Handle = TypeVar("Handle", "BlobHandle", "ContainerHandle")
AsyncHandle = TypeVar("AsyncHandle", "AsyncBlobHandle", "AsyncContainerHandle")
AnyClient = TypeVar("AnyClient", "Client", "AsyncClient")


def holding(client: AnyClient, lease_id: str) -> AnyClient:
    """Return a client on the same channel whose requests carry the lease, reads of content aside, which need none."""
    return client.asking(LeasedOperations(client.account, lease_id))


@dataclass(frozen=True, slots=True)
class HeldLease(Generic[Handle]):
    """A lease on a blob or a container. id: a GUID.  handle: what is leased, with the right to change it."""

    handle: Handle
    id: str

    @classmethod
    def acquire(cls, handle: Handle, duration_s: int) -> Self:
        """Take a lease; see `BlobHandle.lease`."""
        client = handle.client
        lease_id = client._run(client._operations.lease(*handle.place, "acquire", duration_s))
        return cls(replace(handle, client=holding(client, lease_id)), lease_id)

    def renew(self) -> None:
        """Let it last as long as at first, from now. Raises Conflict when it was broken, or is somebody else's now."""
        self._run("renew")

    def release(self) -> None:
        """Let it go. Raises Conflict when it is not held any more."""
        self._run("release")

    def _run(self, action: str) -> None:
        client = self.handle.client
        client._run(client._operations.lease(*self.handle.place, action))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        # What the program failed of, or that the leased thing is deleted or lost, is worth more than that it is free.
        with contextlib.suppress(BlobError):
            self.release()


@dataclass(frozen=True, slots=True)
class AsyncHeldLease(Generic[AsyncHandle]):
    """See `HeldLease`: `async with await handle.lease(30) as held`."""

    handle: AsyncHandle
    id: str

    @classmethod
    async def acquire(cls, handle: AsyncHandle, duration_s: int) -> Self:
        """Take a lease; see `BlobHandle.lease`."""
        client = handle.client
        lease_id = await client._run(client._operations.lease(*handle.place, "acquire", duration_s))
        return cls(replace(handle, client=holding(client, lease_id)), lease_id)

    async def renew(self) -> None:
        """See `HeldLease.renew`."""
        await self._run("renew")

    async def release(self) -> None:
        """See `HeldLease.release`."""
        await self._run("release")

    async def _run(self, action: str) -> None:
        client = self.handle.client
        await client._run(client._operations.lease(*self.handle.place, action))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        with contextlib.suppress(BlobError):
            await self.release()
