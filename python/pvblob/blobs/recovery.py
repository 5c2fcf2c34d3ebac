"""Opening a store: lock, check, repair what a crash may leave, rebuild the free list.

Called once by `service.EmbeddedService.open`, before anything else runs. Afterwards every run that the catalog refers
to lies inside its segment file, overlaps no other, and every other byte of the segments is free or given back.
Damage that no crash explains is not repaired: StoreCorrupt says what and where.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from pvblob import _native
from pvblob.blobs import catalog, streams
from pvblob.blobs.extents import Extents, Segment, aligned, segment_path, sync_directory
from pvblob.blobs.layout import unpack
from pvblob.blobs.store_errors import StoreCorrupt, StoreError, StoreInUse

log = logging.getLogger(__name__)

PUNCH_BYTES_MIN = 1 << 20

Place = tuple[int, int]  # offset and length in bytes


def lock_store(directory: Path) -> int:
    """Create the store's directories and take its lock; return the descriptor that holds it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / "segments").mkdir(mode=0o700, exist_ok=True)
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise StoreInUse(
            f"the store {directory} is in use by process {holder}; stop that host or serve another directory"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def open_catalog(directory: Path, *, durable: bool) -> sqlite3.Connection:
    """Open, migrate and check the catalog; returns the writing connection."""
    path = directory / "catalog.sqlite"
    connection = None
    try:
        connection = catalog.connect(path, durable=durable)
        catalog.migrate(connection)
        problems = [row[0] for row in connection.execute("PRAGMA quick_check(5)").fetchall()]
    except (sqlite3.Error, ValueError) as error:
        if connection is not None:
            connection.close()
        raise StoreCorrupt(f"the catalog {path} cannot be opened: {error}") from error
    if problems != ["ok"]:
        connection.close()
        raise StoreCorrupt(
            f"the catalog {path} is damaged: {'; '.join(problems)}. Restore it, or `sqlite3 {path} .recover`"
        )
    if durable:
        _settle(connection, directory)
    return connection


def _settle(connection: sqlite3.Connection, directory: Path) -> None:
    """Make durable what is seen now, before `rebuild` acts on it.

    A host that was killed may have left a commit that we read but that has not reached the disk. The runs which that
    commit freed are about to be cut off, punched or used again: after a power cut that takes the commit back, the
    catalog would refer to them. The same holds for the names of the store's files.
    """
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sync_directory(directory / "segments")
    sync_directory(directory)
    for above in directory.parents:
        try:
            sync_directory(above)
        except OSError:  # not ours to open or to sync, so we have not made it
            break


def rebuild(connection: sqlite3.Connection, extents: Extents) -> None:
    """Fill *extents* with the segments on disk and the runs nothing refers to; give back what a crash left."""
    started = time.monotonic()
    used = _used_places(connection, extents.directory)
    files = _segment_files(extents.directory)
    for number in sorted(used.keys() - files.keys()):
        raise StoreCorrupt(
            f"segment file {segment_path(extents.directory, number)} is missing; {_owner(connection, number)} needs it"
        )
    given_back = 0
    for number, path in sorted(files.items()):
        given_back += _rebuild_segment(connection, extents, number, path, sorted(used.get(number, ())))
    elapsed = time.monotonic() - started
    log.info("%d segments checked in %.2f s; %d bytes given back", len(extents.segments), elapsed, given_back)


def _used_places(connection: sqlite3.Connection, directory: Path) -> dict[int, set[Place]]:
    """Collect, per segment, every run the catalog refers to."""
    used: dict[int, set[Place]] = {}
    try:
        for container_id, name, packed in catalog.every_layout(connection):
            try:
                blocks = unpack(packed)
            except ValueError as error:
                raise StoreCorrupt(f"blob {name!r} of container {container_id}: {error}") from None
            for block in blocks:
                used.setdefault(block.segment, set()).add((block.offset, block.length))
        for _, _, block in catalog.every_block(connection):
            used.setdefault(block.segment, set()).add((block.offset, block.length))
        for _, block in streams.every_block(connection):
            used.setdefault(block.segment, set()).add((block.offset, block.length))
    except sqlite3.Error as error:
        raise StoreCorrupt(f"the catalog in {directory.parent} cannot be read: {error}") from error
    return used


def _segment_files(directory: Path) -> dict[int, Path]:
    files: dict[int, Path] = {}
    for path in directory.iterdir():
        if path.suffix != ".seg" or not path.stem.isdigit():
            raise StoreError(f"{path} is no segment file; move it away")
        files[int(path.stem)] = path
    return files


def _rebuild_segment(
    connection: sqlite3.Connection, extents: Extents, number: int, path: Path, places: list[Place]
) -> int:
    """Check one segment, cut what lies behind its last run, and free its gaps; return how many bytes went back."""
    size = path.stat().st_size
    if not places:
        path.unlink()
        return size
    for (offset, length), (following, _) in itertools.pairwise(places):
        if offset + aligned(length) > following:
            raise StoreCorrupt(f"{path}: runs overlap at byte {following}; {_owner(connection, number)} is affected")
    last, last_length = places[-1]
    if size < last + last_length:
        raise StoreCorrupt(
            f"{path} ends at byte {size} but must reach {last + last_length}; {_owner(connection, number)} is damaged"
        )
    tail = last + aligned(last_length)
    segment = Segment(path, max(extents.segment_bytes, tail), tail)
    extents.segments[number] = segment
    given_back = max(0, size - tail)
    gaps = list(_gaps(places))
    if given_back or gaps:
        given_back += _give_back(path, tail, size, gaps)
    for offset, length in gaps:
        extents.free_runs.add(number, offset, length)
    return given_back


def _owner(connection: sqlite3.Connection, number: int) -> str:
    """Name a blob that has bytes in segment *number*."""
    for container_id, name, packed in catalog.every_layout(connection):
        if any(block.segment == number for block in unpack(packed)):
            (container,) = connection.execute("SELECT name FROM containers WHERE id = ?", (container_id,)).fetchone()
            return f"blob {container}/{name.decode('utf-8', 'replace')}"
    query = (
        "SELECT c.name, b.name FROM appended a JOIN (SELECT stream, container_id, name FROM blobs"
        " UNION ALL SELECT stream, container_id, name FROM snapshots) b ON b.stream = a.stream"
        " JOIN containers c ON c.id = b.container_id WHERE a.segment = ? LIMIT 1"
    )
    for container, name in connection.execute(query, (number,)):
        return f"blob {container}/{name.decode('utf-8', 'replace')}"
    return "an uncommitted block"


def _gaps(places: list[Place]) -> Iterator[tuple[int, int]]:
    end = 0
    for offset, length in places:
        if offset > end:
            yield end, offset - end
        end = offset + aligned(length)


def _give_back(path: Path, tail: int, size: int, gaps: list[tuple[int, int]]) -> int:
    """Cut the file at *tail* and punch its large gaps; smaller ones are kept, as reuse is cheaper than fresh pages."""
    punched = 0
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if size > tail:
            os.ftruncate(fd, tail)
        for offset, length in gaps:
            if length >= PUNCH_BYTES_MIN:
                _native.punch_hole(fd, offset, length)
                punched += length
    finally:
        os.close(fd)
    return punched
