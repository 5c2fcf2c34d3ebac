"""What this service offers to the data plane: answers to reads of one version of a blob, as ready heads and extents.

Built by the read handlers for a request that wants it, from what they have looked up anyway. Everything here must say
exactly what the handlers say: a differential test compares the two byte for byte.
"""

from __future__ import annotations

from pvblob.blobs.answers import VERSION_NEWEST, Pairs, etag, ready_head
from pvblob.blobs.store import Store
from pvblob.blobs.versions import BlobVersion
from pvblob.http import FileContent, Observed, Offer, Slot

# A blob of more blocks is not offered: pinning and listing them would cost more than the reads it saves.
BLOCKS_MAX = 4096


def offer_of(
    store: Store, version: BlobVersion, pairs: Pairs, properties: Pairs, observed: tuple[Observed, ...]
) -> Offer | None:
    """Offer reads of *version*, or return None where that would cost too much or it is changing.

    pairs, properties: the fields of Get Blob, Content-MD5 aside, and of Get Blob Properties.
    observed: its generations, before the catalog was read.
    """
    if len(version.blocks) > BLOCKS_MAX or store.extents.crowded or any(one.value & 1 for one in observed):
        return None
    size, md5 = version.row.size, version.md5
    whole = [*pairs, ("content-md5", md5)] if md5 else pairs
    part: list[tuple[str, str | Slot]] = [*pairs, ("content-range", Slot.RANGE)]
    if md5:
        part.append(("x-ms-blob-content-md5", md5))
    tag = etag(version.row.version)
    try:
        content = store.extents.content(version.slices(0, size)) if size else FileContent(())
    except OSError:  # too many open files: the answer itself is still good
        return None
    return Offer(
        etag=tag.strip('"'),
        version=VERSION_NEWEST,
        whole=ready_head(200, whole),
        part=ready_head(206, part),
        head=ready_head(200, properties),
        not_modified=ready_head(304, [("x-ms-error-code", "ConditionNotMet"), ("etag", tag)]),
        generations=observed,
        content=content,
    )
