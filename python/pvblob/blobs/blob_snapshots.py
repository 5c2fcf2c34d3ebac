"""Snapshot Blob, and the end of blobs that have snapshots: Delete Blob.

Source: Azure REST, "Snapshot Blob", "Delete Blob" (x-ms-delete-snapshots).
"""

from __future__ import annotations

from pvblob.blobs import catalog, leases, snapshots
from pvblob.blobs.answers import Call, Refusal, answer
from pvblob.blobs.blob_changes import existing_blob, found_blob
from pvblob.blobs.block_blobs import written_pairs
from pvblob.blobs.catalog import BlobRow, dump_json
from pvblob.blobs.conditions import Conditions
from pvblob.blobs.extents import block_runs
from pvblob.blobs.moments import moment_text, parse_moment
from pvblob.blobs.mutation import Transaction
from pvblob.blobs.properties import metadata_of, refuse_unsupported
from pvblob.blobs.store import Store, container_in
from pvblob.http import Response

_DELETED = [("x-ms-delete-type-permanent", "true")]


async def snapshot_blob(store: Store, call: Call) -> Response:
    """Snapshot Blob: 201 with the moment it is called by; metadata, where it is given, is the snapshot's own."""
    refuse_unsupported(call.fields)
    metadata = dump_json(metadata_of(call.fields))

    def apply(transaction: Transaction) -> Response:
        container_id = container_in(transaction, call).id
        row = found_blob(transaction, call, container_id)
        leases.check_read(row.lease, call.fields, transaction.now_ms)
        row = row._replace(lease="")
        if metadata:  # a version number stands for one content with one metadata
            row = row._replace(metadata=metadata, version=transaction.next_version(), modified=transaction.now)
        snapshot = transaction.next_version()
        assert call.target.blob is not None
        snapshots.write(transaction.connection, container_id, call.target.blob, snapshot, row)
        return answer(call.request, 201, [("x-ms-snapshot", moment_text(snapshot)), *written_pairs(row)])

    return await store.commit(call, apply)


async def delete_blob(store: Store, call: Call) -> Response:
    """Delete Blob: 202; its uncommitted blocks go with it."""
    return await store.commit(call, lambda transaction: delete_in(transaction, call))


def delete_in(transaction: Transaction, call: Call) -> Response:
    """Delete a blob, its snapshots, both, or one snapshot, inside a transaction: shared with Blob Batch."""
    refuse_unsupported(call.fields)
    asked = (call.fields.get("x-ms-delete-snapshots") or "").lower()
    if asked not in ("", "include", "only"):
        raise Refusal("InvalidHeaderValue", "x-ms-delete-snapshots is include or only.")
    container_id, name = container_in(transaction, call).id, call.target.blob
    assert name is not None
    if call.target.query.get("snapshot"):
        if asked:
            raise Refusal("InvalidHeaderValue", "x-ms-delete-snapshots is of a blob, and a snapshot was named.")
        return _delete_snapshot(transaction, call, container_id)
    row, connection = existing_blob(transaction, call, container_id), transaction.connection
    if asked:
        transaction.freed.extend(snapshots.delete_all(connection, container_id, name, row))
    elif snapshots.exist(connection, container_id, name):
        raise Refusal("SnapshotsPresent")
    if asked != "only":
        _delete(transaction, container_id, name, row)
    return answer(call.request, 202, _DELETED)


def _delete(transaction: Transaction, container_id: int, name: bytes, row: BlobRow) -> None:
    connection = transaction.connection
    transaction.delete_blob(container_id, name)
    catalog.index_tags(connection, container_id, name, row.tags, "")
    gone = snapshots.unshared(connection, row, None, None)
    gone |= block_runs(catalog.delete_staged(connection, container_id, name))
    transaction.freed.extend(gone)


def _delete_snapshot(transaction: Transaction, call: Call, container_id: int) -> Response:
    name, snapshot = call.target.blob, parse_moment(call.target.query["snapshot"])
    assert name is not None
    row = snapshots.find(transaction.connection, container_id, name, snapshot)
    if row is None:
        raise Refusal("BlobNotFound")
    conditions = Conditions.parse(call.fields)
    if conditions is not None:
        conditions.check_write(row.version, row.modified, row.tags)
    transaction.freed.extend(snapshots.delete(transaction.connection, container_id, name, snapshot, row))
    return answer(call.request, 202, _DELETED)
