"""Append Block, Append Block From URL, Append Blob Seal: how a blob grows at its end, and how it stops to.

Bytes go to a run of their own first; where they land is decided when they are committed, so a reader sees all of an
append or none of it, and each append is a version of the blob with an ETag of its own.
Source: Azure REST, "Append Block", "Append Block From URL", "Append Blob Seal".
"""

from __future__ import annotations

from pvblob.blobs import block_blobs, from_url, streams, structured
from pvblob.blobs.answers import Call, Pairs, Refusal, answer
from pvblob.blobs.blob_changes import existing_blob
from pvblob.blobs.block_blobs import written_pairs
from pvblob.blobs.catalog import BlobRow
from pvblob.blobs.copy_source import COPY_SOURCE
from pvblob.blobs.mutation import Transaction
from pvblob.blobs.properties import refuse_unsupported
from pvblob.blobs.store import Store, Written, container_in
from pvblob.http import Fields, Response

APPEND_BLOCK_BYTES_MAX = 100 << 20
APPENDS_MAX = 50_000
_POSITION = "x-ms-blob-condition-appendpos"
_SIZE_MAX = "x-ms-blob-condition-maxsize"


async def append_block(store: Store, call: Call) -> Response:
    """PUT with comp=appendblock: 201 with the offset at which the block begins."""
    fields = call.fields
    conditions = AppendConditions(fields)
    if COPY_SOURCE in fields:
        written = await from_url.copied_block(store, call, APPEND_BLOCK_BYTES_MAX)
        return await _commit(store, call, conditions, written, written.checksum_pairs)
    written = await block_blobs.store_block(store, call, APPEND_BLOCK_BYTES_MAX)
    return await _commit(store, call, conditions, written, written.checksum_pairs + structured.echo(fields))


class AppendConditions:
    """Where the block must begin, and how large the blob may be with it; None: anything. Refuses what is no number."""

    def __init__(self, fields: Fields) -> None:
        self._position = _bytes(fields, _POSITION)
        self._size_max = _bytes(fields, _SIZE_MAX)

    def check(self, row: BlobRow, length: int) -> None:
        """Judge an append of *length* bytes, 0 for the end of appending."""
        if self._position is not None and row.size != self._position:
            raise Refusal("AppendPositionConditionNotMet")
        if self._size_max is not None and row.size + length > self._size_max:
            raise Refusal("MaxBlobSizeConditionNotMet")


def _bytes(fields: Fields, name: str) -> int | None:
    text = fields.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Refusal("InvalidHeaderValue", f"{name} is no number of bytes.")
    return int(text)


async def _commit(store: Store, call: Call, conditions: AppendConditions, written: Written, pairs: Pairs) -> Response:
    """Append *written*, which is taken over, and answer 201 with *pairs*."""
    block = written.block
    assert block is not None

    def apply(transaction: Transaction) -> Response:
        container_id = container_in(transaction, call).id
        row = existing_append_blob(transaction, call, container_id)
        if row.sealed:
            raise Refusal("BlobIsSealed")
        conditions.check(row, block.length)
        if row.appends >= APPENDS_MAX:
            raise Refusal("BlockCountExceedsLimit", "An append blob has at most 50,000 blocks.")
        streams.append(transaction.connection, row.stream, row.size + block.length, block)
        changed = row._replace(size=row.size + block.length, appends=row.appends + 1)
        own = [("x-ms-blob-append-offset", str(row.size)), ("x-ms-blob-committed-block-count", str(changed.appends))]
        return answer(call.request, 201, [*_write(transaction, call, container_id, changed), *own, *pairs])

    return await store.commit(call, apply, written.allocations)


def existing_append_blob(transaction: Transaction, call: Call, container_id: int) -> BlobRow:
    """Return the append blob a write is about, after its conditions and its lease. Refuses other types."""
    row = existing_blob(transaction, call, container_id)
    if not row.stream:
        raise Refusal("InvalidBlobType")
    return row


def _write(transaction: Transaction, call: Call, container_id: int, row: BlobRow) -> Pairs:
    """Write the blob's row as a new version; return the fields every write answers with."""
    changed = row._replace(version=transaction.next_version(), modified=transaction.now)
    assert call.target.blob is not None
    transaction.write_blob(container_id, call.target.blob, changed)
    return written_pairs(changed)


async def seal(store: Store, call: Call) -> Response:
    """Append Blob Seal: nothing is appended from now on; sealed already is no error."""
    refuse_unsupported(call.fields)
    conditions = AppendConditions(call.fields)

    def apply(transaction: Transaction) -> Response:
        container_id = container_in(transaction, call).id
        row = existing_append_blob(transaction, call, container_id)
        conditions.check(row, 0)
        pairs = _write(transaction, call, container_id, row._replace(sealed=1))
        return answer(call.request, 200, [*pairs, ("x-ms-blob-sealed", "true")])

    return await store.commit(call, apply)
