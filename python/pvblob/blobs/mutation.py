"""One change to the catalog: what the committer is given, and what its closure works with and decides."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from pvblob.blobs import catalog
from pvblob.blobs.extents import Allocation, Run
from pvblob.blobs.generations import Key
from pvblob.http import OnceKey, Request, Response


@dataclass(slots=True)
class Transaction:
    """What a mutation's closure works with: the connection inside its savepoint, and what it decides.

    now, now_ms: seconds and milliseconds since 1970, one value per batch.  freed: runs the catalog no longer refers to.
    touched: whose committed state changes. What a reader can see of a blob is changed through the methods below only,
    so that nothing is forgotten.
    """

    connection: sqlite3.Connection
    now: int
    now_ms: int
    next_version: Callable[[], int]
    freed: list[Run] = field(default_factory=list)
    touched: set[Key] = field(default_factory=set)

    def write_blob(self, container_id: int, name: bytes, row: catalog.BlobRow) -> None:
        """Insert or replace a committed blob."""
        self.touched.add((container_id, name))
        catalog.write_blob(self.connection, container_id, name, row)

    def write_tier(self, container_id: int, name: bytes, tier: str) -> None:
        """Change a blob's tier."""
        self.touched.add((container_id, name))
        catalog.write_tier(self.connection, container_id, name, tier, self.now)

    def write_tags(self, container_id: int, name: bytes, old: str, new: str) -> None:
        """Change a blob's tags."""
        self.touched.add((container_id, name))
        catalog.write_tags(self.connection, container_id, name, new)
        catalog.index_tags(self.connection, container_id, name, old, new)

    def write_lease(self, container_id: int, name: bytes, lease: str) -> None:
        """Change a blob's lease ("": none)."""
        self.touched.add((container_id, name))
        catalog.write_lease(self.connection, container_id, name, lease)

    def delete_blob(self, container_id: int, name: bytes) -> None:
        """Delete a committed blob's row."""
        self.touched.add((container_id, name))
        catalog.delete_blob(self.connection, container_id, name)

    def delete_container(self, container_id: int) -> None:
        """Let a container and all its blobs vanish."""
        self.touched.add((container_id, None))
        catalog.delete_container(self.connection, container_id)

    @property
    def deletes_container(self) -> bool:
        """Whether cached container ids are stale after this commit."""
        return any(name is None for _, name in self.touched)


@dataclass(slots=True)
class Mutation:
    """One change: *apply* runs on the committer's thread inside the batch's transaction.

    written: runs that hold this mutation's bytes; the committer takes them over.  outcome: set when it took effect,
    and then the catalog refers to all of *written*.  settled: the answer may be given (the loop's thread sets it).
    """

    request: Request
    apply: Callable[[Transaction], Response]
    written: tuple[Allocation, ...] = ()
    once: OnceKey | None = None
    future: asyncio.Future[Response] | None = None
    response: Response | None = None
    settled: bool = False
    outcome: Transaction | None = None
    _claim: threading.Lock = field(default_factory=threading.Lock)

    @property
    def submitter(self) -> tuple[str, int]:
        """Whose turn it takes: the guest, and which program of the guest's."""
        return self.request.guest, self.request.reader

    def claim(self) -> bool:
        """Take the one right to decide this mutation's fate: the committer to apply it, the caller to withdraw it."""
        return self._claim.acquire(blocking=False)
