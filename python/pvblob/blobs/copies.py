"""Copy Blob and Copy Blob From URL within one account: the bytes are copied at once, the answer says success.

The source is pinned while it is copied, so a concurrent overwrite does not disturb it.
Source: Azure REST, "Copy Blob", "Copy Blob From URL".
"""

from __future__ import annotations

import errno
import os
import threading
import uuid

from pvblob.blobs import block_blobs, from_url
from pvblob.blobs.answers import Call, Refusal, answer, http_date
from pvblob.blobs.catalog import dump_json, load_json
from pvblob.blobs.committer import storage_failure
from pvblob.blobs.copy_source import COPY_SOURCE, SourceBody, copied_tags, found_source
from pvblob.blobs.extents import Allocation
from pvblob.blobs.layout import Block
from pvblob.blobs.mutation import Transaction
from pvblob.blobs.properties import metadata_of, refuse_unsupported, tier_of
from pvblob.blobs.segment_work import to_the_end
from pvblob.blobs.store import Store, container_in
from pvblob.blobs.versions import BlobVersion
from pvblob.http import Extent, FileContent, Response

COPY_STEP_BYTES = 8 << 20


async def put_or_copy(store: Store, call: Call) -> Response:
    """PUT on a blob: Put Blob; if the request names a source, Put Blob From URL (with a blob type) or Copy Blob."""
    if COPY_SOURCE not in call.fields:
        return await block_blobs.put_blob(store, call)
    if "x-ms-blob-type" in call.fields:
        return await from_url.put_blob(store, call)
    return await copy_blob(store, call)


async def copy_blob(store: Store, call: Call) -> Response:
    """Copy Blob: 202 with x-ms-copy-status success; block ids, settings and (unless given) metadata are kept."""
    fields = call.fields
    refuse_unsupported(fields)
    if call.body.size_bytes:
        raise Refusal("InvalidInput", "A copy has no body.")
    metadata, tier = dump_json(metadata_of(fields)), tier_of(fields)
    store.container_id(call)
    source_url = fields.get(COPY_SOURCE) or ""
    source, current = found_source(store, call, source_url)
    tags = copied_tags(fields, current)
    sealed = (fields.get("x-ms-seal-blob") or "").lower() == "true"
    if sealed and not source.row.stream:
        raise Refusal("UnsupportedHeader", "Only append blobs are sealed.")
    blocks, written = await (_copy_stream if source.row.stream else _copy_blocks)(store, source)
    copy_id = str(uuid.uuid4())

    new = block_blobs.NewBlob(
        blocks,
        load_json(source.row.settings),
        metadata or source.row.metadata,
        tier,
        lambda now: _copy_state(copy_id, source_url, source.row.size, now),
        source.row.appends if source.row.stream else None,
        sealed,
        tags,
    )

    def apply(transaction: Transaction) -> Response:
        container_id = container_in(transaction, call).id
        old = block_blobs.check_create(transaction, call, container_id)
        if old is not None and bool(old.stream) != bool(source.row.stream):
            raise Refusal("InvalidBlobType")
        row = block_blobs.create_blob(transaction, call, container_id, old, new)
        pairs = [*block_blobs.written_pairs(row), ("x-ms-copy-id", copy_id), ("x-ms-copy-status", "success")]
        return answer(call.request, 202, pairs)

    return await store.commit(call, apply, written)


def _copy_state(copy_id: str, source_url: str, size: int, now: int) -> str:
    """Return the x-ms-copy-* fields the blob answers from now on; the source without its query, which may be a SAS."""
    return dump_json(
        {
            "x-ms-copy-id": copy_id,
            "x-ms-copy-source": source_url.partition("?")[0],
            "x-ms-copy-status": "success",
            "x-ms-copy-progress": f"{size}/{size}",
            "x-ms-copy-completion-time": http_date(now),
        }
    )


async def _copy_stream(store: Store, source: BlobVersion) -> tuple[list[Block], tuple[Allocation, ...]]:
    """Copy the bytes of an append blob, of many small runs mostly, into one; the caller owes `commit` for it."""
    size = source.row.size
    content = store.extents.content(source.slices(0, size)) if size else FileContent(())
    try:
        written = await store.store_body(SourceBody(content), md5=False)
    finally:
        content.release()
    return [written.block] if written.block else [], written.allocations


async def _copy_blocks(store: Store, source: BlobVersion) -> tuple[list[Block], tuple[Allocation, ...]]:
    """Copy every block into a run of its own; the caller owes `commit` for the runs."""
    extents = store.extents
    content = extents.content(source.slices(0, source.row.size)) if source.row.size else FileContent(())
    written: list[Allocation] = []
    try:
        written += [extents.allocate(extent.length) for extent in content.extents]
        stop = threading.Event()
        pairs = list(zip(content.extents, written, strict=True))
        await to_the_end(lambda: _copy_extents(pairs, stop), stop)
    except OSError as error:
        extents.give_back(written)
        raise storage_failure(error) from error
    except BaseException:
        extents.give_back(written)
        raise
    finally:
        content.release()
    blocks = [
        block._replace(segment=allocation.segment, offset=allocation.offset)
        for block, allocation in zip(source.blocks, written, strict=True)
    ]
    return blocks, tuple(written)


def _copy_extents(pairs: list[tuple[Extent, Allocation]], stop: threading.Event) -> None:
    for extent, allocation in pairs:
        done = 0
        while done < extent.length and not stop.is_set():
            step = min(COPY_STEP_BYTES, extent.length - done)
            moved = os.copy_file_range(extent.fd, allocation.fd, step, extent.offset + done, allocation.offset + done)
            if moved == 0:
                raise OSError(errno.EIO, "the source segment ends early")
            done += moved
