"""Changes of a blob that leave its bytes alone: metadata, content settings, tier.

Source: Azure REST, "Set Blob Metadata", "Set Blob Properties", "Set Blob Tier".
"""

from __future__ import annotations

from collections.abc import Callable

from pvblob.blobs import catalog, leases
from pvblob.blobs.answers import Call, Refusal, answer
from pvblob.blobs.block_blobs import written_pairs
from pvblob.blobs.catalog import BlobRow, dump_json
from pvblob.blobs.conditions import Conditions
from pvblob.blobs.mutation import Transaction
from pvblob.blobs.properties import has_settings, metadata_of, refuse_unsupported, settings_of, tier_of
from pvblob.blobs.store import Store, container_in
from pvblob.http import Response


def existing_blob(transaction: Transaction, call: Call, container_id: int) -> BlobRow:
    """Return the blob a write is about, after its conditions and its lease; `lease` of it is the one to keep."""
    row = found_blob(transaction, call, container_id)
    return row._replace(lease=leases.check_write(row.lease, call.fields, transaction.now_ms))


def found_blob(transaction: Transaction, call: Call, container_id: int) -> BlobRow:
    """Return the blob a request names, after its conditions. Refuses when it does not exist."""
    assert call.target.blob is not None
    row = catalog.find_blob(transaction.connection, container_id, call.target.blob)
    if row is None:
        raise Refusal("BlobNotFound")
    conditions = Conditions.parse(call.fields)
    if conditions is not None:
        conditions.check_write(row.version, row.modified, row.tags)
    return row


async def _change(store: Store, call: Call, change: Callable[[BlobRow], BlobRow]) -> Response:
    """Replace the blob's row by *change* of it, under a new version."""

    def apply(transaction: Transaction) -> Response:
        container_id = container_in(transaction, call).id
        row = existing_blob(transaction, call, container_id)
        changed = change(row)._replace(version=transaction.next_version(), modified=transaction.now)
        assert call.target.blob is not None
        transaction.write_blob(container_id, call.target.blob, changed)
        return answer(call.request, 200, written_pairs(changed))

    return await store.commit(call, apply)


async def set_metadata(store: Store, call: Call) -> Response:
    """Set Blob Metadata: replaces all of it."""
    refuse_unsupported(call.fields)
    metadata = dump_json(metadata_of(call.fields))
    return await _change(store, call, lambda row: row._replace(metadata=metadata))


async def set_properties(store: Store, call: Call) -> Response:
    """Set Blob Properties: one setting given replaces them all; none given changes only the ETag."""
    refuse_unsupported(call.fields)
    if "x-ms-blob-content-length" in call.fields or "x-ms-sequence-number-action" in call.fields:
        raise Refusal("InvalidBlobType")
    if not has_settings(call.fields):
        return await _change(store, call, lambda row: row)
    settings = dump_json(settings_of(call.fields, standard=False))
    return await _change(store, call, lambda row: row._replace(settings=settings))


async def set_tier(store: Store, call: Call) -> Response:
    """Set Blob Tier: remembered and answered; ETag and Last-Modified stay. Bytes do not move."""
    return await store.commit(call, lambda transaction: set_tier_in(transaction, call))


def set_tier_in(transaction: Transaction, call: Call) -> Response:
    """Set a blob's tier inside a transaction: shared with Blob Batch."""
    refuse_unsupported(call.fields)
    tier = tier_of(call.fields)
    if not tier:
        raise Refusal("MissingRequiredHeader", "x-ms-access-tier is missing.")
    container_id = container_in(transaction, call).id
    if existing_blob(transaction, call, container_id).stream:
        raise Refusal("InvalidBlobType")
    assert call.target.blob is not None
    transaction.write_tier(container_id, call.target.blob, tier)
    return answer(call.request, 200)
