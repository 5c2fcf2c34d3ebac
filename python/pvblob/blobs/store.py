"""A store that is open: its catalog, its segments, its committer, and what the event loop caches of them.

Handlers get a `Store` and a `Call`. Reads use `find_blob` inline; writes put bytes with `store_body` and then
`commit` a closure. It knows no operation of the REST API.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from pvblob.blobs import catalog, snapshots
from pvblob.blobs.answers import Call, Pairs, Refusal
from pvblob.blobs.committer import Committer, storage_failure
from pvblob.blobs.extents import Allocation, Extents
from pvblob.blobs.generations import Generations
from pvblob.blobs.layout import Block
from pvblob.blobs.moments import parse_moment
from pvblob.blobs.mutation import Mutation, Transaction
from pvblob.blobs.properties import encode_base64, encode_crc64
from pvblob.blobs.streams import StreamCache
from pvblob.blobs.versions import BlobVersion, VersionCache
from pvblob.http import Body, Observed, Response, Stored

CONTAINER_CACHE_MAX = 4096
SEARCHES_MAX = 2


class Found(NamedTuple):
    """A blob as a read finds it: the version, and what changes without a new one."""

    version: BlobVersion
    current: catalog.Current


@dataclass(slots=True)
class Written:
    """Body bytes in their run, not yet in the catalog. crc64 and md5 are those of the stored bytes."""

    block: Block | None
    crc64: int
    md5: bytes | None
    allocations: tuple[Allocation, ...]

    @property
    def checksum_pairs(self) -> Pairs:
        """The checksum a stored block is answered with: MD5 where one was asked for, else CRC-64."""
        if self.md5 is not None:
            return [("content-md5", encode_base64(self.md5))]
        return [("x-ms-content-crc64", encode_crc64(self.crc64))]


@dataclass(slots=True)
class Store:
    """The open store, used on one event loop. reader: the loop's own connection; clock: seconds since 1970.

    searches: how many searches may run in threads at a time; it leaves threads to who reads and copies.
    """

    reader: sqlite3.Connection
    extents: Extents
    committer: Committer
    generations: Generations
    clock: Callable[[], float] = time.time
    versions: VersionCache = field(default_factory=VersionCache)
    streams: StreamCache = field(default_factory=StreamCache)
    searches: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SEARCHES_MAX))
    container_ids: dict[tuple[str, str], int] = field(default_factory=dict)

    def container(self, call: Call) -> catalog.ContainerRow:
        """Return the container a request names, from the catalog. Refuses when it does not exist."""
        target = call.target
        assert target.container is not None
        row = catalog.find_container(self.reader, target.account, target.container)
        if row is None:
            raise Refusal("ContainerNotFound")
        return row

    def container_id(self, call: Call) -> int:
        """Return the id of the container a request names. Refuses when it does not exist."""
        target = call.target
        assert target.container is not None
        if self.committer.deleting:  # a cached id may be that of a container that others see deleted already
            return self.container(call).id
        key = (target.account, target.container)
        found = self.container_ids.get(key)
        if found is None:
            found = self.container(call).id
            if len(self.container_ids) >= CONTAINER_CACHE_MAX:
                self.container_ids.clear()
            self.container_ids[key] = found
        return found

    @property
    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return int(self.clock() * 1000)

    def find_blob(self, call: Call) -> Found:
        """Return the committed blob a request names. Refuses when blob or container do not exist."""
        container_id = self.container_id(call)
        name, snapshot = call.target.blob, call.target.query.get("snapshot")
        assert name is not None
        if snapshot:
            return self._find(snapshots.find(self.reader, container_id, name, parse_moment(snapshot)))
        current = catalog.find_current(self.reader, container_id, name)
        if current is not None:
            version = self.versions.get(current.version)
            if version is not None:
                return Found(version, current)
        return self._find(catalog.find_blob(self.reader, container_id, name) if current is not None else None)

    def _find(self, row: catalog.BlobRow | None) -> Found:
        if row is None:
            raise Refusal("BlobNotFound")
        version = self.versions.get(row.version) or self.versions.add(self._unpack(row))
        return Found(version, catalog.Current._make(getattr(row, name) for name in catalog.Current._fields))

    def _unpack(self, row: catalog.BlobRow) -> BlobVersion:
        if not row.stream:
            return BlobVersion.of(row)
        appended = self.streams.blocks(self.reader, row.stream, row.size)
        if appended is None:  # it was deleted since its row was read
            raise Refusal("BlobNotFound")
        return BlobVersion.of(row, appended)

    def observe(self, call: Call) -> tuple[Observed, ...]:
        """Observe the generations of the blob a request names; to be done before the blob is looked up."""
        name = call.target.blob
        assert name is not None
        container_id = self.container_id(call)
        observed = self.generations.observe(container_id, name)
        # A container that was deleted meanwhile has come to rest again, but its id is not found any more.
        return observed if self.container_id(call) == container_id else ()

    async def store_body(self, body: Body, *, md5: bool) -> Written:
        """Write a body to a run of its own; the caller owes `commit` or `discard`.

        Cancellation and failure give the run back: `Body.store` has ended when it raises, so nobody writes there.
        """
        size = body.size_bytes
        if size == 0:
            return Written(None, 0, EMPTY_MD5 if md5 else None, ())
        try:
            allocation = self.extents.allocate(size)
        except OSError as error:
            raise storage_failure(error) from error
        try:
            stored: Stored = await body.store(allocation.fd, allocation.offset, md5=md5)
        except ConnectionError:
            self.extents.give_back((allocation,))
            raise Refusal("IncompleteBody") from None
        except OSError as error:
            self.extents.give_back((allocation,))
            raise storage_failure(error) from error
        except BaseException:
            self.extents.give_back((allocation,))
            raise
        block = Block(allocation.segment, allocation.offset, size, stored.crc64)
        return Written(block, stored.crc64, stored.md5, (allocation,))

    def discard(self, written: Written) -> None:
        """Give back what `store_body` wrote."""
        self.extents.give_back(written.allocations)

    async def commit(
        self, call: Call, apply: Callable[[Transaction], Response], written: tuple[Allocation, ...] = ()
    ) -> Response:
        """Queue *apply* for the committer, which takes over *written*, and wait for the answer."""
        return await self.committer.submit(Mutation(call.request, apply, written, call.request.once))


def container_in(transaction: Transaction, call: Call) -> catalog.ContainerRow:
    """Return the container a request names, inside its transaction."""
    target = call.target
    assert target.container is not None
    row = catalog.find_container(transaction.connection, target.account, target.container)
    if row is None:
        raise Refusal("ContainerNotFound")
    return row


EMPTY_MD5 = bytes.fromhex("d41d8cd98f00b204e9800998ecf8427e")
