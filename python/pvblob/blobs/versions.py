"""One immutable version of a blob, ready to answer reads: its constant response fields and its unpacked layout.

`VersionCache` keeps the recently read ones by version number, which no other blob ever has: an entry is never stale.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from pvblob.blobs.answers import etag, http_date
from pvblob.blobs.catalog import BlobRow, load_json
from pvblob.blobs.layout import Block, Slice, ends, slices, unpack
from pvblob.blobs.properties import DEFAULT_CONTENT_TYPE, metadata_pairs

CACHE_COST_MAX = 200_000


@dataclass(slots=True)
class BlobVersion:
    """One version of a blob. get_pairs: the fields of every Get Blob answer but Content-MD5 and what changes without
    a new version; md5: that one, or ""."""

    row: BlobRow
    get_pairs: list[tuple[str, str]]
    md5: str
    blocks: list[Block]
    block_ends: list[int]

    @classmethod
    def of(cls, row: BlobRow, appended: tuple[list[Block], list[int]] | None = None) -> BlobVersion:
        """Unpack a catalog row. appended: the blocks of an append blob, which may be more than this version has."""
        settings = load_json(row.settings)
        md5 = settings.pop("content-md5", "")
        if appended is None:
            blocks = unpack(row.layout)
            appended = blocks, ends(blocks)
        pairs = [("content-type", settings.pop("content-type", DEFAULT_CONTENT_TYPE))]
        pairs += [
            ("etag", etag(row.version)),
            ("last-modified", http_date(row.modified)),
            ("accept-ranges", "bytes"),
            *_type_pairs(row),
            ("x-ms-creation-time", http_date(row.created)),
            ("x-ms-server-encrypted", "true"),
            *settings.items(),
            *load_json(row.copy).items(),
            *metadata_pairs(load_json(row.metadata)),
        ]
        return cls(row._replace(layout=b""), pairs, md5, *appended)

    def slices(self, offset: int, length: int) -> list[Slice]:
        """Cut a byte range out of the layout."""
        if len(self.blocks) == 1:
            return [Slice(self.blocks[0], offset, length)]
        return slices(self.blocks, self.block_ends, offset, length)


def _type_pairs(row: BlobRow) -> list[tuple[str, str]]:
    if not row.stream:
        return [("x-ms-blob-type", "BlockBlob")]
    pairs = [("x-ms-blob-type", "AppendBlob"), ("x-ms-blob-committed-block-count", str(row.appends))]
    return [*pairs, ("x-ms-blob-sealed", "true")] if row.sealed else pairs


class VersionCache:
    """The recently read versions, least recently used first to go; the bound counts layout entries."""

    def __init__(self, cost_max: int = CACHE_COST_MAX) -> None:
        self._versions: OrderedDict[int, BlobVersion] = OrderedDict()
        self._cost = 0
        self._cost_max = cost_max

    def get(self, version: int) -> BlobVersion | None:
        """Return a cached version, or None."""
        found = self._versions.get(version)
        if found is not None:
            self._versions.move_to_end(version)
        return found

    def add(self, made: BlobVersion) -> BlobVersion:
        """Keep *made*."""
        self._cost += _cost(made)
        self._versions[made.row.version] = made
        while self._cost > self._cost_max and len(self._versions) > 1:
            _, dropped = self._versions.popitem(last=False)
            self._cost -= _cost(dropped)
        return made


def _cost(version: BlobVersion) -> int:
    # The blocks of a stream are its cache's, shared by all versions of the blob.
    return 16 if version.row.stream else 16 + len(version.blocks)
