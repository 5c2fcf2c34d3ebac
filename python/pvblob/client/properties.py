"""The values a client returns: properties of blobs and containers, and what a write left behind.

Plain frozen data; how they are read from an answer is `pvblob.client.answers`, which imports this when it must.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

_MONTHS = {
    name: number
    for number, name in enumerate(
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], 1
    )
}


@dataclass(frozen=True, slots=True)
class BlobProperties:
    """What is known of one version of a blob.

    size_bytes: of the whole blob, whichever part was read.  etag: quoted, ready for `if_match`.  last_modified,
    created: UTC.  content_md5: 16 bytes as the writer declared them, else None.  metadata: names in the case
    they were set with (the service compares them without case).  snapshot: the moment of the snapshot a listing
    shows; None for the blob itself.
    Source: Azure REST, "Get Blob Properties".
    """

    name: str
    size_bytes: int
    etag: str
    last_modified: datetime | None = None
    created: datetime | None = None
    blob_type: str = "BlockBlob"
    content_type: str | None = None
    content_encoding: str | None = None
    content_language: str | None = None
    content_disposition: str | None = None
    cache_control: str | None = None
    content_md5: bytes | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    snapshot: str | None = None


@dataclass(frozen=True, slots=True)
class BlobPrefix:
    """A "folder" of a listing with a delimiter: the common beginning of several names, its delimiter included."""

    name: str


@dataclass(frozen=True, slots=True)
class ContainerProperties:
    """What is known of a container. etag: quoted.  last_modified: UTC.  metadata: names in the
    case they were set with."""

    name: str
    etag: str
    last_modified: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """What a write left behind: the quoted ETag of the version it made and its time (UTC)."""

    etag: str
    last_modified: datetime | None


@dataclass(frozen=True, slots=True)
class FoundBlob:
    """A blob that a search by tags found, with the tags it was found by."""

    container: str
    name: str
    tags: Mapping[str, str]


def time_of(text: str | None) -> datetime | None:
    """Parse an RFC 1123 date, e.g. `Tue, 24 Nov 2026 03:58:00 GMT`; None when there is none or it is malformed."""
    if text is None or len(text) != 29:
        return None
    try:
        return datetime(
            int(text[12:16]), _MONTHS[text[8:11]], int(text[5:7]),
            int(text[17:19]), int(text[20:22]), int(text[23:25]), tzinfo=UTC,
        )  # fmt: skip
    except (KeyError, ValueError):
        return None
