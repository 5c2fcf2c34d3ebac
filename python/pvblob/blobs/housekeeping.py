"""What the committer does when nothing is queued: reclaim deleted containers, expire records and blocks, punch holes.

Each step is one short piece of work on the committer's thread, so that a mutation never waits long for it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from pvblob.blobs import catalog, containers, once
from pvblob.blobs.extents import Extents, block_runs

RECLAIM_BLOBS = 500
PUNCH_BYTES_MIN = 8 << 20
EXPIRE_EVERY_S = 60.0
STAGED_LIFETIME_S = 7 * 24 * 3600
DROP_STAGED_EVERY_S = 3600.0
PUNCH_AFTER_S = 30.0


class Housekeeping:
    """The committer's idle work. clock: seconds since 1970, as the committer's."""

    def __init__(self, extents: Extents, clock: Callable[[], float]) -> None:
        self._extents = extents
        self._clock = clock
        # Records are aged by uptime too: a clock that jumps ahead must not expire what a guest may still ask for.
        self._opened = time.monotonic()
        self._expired = self._opened
        self._punched = self._opened
        self._free_bytes = -1
        self._staged_dropped = -DROP_STAGED_EVERY_S  # so that the first step does it

    def step(self, connection: sqlite3.Connection, deletions_settled: bool) -> bool:
        """Do one piece of work; True when there may be more at once.

        deletions_settled: no reader can still hold the id of a deleted container, so its runs may be freed.
        """
        return (deletions_settled and self._reclaim(connection)) or self._housekeep(connection)

    def _housekeep(self, connection: sqlite3.Connection) -> bool:
        self._expire(connection)
        self._drop_staged(connection)
        self._punch()
        return False

    def _reclaim(self, connection: sqlite3.Connection) -> bool:
        if connection.execute("SELECT 1 FROM containers WHERE deleted = 1 LIMIT 1").fetchone() is None:
            return False
        connection.execute("BEGIN IMMEDIATE")
        runs, worked = containers.reclaim(connection, RECLAIM_BLOBS)
        connection.execute("COMMIT")
        self._extents.free(runs)
        return worked

    def _expire(self, connection: sqlite3.Connection) -> None:
        now = time.monotonic()
        if now - self._opened < once.RETENTION_S or now - self._expired < EXPIRE_EVERY_S:
            return
        self._expired = now
        connection.execute("DELETE FROM once WHERE recorded < ?", (int(self._clock()) - once.RETENTION_S,))

    def _drop_staged(self, connection: sqlite3.Connection) -> None:
        """Drop uncommitted blocks of blobs that got none for a week. No read answers from them, so none is pinned."""
        now = time.monotonic()
        if now - self._staged_dropped < DROP_STAGED_EVERY_S:
            return
        self._staged_dropped = now
        connection.execute("BEGIN IMMEDIATE")
        dropped = catalog.drop_stale_blocks(connection, int(self._clock()) - STAGED_LIFETIME_S)
        connection.execute("COMMIT")
        self._extents.free(block_runs(dropped))

    def _punch(self) -> None:
        """Give large free runs back once the amount of free space has not changed for a while."""
        now = time.monotonic()
        _, free_bytes = self._extents.usage()
        if free_bytes != self._free_bytes:
            self._free_bytes, self._punched = free_bytes, now
        elif free_bytes and now - self._punched >= PUNCH_AFTER_S:
            self._punched = now
            self._extents.punch_idle(PUNCH_BYTES_MIN)
