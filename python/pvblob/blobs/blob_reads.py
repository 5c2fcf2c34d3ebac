"""Get Blob, Get Blob Properties, Get Blob Metadata: answered on the event loop from the catalog.

Content is handed out as extents, never copied here; only a range's MD5 or CRC-64 makes us read bytes.
Source: Azure REST, "Get Blob", "Get Blob Properties", "Get Blob Metadata", "Specifying the range header".
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from pvblob import _native
from pvblob.blobs import catalog, leases
from pvblob.blobs.answers import Call, Pairs, Refusal, answer, etag, http_date
from pvblob.blobs.catalog import load_json
from pvblob.blobs.conditions import Conditions
from pvblob.blobs.offers import offer_of
from pvblob.blobs.properties import encode_base64, encode_crc64, metadata_pairs
from pvblob.blobs.segment_work import read_content, to_the_end
from pvblob.blobs.store import Store
from pvblob.blobs.structured import STRUCTURED_BODY, framed, is_structured
from pvblob.blobs.versions import BlobVersion
from pvblob.http import ByteRange, FileContent, Response

RANGE_CHECKSUM_BYTES_MAX = 4 << 20


class Readable(NamedTuple):
    """What a read is about, found at one moment. pairs: the fields of every Get Blob answer but Content-MD5.

    keeps: the fields stay true until the blob is changed, so that they may be offered to the data plane.
    """

    version: BlobVersion
    current: catalog.Current
    pairs: Pairs
    keeps: bool


def readable(store: Store, call: Call) -> Readable:
    """Find the blob a read is about; judge the read's conditions and the lease it names."""
    version, current = store.find_blob(call)
    fields = call.request.fields
    conditions = Conditions.parse(fields)
    if conditions is not None:
        conditions.check_read(version.row.version, version.row.modified, current.tags)
    lease, now_ms = current.lease, store.now_ms
    leases.check_read(lease, fields, now_ms)
    is_snapshot = bool(call.target.query.get("snapshot"))
    pairs = [*version.get_pairs, *(() if is_snapshot else leases.lease_pairs(lease, now_ms))]
    if current.tags:
        pairs.append(("x-ms-tag-count", str(len(load_json(current.tags)))))
    return Readable(version, current, pairs, not (is_snapshot or leases.changes_by_itself(lease, now_ms)))


async def get_blob(store: Store, call: Call) -> Response:
    """Get Blob: 200 whole, 206 when a range was asked for; content as pinned extents."""
    observed = store.observe(call) if call.request.wants_offload else ()
    found = readable(store, call)
    response = await _read(store, call, found)
    if observed and found.keeps:
        response.offer = offer_of(store, found.version, found.pairs, properties_pairs(found), observed)
    return response


async def _read(store: Store, call: Call, found: Readable) -> Response:
    version, fields = found.version, call.request.fields
    is_structured(fields)
    range_text = fields.get("x-ms-range") or fields.get("range")
    asked = ByteRange.parse(range_text) if range_text else None
    if asked is None:
        return await _whole(store, call, found)
    size = version.row.size
    within = asked.resolve(size)
    if within is None:
        raise Refusal("InvalidRange", fields=[("content-range", f"bytes */{size}")])
    offset, length = within
    pairs = [*found.pairs, ("content-range", f"bytes {offset}-{offset + length - 1}/{size}")]
    if version.md5:
        pairs.append(("x-ms-blob-content-md5", version.md5))
    content = store.extents.content(version.slices(offset, length))
    if "x-ms-range-get-content-md5" in fields or "x-ms-range-get-content-crc64" in fields:
        try:
            pairs += await _range_checksums(call, content, length)
        except BaseException:
            content.release()
            raise
    return await _deliver(call, 206, pairs, content)


async def _whole(store: Store, call: Call, found: Readable) -> Response:
    version, fields = found.version, call.request.fields
    if _true(fields.get("x-ms-range-get-content-md5")) or _true(fields.get("x-ms-range-get-content-crc64")):
        raise Refusal("MissingRequiredHeader", "A range checksum needs a Range header.")
    pairs = [*found.pairs, ("content-md5", version.md5)] if version.md5 else found.pairs
    size = version.row.size
    if size == 0 and STRUCTURED_BODY not in fields:
        return answer(call.request, 200, pairs)
    return await _deliver(call, 200, pairs, store.extents.content(version.slices(0, size) if size else []))


async def _deliver(call: Call, status: int, pairs: Pairs, content: FileContent) -> Response:
    """Answer with *content*, framed if that was asked for."""
    if STRUCTURED_BODY in call.request.fields:
        content, framing = await framed(content)
        pairs = [*pairs, *framing]
    return answer(call.request, status, pairs, content)


def _true(text: str | None) -> bool:
    return text is not None and text.lower() == "true"


async def _range_checksums(call: Call, content: FileContent, length: int) -> list[tuple[str, str]]:
    """Compute the checksums a ranged read asked for; reads at most RANGE_CHECKSUM_BYTES_MAX, off the loop."""
    wants_md5 = _true(call.request.fields.get("x-ms-range-get-content-md5"))
    wants_crc64 = _true(call.request.fields.get("x-ms-range-get-content-crc64"))
    if not (wants_md5 or wants_crc64):
        return []
    if wants_md5 and wants_crc64:
        raise Refusal("InvalidHeaderValue", "Only one range checksum can be asked for.")
    if length > RANGE_CHECKSUM_BYTES_MAX:
        raise Refusal("OutOfRangeInput", f"A range checksum covers at most {RANGE_CHECKSUM_BYTES_MAX} bytes.")
    data = await to_the_end(lambda: read_content(content))
    if wants_md5:
        return [("content-md5", encode_base64(hashlib.md5(data, usedforsecurity=False).digest()))]
    return [("x-ms-content-crc64", encode_crc64(_native.crc64(data)))]


def get_properties(store: Store, call: Call) -> Response:
    """Get Blob Properties: HEAD; Content-Length is the blob's."""
    observed = store.observe(call) if call.request.wants_offload else ()
    found = readable(store, call)
    pairs = properties_pairs(found)
    response = answer(call.request, 200, pairs, b"", found.version.row.size)
    if observed and found.keeps:
        response.offer = offer_of(store, found.version, found.pairs, pairs, observed)
    return response


def properties_pairs(found: Readable) -> Pairs:
    """Return the fields of a Get Blob Properties answer."""
    pairs, current = list(found.pairs), found.current
    if found.version.md5:
        pairs.append(("content-md5", found.version.md5))
    if found.version.row.stream:
        return pairs
    pairs.append(("x-ms-access-tier", current.tier or "Hot"))
    if current.tier:
        pairs.append(("x-ms-access-tier-change-time", http_date(current.tier_changed)))
    else:
        pairs.append(("x-ms-access-tier-inferred", "true"))
    return pairs


def get_metadata(store: Store, call: Call) -> Response:
    """Get Blob Metadata (GET or HEAD)."""
    row = readable(store, call).version.row
    pairs = [("etag", etag(row.version)), ("last-modified", http_date(row.modified))]
    return answer(call.request, 200, pairs + metadata_pairs(load_json(row.metadata)))
