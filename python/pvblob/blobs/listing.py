"""List Blobs: flat or by delimiter, in byte order of the names, a page at a time.

A page is gathered in chunks with a pause between them, so that a long listing does not hold up the event loop; each
chunk is one catalog query that begins where the last one ended. A blob that exists throughout is listed exactly once.
Source: Azure REST, "List Blobs".
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import escape

from pvblob.blobs.answers import Call, Refusal, answer_xml, http_date
from pvblob.blobs.catalog import load_json
from pvblob.blobs.containers import endpoint, metadata_xml
from pvblob.blobs.leases import lease_xml
from pvblob.blobs.listing_query import decode_marker, encode_marker, page_size
from pvblob.blobs.moments import moment_text
from pvblob.blobs.properties import DEFAULT_CONTENT_TYPE
from pvblob.blobs.store import Store
from pvblob.blobs.tags import tags_xml
from pvblob.http import Response

CHUNK = 256
_BEHIND_A_SNAPSHOT = b"\xff"  # begins no name
_AFTER_EVERY_NAME = b"\xff"  # no UTF-8 text holds this byte
_INCLUDES = frozenset(
    {
        "copy",
        "deleted",
        "deletedwithversions",
        "immutabilitypolicy",
        "legalhold",
        "metadata",
        "snapshots",
        "tags",
        "uncommittedblobs",
        "versions",
    }
)
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


class ListedRow(NamedTuple):
    """What a listing shows of a blob; version 0: it has uncommitted blocks only."""

    name: bytes
    version: int
    size: int
    created: int
    modified: int
    settings: str
    metadata: str
    tier: str
    tier_changed: int
    copy: str
    lease: str
    stream: int
    sealed: int
    tags: str
    snapshot: int


_COLUMNS = ", ".join(ListedRow._fields[:-1])
_BASE = (1 << 63) - 1  # the blob itself comes after its snapshots
_COMMITTED = (
    f"SELECT {_COLUMNS}, {_BASE} AS snapshot FROM blobs WHERE container_id = :id AND name >= :start AND name < :stop"
)
_SNAPSHOTS = (
    f"SELECT {_COLUMNS}, snapshot FROM snapshots WHERE container_id = :id AND name >= :start AND name < :stop"
    " AND (name > :start OR snapshot > :after)"
)
_UNCOMMITTED = (
    f"SELECT name, 0, 0, changed, changed, '', '', '', 0, '', '', 0, 0, '', {_BASE} FROM staged"
    " WHERE container_id = :id AND name >= :start AND name < :stop AND NOT EXISTS"
    " (SELECT 1 FROM blobs WHERE blobs.container_id = staged.container_id AND blobs.name = staged.name)"
)


@dataclass(slots=True)
class Page:
    """One page being gathered. cursor: the name at which the next chunk begins, behind its snapshot *after* if that is
    not -1; entries: finished XML."""

    container_id: int
    prefix: bytes
    delimiter: bytes
    cursor: bytes
    stop: bytes
    limit: int
    includes: frozenset[str]
    now_ms: int
    after: int = -1
    entries: list[str] = field(default_factory=list)
    complete: bool = False

    def gather(self, connection: sqlite3.Connection) -> None:
        """Add up to CHUNK entries from one query; a common prefix ends the chunk, as the names under it are skipped."""
        wanted = min(CHUNK, self.limit - len(self.entries))
        found = self._query(connection, wanted)
        count = 0
        for row in map(ListedRow._make, found):
            count += 1
            common = self._common_prefix(row.name)
            if common is not None:
                found.close()
                self.entries.append(f"<BlobPrefix>{name_xml(common)}</BlobPrefix>")
                self.cursor, self.after = successor(common), -1
                return
            self.entries.append(blob_xml(row, self.includes, self.now_ms))
            if "snapshots" in self.includes and row.snapshot != _BASE:
                self.cursor, self.after = row.name, row.snapshot
            else:
                self.cursor, self.after = row.name + b"\0", -1
        self.complete = count < wanted

    def _query(self, connection: sqlite3.Connection, limit: int) -> sqlite3.Cursor:
        queries = [_COMMITTED]
        if "uncommittedblobs" in self.includes:
            queries.append(_UNCOMMITTED)
        order = "name"
        if "snapshots" in self.includes:
            queries.append(_SNAPSHOTS)
            order = "name, snapshot"
        parameters = {"id": self.container_id, "start": self.cursor, "stop": self.stop, "limit": limit}
        text = f"{' UNION ALL '.join(queries)} ORDER BY {order} LIMIT :limit"
        return connection.execute(text, {**parameters, "after": self.after})

    def next_marker(self, connection: sqlite3.Connection) -> str:
        """Return the marker at which the next page begins, or "" when this page reaches the end."""
        row = None if self.complete else self._query(connection, 1).fetchone()
        if row is None:
            return ""
        name: bytes = row[0]
        if name != self.cursor or self.after < 0:
            return encode_marker(name)
        return encode_marker(_BEHIND_A_SNAPSHOT + self.after.to_bytes(8, "big") + name)

    def _common_prefix(self, name: bytes) -> bytes | None:
        if not self.delimiter:
            return None
        found = name.find(self.delimiter, len(self.prefix))
        return None if found < 0 else name[: found + len(self.delimiter)]


async def list_blobs(store: Store, call: Call) -> Response:
    """List Blobs: prefix, delimiter, marker, startFrom, endBefore, maxresults, include."""
    query = call.target.query
    page = _page(store, call)
    while len(page.entries) < page.limit and not page.complete:
        page.gather(store.reader)
        if len(page.entries) >= CHUNK:
            await asyncio.sleep(0)
    parts = [
        f'<EnumerationResults ServiceEndpoint="{endpoint(call)}" ContainerName="{escape(call.target.container or "")}">'
    ]
    for name, key in (
        ("Prefix", "prefix"),
        ("Marker", "marker"),
        ("StartFrom", "startfrom"),
        ("Delimiter", "delimiter"),
    ):
        if query.get(key):
            parts.append(f"<{name}>{text_xml(query[key])}</{name}>")
    parts.append(f"<MaxResults>{page.limit}</MaxResults><Blobs>")
    parts += page.entries
    parts.append(f"</Blobs><NextMarker>{page.next_marker(store.reader)}</NextMarker></EnumerationResults>")
    return answer_xml(call.request, 200, "".join(parts))


def _page(store: Store, call: Call) -> Page:
    query = call.target.query
    includes = frozenset(filter(None, query.get("include", "").lower().replace(" ", "").split(",")))
    if includes - _INCLUDES:
        # `permissions` is asked by clients that look for a hierarchical namespace; this account has none.
        raise Refusal("InvalidQueryParameterValue", f"include={','.join(sorted(includes - _INCLUDES))[:64]}.")
    prefix = query.get("prefix", "").encode("utf-8", "surrogateescape")
    marker, after = _place(query.get("marker", ""))
    start_from = query.get("startfrom", "").encode("utf-8", "surrogateescape")
    stop = successor(prefix)
    if query.get("endbefore"):
        stop = min(stop, query["endbefore"].encode("utf-8", "surrogateescape"))
    cursor = max(prefix, start_from, marker)
    return Page(
        container_id=store.container_id(call),
        prefix=prefix,
        delimiter=query.get("delimiter", "").encode("utf-8", "surrogateescape"),
        cursor=cursor,
        after=after if cursor == marker else -1,
        stop=stop,
        limit=page_size(query),
        includes=includes,
        now_ms=store.now_ms,
    )


def _place(text: str) -> tuple[bytes, int]:
    """Read a marker: the name a page begins at, and the snapshot of it that came last, -1 if none did."""
    marker = decode_marker(text) if text else b""
    if not marker.startswith(_BEHIND_A_SNAPSHOT):
        return marker, -1
    return marker[9:], int.from_bytes(marker[1:9], "big") & _BASE


def successor(prefix: bytes) -> bytes:
    """Return the least byte string greater than every name that begins with *prefix*."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes((kept[-1] + 1,)) if kept else _AFTER_EVERY_NAME


def text_xml(text: str) -> str:
    """Escape text for an element; what XML cannot hold is dropped (only echoes of the query can have it)."""
    return escape(_NOT_XML.sub("", text.encode("utf-8", "replace").decode()), {"\r": "&#13;"})


def name_xml(name: bytes) -> str:
    """Format a name; one with characters that XML cannot hold is percent-encoded and marked so."""
    text = name.decode("utf-8")
    if _NOT_XML.search(text):
        return f'<Name Encoded="true">{quote(text)}</Name>'
    return f"<Name>{escape(text, {chr(13): '&#13;'})}</Name>"


def blob_xml(row: ListedRow, includes: frozenset[str], now_ms: int) -> str:
    """Format one blob."""
    settings = load_json(row.settings)
    snapshot = f"<Snapshot>{moment_text(row.snapshot)}</Snapshot>" if 0 < row.snapshot < _BASE else ""
    text = (
        f"<Blob>{name_xml(row.name)}{snapshot}<Properties><Creation-Time>{http_date(row.created)}</Creation-Time>"
        f"<Last-Modified>{http_date(row.modified)}</Last-Modified><Etag>0x{row.version:X}</Etag>"
        f"<Content-Length>{row.size}</Content-Length>{''.join(_settings_xml(settings))}"
        f"{_type_xml(row)}{'' if snapshot else lease_xml(row.lease, now_ms)}"
        "<ServerEncrypted>true</ServerEncrypted>"
    )
    if row.copy and "copy" in includes:
        text += _copy_xml(load_json(row.copy))
    if row.tags:
        text += f"<TagCount>{len(load_json(row.tags))}</TagCount>"
    text += "</Properties>"
    if "metadata" in includes:
        text += metadata_xml(load_json(row.metadata))
    if row.tags and "tags" in includes:
        text += tags_xml(load_json(row.tags))
    return text + "<OrMetadata /></Blob>"


def _type_xml(row: ListedRow) -> str:
    if row.stream:
        return "<BlobType>AppendBlob</BlobType>" + "<Sealed>true</Sealed>" * row.sealed
    text = f"<BlobType>BlockBlob</BlobType><AccessTier>{row.tier or 'Hot'}</AccessTier>"
    if not row.tier:
        return text + "<AccessTierInferred>true</AccessTierInferred>"
    return text + f"<AccessTierChangeTime>{http_date(row.tier_changed)}</AccessTierChangeTime>"


def _settings_xml(settings: dict[str, str]) -> Iterator[str]:
    yield f"<Content-Type>{escape(settings.get('content-type', DEFAULT_CONTENT_TYPE))}</Content-Type>"
    for name in (
        "Content-Encoding",
        "Content-Language",
        "Content-CRC64",
        "Content-MD5",
        "Cache-Control",
        "Content-Disposition",
    ):
        value = settings.get(name.lower())
        yield f"<{name}>{escape(value)}</{name}>" if value else f"<{name} />"


def _copy_xml(copy: dict[str, str]) -> str:
    names = {
        "x-ms-copy-id": "CopyId",
        "x-ms-copy-status": "CopyStatus",
        "x-ms-copy-source": "CopySource",
        "x-ms-copy-progress": "CopyProgress",
        "x-ms-copy-completion-time": "CopyCompletionTime",
    }
    return "".join(f"<{names[key]}>{escape(value)}</{names[key]}>" for key, value in copy.items() if key in names)
