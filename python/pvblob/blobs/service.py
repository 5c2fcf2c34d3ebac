"""The embedded service: one table from operation to handler, and the store's life.

`execute` parses the target, finds the operation by method, level, `restype` and `comp`, and calls its handler; every
failure becomes a Response. It runs on the host's event loop: reads are answered at once from the catalog, writes go to
the committer. The caller vouches for who asks; nothing here knows channels, guests' policies or HTTP connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

from pvblob.blobs import (
    append_blobs,
    batch,
    blob_changes,
    blob_reads,
    blob_snapshots,
    blob_tags,
    block_blobs,
    catalog,
    containers,
    copies,
    from_url,
    lease_actions,
    listing,
    once,
    recovery,
)
from pvblob.blobs.answers import Call, Refusal, invalid_target, refuse
from pvblob.blobs.committer import Committer
from pvblob.blobs.extents import SEGMENT_BYTES, Extents
from pvblob.blobs.generations import Generations
from pvblob.blobs.housekeeping import Housekeeping
from pvblob.blobs.store import Store
from pvblob.blobs.target import InvalidTarget, Target, parse_target
from pvblob.http import Body, OnceKey, Request, Response

log = logging.getLogger(__name__)

Durability = Literal["fsync", "none"]
Handler = Callable[[Store, Call], "Response | Awaitable[Response]"]
Key = tuple[str, str, str | None, str | None]  # method, level, restype, comp


class Operation(NamedTuple):
    """One row of the table. changes: it is a mutation, so once-only keys apply."""

    handler: Handler
    changes: bool = False


OPERATIONS: dict[Key, Operation] = {
    ("GET", "account", None, "list"): Operation(containers.list_containers),
    ("GET", "account", None, "blobs"): Operation(blob_tags.find_blobs),
    ("GET", "account", "service", "properties"): Operation(containers.get_service_properties),
    ("GET", "account", "account", "properties"): Operation(containers.get_account_information),
    ("HEAD", "account", "account", "properties"): Operation(containers.get_account_information),
    ("POST", "account", None, "batch"): Operation(batch.blob_batch, changes=True),
    ("POST", "container", "container", "batch"): Operation(batch.blob_batch, changes=True),
    ("GET", "container", "container", "list"): Operation(listing.list_blobs),
    ("GET", "container", "container", "blobs"): Operation(blob_tags.find_blobs),
    ("PUT", "container", "container", None): Operation(containers.create_container, changes=True),
    ("DELETE", "container", "container", None): Operation(containers.delete_container, changes=True),
    ("GET", "container", "container", None): Operation(containers.get_properties),
    ("HEAD", "container", "container", None): Operation(containers.get_properties),
    ("GET", "container", "container", "metadata"): Operation(containers.get_metadata),
    ("HEAD", "container", "container", "metadata"): Operation(containers.get_metadata),
    ("PUT", "container", "container", "metadata"): Operation(containers.set_metadata, changes=True),
    ("PUT", "container", "container", "lease"): Operation(lease_actions.lease_container, changes=True),
    ("GET", "blob", None, None): Operation(blob_reads.get_blob),
    ("HEAD", "blob", None, None): Operation(blob_reads.get_properties),
    ("GET", "blob", None, "metadata"): Operation(blob_reads.get_metadata),
    ("HEAD", "blob", None, "metadata"): Operation(blob_reads.get_metadata),
    ("GET", "blob", None, "tags"): Operation(blob_tags.get_tags),
    ("GET", "blob", None, "blocklist"): Operation(block_blobs.get_block_list),
    ("PUT", "blob", None, None): Operation(copies.put_or_copy, changes=True),
    ("PUT", "blob", None, "block"): Operation(from_url.put_block, changes=True),
    ("PUT", "blob", None, "blocklist"): Operation(block_blobs.put_block_list, changes=True),
    ("PUT", "blob", None, "metadata"): Operation(blob_changes.set_metadata, changes=True),
    ("PUT", "blob", None, "properties"): Operation(blob_changes.set_properties, changes=True),
    ("PUT", "blob", None, "tier"): Operation(blob_changes.set_tier, changes=True),
    ("PUT", "blob", None, "appendblock"): Operation(append_blobs.append_block, changes=True),
    ("PUT", "blob", None, "snapshot"): Operation(blob_snapshots.snapshot_blob, changes=True),
    ("PUT", "blob", None, "tags"): Operation(blob_tags.set_tags, changes=True),
    ("PUT", "blob", None, "seal"): Operation(append_blobs.seal, changes=True),
    ("PUT", "blob", None, "lease"): Operation(lease_actions.lease_blob, changes=True),
    ("DELETE", "blob", None, None): Operation(blob_snapshots.delete_blob, changes=True),
}

# (method, comp) of what is done to a blob and may be done to a snapshot.
OF_SNAPSHOTS = {
    ("DELETE", None),
    *((method, comp) for method in ("GET", "HEAD") for comp in (None, "metadata", "tags")),
}


def find_operation(method: str, target: Target) -> Operation:
    """Find the table's row for a request. Refuses with NotImplemented."""
    query = target.query
    level = "blob" if target.blob is not None else "account" if target.container is None else "container"
    if not query:
        operation = OPERATIONS.get((method, level, None, None))
    else:
        if query.get("versionid"):
            raise Refusal("NotImplemented", "Versions are not supported.")
        if query.get("snapshot") and (method, query.get("comp") or None) not in OF_SNAPSHOTS:
            raise Refusal("InvalidQueryParameterValue", "A snapshot is read, copied or deleted, and nothing else.")
        operation = OPERATIONS.get((method, level, query.get("restype"), query.get("comp") or None))
    if operation is None:
        kind = f"restype={query.get('restype')}, comp={query.get('comp')}"
        raise Refusal("NotImplemented", f"{method} on this {level} with {kind}."[:200])
    return operation


class EmbeddedService:
    """Blob storage in a directory of this machine: an `http.Backend`.

    store_dir: made when missing; one process at a time.  durability: "fsync" acknowledges a write when it survives a
    power cut, "none" when it survives the end of the process.
    """

    def __init__(
        self,
        store_dir: Path,
        *,
        durability: Durability = "fsync",
        segment_bytes: int = SEGMENT_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = Path(store_dir)
        self._durable = durability == "fsync"
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._store: Store | None = None
        self._writer: sqlite3.Connection | None = None
        self._lock_fd = -1
        self._in_flight = once.InFlight()

    def open(self) -> None:
        """Take the store's lock, check and repair it, start the committer. Blocks; does nothing when open.

        Raises StoreInUse, StoreCorrupt, OSError.
        """
        if self._store is not None:
            return
        lock_fd = recovery.lock_store(self._directory)
        try:
            self._open_locked()
        except BaseException:
            os.close(lock_fd)
            raise
        self._lock_fd = lock_fd

    def _open_locked(self) -> None:
        writer = recovery.open_catalog(self._directory, durable=self._durable)
        with contextlib.ExitStack() as undo:
            undo.callback(writer.close)
            extents = Extents(self._directory / "segments", self._durable, self._segment_bytes)
            undo.callback(extents.close)
            recovery.rebuild(writer, extents)
            reader = catalog.connect(self._directory / "catalog.sqlite", durable=self._durable)
            reader.execute("PRAGMA query_only = ON")
            housekeeping = Housekeeping(extents, self._clock)
            generations = Generations()
            committer = Committer(writer, extents, generations=generations, clock=self._clock, idle=housekeeping.step)
            store = Store(reader, extents, committer, generations, self._clock)
            store.committer.containers_changed = store.container_ids.clear
            store.committer.start()
            self._store, self._writer = store, writer
            undo.pop_all()

    def close(self) -> None:
        """Commit what is queued, stop the committer, close the files, give up the lock. Does nothing when closed.

        Content that was handed out stays readable until its release. Blocks for a commit.
        """
        store, self._store = self._store, None
        if store is None:
            return
        store.committer.stop()
        store.reader.close()
        assert self._writer is not None
        self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._writer.close()
        store.extents.close()
        os.close(self._lock_fd)

    def commit_batches(self) -> tuple[list[tuple[int, int]], int]:
        """Return how many mutations commits took: see `BatchSizes.cumulative`. Nothing when closed."""
        return ([], 0) if self._store is None else self._store.committer.batch_sizes.cumulative()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def execute(self, request: Request, body: Body) -> Response:
        """Execute one request. Every failure is a Response; only cancellation is raised.

        Cancelled before its commit began, a write leaves no trace; cancelled later, its real answer is returned.
        """
        store = self._store
        try:
            if store is None:
                raise Refusal("ServerBusy", "The store is closed.")
            target = parse_target(request.authority, request.target)
            operation = find_operation(request.method, target)
            call = Call(request, target, body)
            if operation.changes and request.once is not None:
                return await self._execute_once(store, operation, call, request.once)
            outcome = operation.handler(store, call)
            return outcome if type(outcome) is Response else await outcome  # type: ignore[misc]
        except Refusal as refusal:
            return refuse(request, refusal)
        except InvalidTarget as error:
            return invalid_target(request, error)
        except asyncio.CancelledError:
            raise
        except ConnectionError:  # the body's sender went away while it was read: theirs to explain, not ours to log
            return refuse(request, Refusal("IncompleteBody"))
        except Exception:
            log.exception("%s %s failed", request.method, request.target.partition("?")[0])
            return refuse(request, Refusal("InternalError"))

    async def _execute_once(self, store: Store, operation: Operation, call: Call, key: OnceKey) -> Response:
        """Execute a mutation at most once: join the running one, replay the recorded one, else run it."""
        joined = await self._in_flight.join(key)
        if joined is not None:
            return joined
        if key.resubmission:
            recorded = once.find(store.reader, key)
            if recorded is not None:
                return recorded
        self._in_flight.begin(key)
        response: Response | None = None
        try:
            outcome = operation.handler(store, call)
            response = outcome if isinstance(outcome, Response) else await outcome
        except Refusal as refusal:
            response = refuse(call.request, refusal)
        finally:
            self._in_flight.end(key, response)
        return response
