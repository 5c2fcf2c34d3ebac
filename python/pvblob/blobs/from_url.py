"""Put Block From URL, Put Blob From URL: content that comes from a blob of the same account instead of a body.

The source's bytes are read once, while they are pinned, and checked like those of a body; then the write goes on as Put
Block and Put Blob do. Metadata is the request's alone; settings are the source's, those of the request before them,
unless x-ms-copy-source-blob-properties is false.
Source: Azure REST, "Put Block From URL", "Put Blob From URL".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pvblob.blobs import block_blobs
from pvblob.blobs.answers import Call, Refusal
from pvblob.blobs.catalog import dump_json, load_json
from pvblob.blobs.copy_source import COPY_SOURCE, SourceBody, copied_tags, found_source, source_version
from pvblob.blobs.properties import encode_base64, metadata_of, refuse_unsupported, settings_of, tier_of
from pvblob.blobs.store import Store, Written
from pvblob.blobs.structured import STRUCTURED_BODY
from pvblob.blobs.versions import BlobVersion
from pvblob.http import ByteRange, Fields, Response

SOURCE_RANGE = "x-ms-source-range"
SOURCE_CHECKSUMS = block_blobs.Checksums("x-ms-source-content-md5", "x-ms-source-content-crc64")


async def put_block(store: Store, call: Call) -> Response:
    """PUT with comp=block: Put Block From URL when the request names a source, else Put Block."""
    fields = call.fields
    if COPY_SOURCE not in fields:
        return await block_blobs.put_block(store, call)
    block_id = block_blobs.block_id_of(call)
    written = await copied_block(store, call, block_blobs.PUT_BLOCK_BYTES_MAX)
    return await block_blobs.stage_written(store, call, block_id, written, written.checksum_pairs)


async def copied_block(store: Store, call: Call, bytes_max: int) -> Written:
    """Copy the range of the source that a request names as a block; the caller owes `commit` or `discard`."""
    fields = call.fields
    _check_request(call)
    store.container_id(call)
    source = source_version(store, call, fields.get(COPY_SOURCE) or "")
    offset, length = _source_range(fields, source)
    if length > bytes_max:
        raise Refusal("RequestBodyTooLarge", f"The source range has {length} bytes.")
    wants_md5 = SOURCE_CHECKSUMS.md5 in fields
    async with _copied(store, source, offset, length, md5=wants_md5) as written:
        block_blobs.check_transfer(fields, written.crc64, written.md5, SOURCE_CHECKSUMS)
    return written


async def put_blob(store: Store, call: Call) -> Response:
    """Put Blob From URL: replace or create a block blob of one run; discards uncommitted blocks."""
    fields = call.fields
    block_blobs.check_block_blob(fields)
    _check_request(call)
    metadata, settings, tier = dump_json(metadata_of(fields)), settings_of(fields, standard=False), tier_of(fields)
    store.container_id(call)
    source, current = found_source(store, call, fields.get(COPY_SOURCE) or "")
    tags = copied_tags(fields, current)
    size = source.row.size
    if size > block_blobs.PUT_BLOB_BYTES_MAX:
        raise Refusal("RequestBodyTooLarge", f"The source has {size} bytes.")
    if (fields.get("x-ms-copy-source-blob-properties") or "true").lower() != "false":
        settings = {**load_json(source.row.settings), **settings}
    async with _copied(store, source, 0, size, md5=True) as written:
        block_blobs.check_transfer(fields, written.crc64, written.md5, SOURCE_CHECKSUMS)
    assert written.md5 is not None
    settings["content-md5"] = encode_base64(written.md5)
    new = block_blobs.NewBlob([written.block] if written.block else [], settings, metadata, tier, tags=tags)
    return await block_blobs.commit_new(store, call, new, written.checksum_pairs, written.allocations)


def _check_request(call: Call) -> None:
    refuse_unsupported(call.fields)
    if call.body.size_bytes:
        raise Refusal("InvalidInput", "A write from a URL has no body.")
    if STRUCTURED_BODY in call.fields:
        raise Refusal("UnsupportedHeader", "A write from a URL has no structured message.")


def _source_range(fields: Fields, source: BlobVersion) -> tuple[int, int]:
    """Return offset and length of what is to be read of the source, cut at its end as by Get Blob; never nothing."""
    text, size = fields.get(SOURCE_RANGE), source.row.size
    asked = ByteRange(0) if text is None else ByteRange.parse(text)
    if asked is None:
        raise Refusal("InvalidHeaderValue", f"{SOURCE_RANGE} is bytes=FIRST-LAST.")
    found = asked.resolve(size)
    if found is None:
        raise Refusal("InvalidRange", f"The source has {size} bytes, and a block cannot be empty.")
    return found


@asynccontextmanager
async def _copied(store: Store, source: BlobVersion, offset: int, length: int, *, md5: bool) -> AsyncIterator[Written]:
    """Copy a range of the source to a run of its own; it is given back when the block within raises."""
    content = store.extents.content(source.slices(offset, length) if length else [])
    try:
        written = await store.store_body(SourceBody(content), md5=md5)
    finally:
        content.release()
    try:
        yield written
    except BaseException:
        store.discard(written)
        raise
