"""The catalog: containers, blobs, uncommitted blocks and once-only records, in SQLite.

Readers (the event loop) and the one writer (the committer thread) each hold a connection; WAL lets them run side by
side. Blob names are stored as UTF-8 bytes, so listing order is byte order. Functions take a connection and return
rows; they know nothing of requests. Times are whole seconds since 1970, as Last-Modified has no finer unit.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pvblob.blobs.layout import Block

SCHEMA_VERSION = 5
# Pages of the log (WAL) after which a COMMIT moves them to the database: 64 MiB. Every write waits for that meanwhile.
# With SQLite's own 1000 pages one in a hundred small writes did; with more it is rarer and takes little longer, for
# mostly they are the same pages.
LOG_PAGES_MAX = 16_384

_SCHEMA_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('version', 0);
CREATE TABLE containers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,
    modified INTEGER NOT NULL, metadata TEXT NOT NULL, public_access TEXT NOT NULL, deleted INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX containers_by_name ON containers (account, name) WHERE deleted = 0;
CREATE TABLE blobs (
    container_id INTEGER NOT NULL, name BLOB NOT NULL, version INTEGER NOT NULL, size INTEGER NOT NULL,
    created INTEGER NOT NULL, modified INTEGER NOT NULL, settings TEXT NOT NULL, metadata TEXT NOT NULL,
    tier TEXT NOT NULL, tier_changed INTEGER NOT NULL, copy TEXT NOT NULL, layout BLOB NOT NULL,
    PRIMARY KEY (container_id, name)) WITHOUT ROWID;
CREATE TABLE staged (
    container_id INTEGER NOT NULL, name BLOB NOT NULL, id_length INTEGER NOT NULL, count INTEGER NOT NULL,
    changed INTEGER NOT NULL, PRIMARY KEY (container_id, name)) WITHOUT ROWID;
CREATE TABLE blocks (
    container_id INTEGER NOT NULL, name BLOB NOT NULL, id BLOB NOT NULL, segment INTEGER NOT NULL,
    offset INTEGER NOT NULL, length INTEGER NOT NULL, crc64 BLOB NOT NULL,
    PRIMARY KEY (container_id, name, id)) WITHOUT ROWID;
CREATE TABLE once (
    guest TEXT NOT NULL, nonce BLOB NOT NULL, guid BLOB NOT NULL, digest BLOB NOT NULL, recorded INTEGER NOT NULL,
    status INTEGER NOT NULL, fields TEXT NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY (guest, nonce, guid)) WITHOUT ROWID;
CREATE INDEX once_by_age ON once (recorded);
"""

_SCHEMA_2 = """
ALTER TABLE containers ADD COLUMN lease TEXT NOT NULL DEFAULT '';
ALTER TABLE blobs ADD COLUMN lease TEXT NOT NULL DEFAULT '';
"""

_SCHEMA_3 = """
ALTER TABLE blobs ADD COLUMN stream INTEGER NOT NULL DEFAULT 0;
ALTER TABLE blobs ADD COLUMN appends INTEGER NOT NULL DEFAULT 0;
ALTER TABLE blobs ADD COLUMN sealed INTEGER NOT NULL DEFAULT 0;
CREATE TABLE appended (
    stream INTEGER NOT NULL, ends INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
    length INTEGER NOT NULL, crc64 BLOB NOT NULL, PRIMARY KEY (stream, ends)) WITHOUT ROWID;
"""

_SCHEMA_4 = """
ALTER TABLE blobs ADD COLUMN tags TEXT NOT NULL DEFAULT '';
CREATE TABLE tags (
    container_id INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, name BLOB NOT NULL,
    PRIMARY KEY (container_id, key, value, name)) WITHOUT ROWID;
"""

_SCHEMA_5 = """
CREATE TABLE snapshots (
    container_id INTEGER NOT NULL, name BLOB NOT NULL, snapshot INTEGER NOT NULL,
    version INTEGER NOT NULL, size INTEGER NOT NULL, created INTEGER NOT NULL, modified INTEGER NOT NULL,
    settings TEXT NOT NULL, metadata TEXT NOT NULL, tier TEXT NOT NULL, tier_changed INTEGER NOT NULL,
    copy TEXT NOT NULL, layout BLOB NOT NULL, lease TEXT NOT NULL, stream INTEGER NOT NULL, appends INTEGER NOT NULL,
    sealed INTEGER NOT NULL, tags TEXT NOT NULL, PRIMARY KEY (container_id, name, snapshot)) WITHOUT ROWID;
"""

MIGRATIONS: dict[int, str] = {0: _SCHEMA_1, 1: _SCHEMA_2, 2: _SCHEMA_3, 3: _SCHEMA_4, 4: _SCHEMA_5}


class ContainerRow(NamedTuple):
    """One container. metadata: JSON object; lease: see `leases.Lease.pack`."""

    id: int
    name: str
    version: int
    modified: int
    metadata: str
    public_access: str
    lease: str


class BlobRow(NamedTuple):
    """One committed blob. settings, metadata, copy, tags: JSON objects; layout: `layout.pack`; lease: `Lease.pack`.

    stream: 0, or of an append blob where its blocks are (`streams`), and then the layout is empty.  appends: how many
    blocks were appended.  sealed: 1 when it takes no more.
    """

    version: int
    size: int
    created: int
    modified: int
    settings: str
    metadata: str
    tier: str
    tier_changed: int
    copy: str
    layout: bytes
    lease: str = ""
    stream: int = 0
    appends: int = 0
    sealed: int = 0
    tags: str = ""


class Current(NamedTuple):
    """What changes of a blob without a new version, so that no cached row has it; and which version is current."""

    version: int
    tier: str
    tier_changed: int
    lease: str
    stream: int
    tags: str


_CONTAINER_COLUMNS = ", ".join(ContainerRow._fields)
_BLOB_COLUMNS = ", ".join(BlobRow._fields)
_CURRENT_COLUMNS = ", ".join(Current._fields)
_BLOB_MARKS = ",".join("?" * (2 + len(BlobRow._fields)))


def connect(path: Path, *, durable: bool) -> sqlite3.Connection:
    """Open the catalog in autocommit mode; the caller writes its own BEGIN and COMMIT. Any one thread may use it."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES_MAX}")
    connection.execute("PRAGMA mmap_size = 268435456")
    connection.execute("PRAGMA cache_size = -65536")
    return connection


def beside(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Open another connection to the same catalog, which only reads, for work off the event loop."""
    (_, _, path) = connection.execute("PRAGMA database_list").fetchone()
    opened = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    opened.execute("PRAGMA query_only = ON")
    return opened


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to SCHEMA_VERSION, one transaction per step. ValueError: it is newer than this program."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > SCHEMA_VERSION:
        raise ValueError(f"its schema is version {found}; this program knows up to {SCHEMA_VERSION}")
    for step in range(found, SCHEMA_VERSION):
        connection.executescript(f"BEGIN; {MIGRATIONS[step]} PRAGMA user_version = {step + 1}; COMMIT;")


def find_container(connection: sqlite3.Connection, account: str, name: str) -> ContainerRow | None:
    """Return the container, or None."""
    row = connection.execute(
        f"SELECT {_CONTAINER_COLUMNS} FROM containers WHERE account = ? AND name = ? AND deleted = 0", (account, name)
    ).fetchone()
    return None if row is None else ContainerRow._make(row)


def list_containers(
    connection: sqlite3.Connection, account: str, prefix: str, start: str, limit: int
) -> list[ContainerRow]:
    """Return up to *limit* containers whose name has *prefix* and is at least *start*, by name."""
    rows = connection.execute(
        f"SELECT {_CONTAINER_COLUMNS} FROM containers WHERE account = ? AND deleted = 0 AND name >= ?"
        " AND substr(name, 1, ?) = ? ORDER BY name LIMIT ?",
        (account, max(prefix, start), len(prefix), prefix, limit),
    )
    return [ContainerRow._make(row) for row in rows.fetchall()]


def find_current(connection: sqlite3.Connection, container_id: int, name: bytes) -> Current | None:
    """Return what is current of a committed blob, or None: the cheapest look at a blob."""
    row = connection.execute(
        f"SELECT {_CURRENT_COLUMNS} FROM blobs WHERE container_id = ? AND name = ?", (container_id, name)
    ).fetchone()
    return None if row is None else Current._make(row)


def find_blob(connection: sqlite3.Connection, container_id: int, name: bytes) -> BlobRow | None:
    """Return the committed blob, or None."""
    row = connection.execute(
        f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE container_id = ? AND name = ?", (container_id, name)
    ).fetchone()
    return None if row is None else BlobRow._make(row)


def write_blob(connection: sqlite3.Connection, container_id: int, name: bytes, row: BlobRow) -> None:
    """Insert or replace a committed blob."""
    connection.execute(
        f"INSERT OR REPLACE INTO blobs (container_id, name, {_BLOB_COLUMNS}) VALUES ({_BLOB_MARKS})",
        (container_id, name, *row),
    )


def write_tier(connection: sqlite3.Connection, container_id: int, name: bytes, tier: str, now: int) -> None:
    """Change a blob's tier, and nothing else of it."""
    connection.execute(
        "UPDATE blobs SET tier = ?, tier_changed = ? WHERE container_id = ? AND name = ?",
        (tier, now, container_id, name),
    )


def write_tags(connection: sqlite3.Connection, container_id: int, name: bytes, tags: str) -> None:
    """Change a blob's tags, and nothing else of it; see `index_tags`."""
    connection.execute("UPDATE blobs SET tags = ? WHERE container_id = ? AND name = ?", (tags, container_id, name))


def index_tags(connection: sqlite3.Connection, container_id: int, name: bytes, old: str, new: str) -> None:
    """Let searches find a blob by its *new* tags instead of its *old* ones."""
    if old == new:
        return
    rows = [(container_id, key, value, name) for key, value in load_json(old).items()]
    connection.executemany("DELETE FROM tags WHERE container_id = ? AND key = ? AND value = ? AND name = ?", rows)
    rows = [(container_id, key, value, name) for key, value in load_json(new).items()]
    connection.executemany("INSERT INTO tags VALUES (?,?,?,?)", rows)


def write_lease(connection: sqlite3.Connection, container_id: int, name: bytes, lease: str) -> None:
    """Change a blob's lease, and nothing else of it."""
    connection.execute("UPDATE blobs SET lease = ? WHERE container_id = ? AND name = ?", (lease, container_id, name))


def delete_blob(connection: sqlite3.Connection, container_id: int, name: bytes) -> None:
    """Delete a committed blob's row."""
    connection.execute("DELETE FROM blobs WHERE container_id = ? AND name = ?", (container_id, name))


def delete_container(connection: sqlite3.Connection, container_id: int) -> None:
    """Mark a container as deleted; its blobs are to be reclaimed."""
    connection.execute("UPDATE containers SET deleted = 1 WHERE id = ?", (container_id,))


def find_staged(connection: sqlite3.Connection, container_id: int, name: bytes) -> tuple[int, int] | None:
    """Return (length of every block id, number of blocks) of a blob's uncommitted blocks, or None."""
    found: tuple[int, int] | None = connection.execute(
        "SELECT id_length, count FROM staged WHERE container_id = ? AND name = ?", (container_id, name)
    ).fetchone()
    return found


def find_block(connection: sqlite3.Connection, container_id: int, name: bytes, block_id: bytes) -> Block | None:
    """Return one uncommitted block, or None."""
    row = connection.execute(
        "SELECT segment, offset, length, crc64, id FROM blocks WHERE container_id = ? AND name = ? AND id = ?",
        (container_id, name, block_id),
    ).fetchone()
    return None if row is None else _block(row)


def staged_blocks(connection: sqlite3.Connection, container_id: int, name: bytes) -> list[Block]:
    """Return every uncommitted block of a blob, by id."""
    rows = connection.execute(
        "SELECT segment, offset, length, crc64, id FROM blocks WHERE container_id = ? AND name = ? ORDER BY id",
        (container_id, name),
    )
    return [_block(row) for row in rows.fetchall()]


def write_block(connection: sqlite3.Connection, container_id: int, name: bytes, block: Block) -> None:
    """Insert or replace one uncommitted block; the caller counts with `write_staged`."""
    connection.execute(
        "INSERT OR REPLACE INTO blocks VALUES (?,?,?,?,?,?,?)",
        (container_id, name, block.id, block.segment, block.offset, block.length, block.crc64.to_bytes(8, "little")),
    )


def write_staged(
    connection: sqlite3.Connection, container_id: int, name: bytes, id_length: int, count: int, now: int
) -> None:
    """Remember how many uncommitted blocks a blob has and when the last one came."""
    connection.execute("INSERT OR REPLACE INTO staged VALUES (?,?,?,?,?)", (container_id, name, id_length, count, now))


def delete_staged(connection: sqlite3.Connection, container_id: int, name: bytes) -> list[Block]:
    """Delete a blob's uncommitted blocks and return them."""
    if find_staged(connection, container_id, name) is None:
        return []
    blocks = staged_blocks(connection, container_id, name)
    connection.execute("DELETE FROM blocks WHERE container_id = ? AND name = ?", (container_id, name))
    connection.execute("DELETE FROM staged WHERE container_id = ? AND name = ?", (container_id, name))
    return blocks


def drop_stale_blocks(connection: sqlite3.Connection, before: int) -> list[Block]:
    """Delete the uncommitted blocks of every blob that got none since *before* (seconds since 1970); return them."""
    stale = connection.execute("SELECT container_id, name FROM staged WHERE changed < ?", (before,)).fetchall()
    dropped: list[Block] = []
    for container_id, name in stale:
        dropped += delete_staged(connection, container_id, name)
    return dropped


def _block(row: tuple[int, int, int, bytes, bytes]) -> Block:
    return Block(row[0], row[1], row[2], int.from_bytes(row[3], "little"), row[4])


def every_layout(connection: sqlite3.Connection) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (container id, name, packed layout) of every committed blob and every snapshot."""
    for table in ("blobs", "snapshots"):
        yield from connection.execute(f"SELECT container_id, name, layout FROM {table}")


def every_block(connection: sqlite3.Connection) -> Iterator[tuple[int, bytes, Block]]:
    """Yield (container id, name, block) of every uncommitted block."""
    query = "SELECT container_id, name, segment, offset, length, crc64, id FROM blocks"
    for container_id, name, *rest in connection.execute(query):
        yield container_id, name, _block((rest[0], rest[1], rest[2], rest[3], rest[4]))


def dump_json(value: dict[str, str]) -> str:
    """Encode a small string map for a column; "" when it is empty."""
    return json.dumps(value, separators=(",", ":")) if value else ""


def load_json(text: str) -> dict[str, str]:
    """Invert `dump_json`."""
    return json.loads(text) if text else {}
