"""Snapshots in the catalog: a blob's row as it was, kept beside the blob, by the moment it was made.

A run of bytes that a blob has no more never comes back to it, for a block list can only keep blocks that are committed.
So whatever shares a run with a snapshot does it by way of the next newer one, or the next older: nobody counts
references, and a run may go when neither neighbour has it (`unshared`). The same holds for streams.
Functions take a connection and return rows; they know nothing of requests.
"""

from __future__ import annotations

import sqlite3

from pvblob.blobs import catalog, streams
from pvblob.blobs.catalog import BlobRow
from pvblob.blobs.extents import Run, block_runs
from pvblob.blobs.layout import unpack

_COLUMNS = ", ".join(BlobRow._fields)
_MARKS = ",".join("?" * (3 + len(BlobRow._fields)))
_OF_BLOB = "FROM snapshots WHERE container_id = ? AND name = ?"


def find(connection: sqlite3.Connection, container_id: int, name: bytes, snapshot: int) -> BlobRow | None:
    """Return one snapshot, or None."""
    found = connection.execute(f"SELECT {_COLUMNS} {_OF_BLOB} AND snapshot = ?", (container_id, name, snapshot))
    row = found.fetchone()
    return None if row is None else BlobRow._make(row)


def write(connection: sqlite3.Connection, container_id: int, name: bytes, snapshot: int, row: BlobRow) -> None:
    """Keep *row* as a snapshot of the blob."""
    text = f"INSERT INTO snapshots (container_id, name, snapshot, {_COLUMNS}) VALUES ({_MARKS})"
    connection.execute(text, (container_id, name, snapshot, *row))


def exist(connection: sqlite3.Connection, container_id: int, name: bytes) -> bool:
    """Whether the blob has any."""
    return connection.execute(f"SELECT 1 {_OF_BLOB} LIMIT 1", (container_id, name)).fetchone() is not None


def delete(connection: sqlite3.Connection, container_id: int, name: bytes, snapshot: int, row: BlobRow) -> set[Run]:
    """Delete one snapshot, *row*; return the runs that nothing refers to any more."""
    where = (container_id, name, snapshot)
    connection.execute(f"DELETE {_OF_BLOB} AND snapshot = ?", where)
    newer = _first(connection, "AND snapshot > ? ORDER BY snapshot", where)
    newer = newer or catalog.find_blob(connection, container_id, name)
    return unshared(connection, row, newer, _first(connection, "AND snapshot < ? ORDER BY snapshot DESC", where))


def delete_all(connection: sqlite3.Connection, container_id: int, name: bytes, base: BlobRow) -> set[Run]:
    """Delete every snapshot of the blob, whose row is *base*; return the runs that nothing refers to any more."""
    found = connection.execute(f"SELECT {_COLUMNS} {_OF_BLOB} ORDER BY snapshot DESC", (container_id, name)).fetchall()
    if not found:
        return set()
    connection.execute(f"DELETE {_OF_BLOB}", (container_id, name))
    runs: set[Run] = set()
    for row in map(BlobRow._make, found):
        runs |= unshared(connection, row, base, None)
    return runs


def unshared_by(connection: sqlite3.Connection, container_id: int, name: bytes, row: BlobRow) -> set[Run]:
    """Return the runs of a blob, whose row is about to go, that no snapshot of it has; its stream goes now."""
    newest = _first(connection, "ORDER BY snapshot DESC", (container_id, name))
    return unshared(connection, row, newest, None)


def unshared(connection: sqlite3.Connection, row: BlobRow, newer: BlobRow | None, older: BlobRow | None) -> set[Run]:
    """Return the runs of *row* that neither neighbour has; its stream goes now, unless one of them has it."""
    kept = [other for other in (newer, older) if other is not None]
    if row.stream:
        if any(other.stream == row.stream for other in kept):
            return set()
        return block_runs(streams.delete(connection, row.stream))
    runs = block_runs(unpack(row.layout))
    for other in kept:
        runs -= block_runs(unpack(other.layout))
    return runs


def _first(connection: sqlite3.Connection, rest: str, where: tuple[int | bytes, ...]) -> BlobRow | None:
    row = connection.execute(f"SELECT {_COLUMNS} {_OF_BLOB} {rest} LIMIT 1", where).fetchone()
    return None if row is None else BlobRow._make(row)
