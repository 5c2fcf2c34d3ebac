"""Put Blob, Put Block, Put Block List, Get Block List: how bytes become a block blob.

Body bytes go to their run first; the closure handed to the committer then judges conditions and changes the catalog.
Source: Azure REST, "Put Blob", "Put Block", "Put Block List", "Get Block List".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pvblob import _native
from pvblob.blobs import catalog, leases, snapshots, streams, structured
from pvblob.blobs.answers import Call, Pairs, Refusal, answer, answer_xml, etag, http_date
from pvblob.blobs.block_list_xml import Entry, decode_block_id, parse_block_list
from pvblob.blobs.catalog import BlobRow, dump_json
from pvblob.blobs.conditions import Conditions
from pvblob.blobs.extents import Allocation, block_runs
from pvblob.blobs.layout import Block, pack, unpack
from pvblob.blobs.mutation import Transaction
from pvblob.blobs.properties import (
    decode_md5,
    encode_base64,
    encode_crc64,
    metadata_of,
    refuse_unsupported,
    settings_of,
    tier_of,
)
from pvblob.blobs.store import Store, Written, container_in
from pvblob.blobs.structured import STRUCTURED_BODY
from pvblob.blobs.tags import tags_of
from pvblob.http import Fields, Response

PUT_BLOB_BYTES_MAX = 5000 << 20
PUT_BLOCK_BYTES_MAX = 4000 << 20
BLOCK_LIST_BYTES_MAX = 8 << 20
BLOCKS_COMMITTED_MAX = 50_000
BLOCKS_UNCOMMITTED_MAX = 100_000


def check_create(transaction: Transaction, call: Call, container_id: int) -> BlobRow | None:
    """Judge the conditions and the lease of a write that makes a blob; return the blob it replaces, if any."""
    assert call.target.blob is not None
    old = catalog.find_blob(transaction.connection, container_id, call.target.blob)
    conditions = Conditions.parse(call.fields)
    if conditions is not None:
        conditions.check_create(*((None, 0) if old is None else (old.version, old.modified, old.tags)))
    lease = leases.check_write("" if old is None else old.lease, call.fields, transaction.now_ms)
    return None if old is None else old._replace(lease=lease)


def check_block_blob(fields: Fields) -> None:
    """Refuse to make a blob of another type than block blob."""
    blob_type = blob_type_of(fields)
    if blob_type != "BlockBlob":
        raise Refusal("InvalidHeaderValue", f"A blob of type {blob_type} cannot be made so.")


def blob_type_of(fields: Fields) -> str:
    """Return the type of blob to make. Refuses those that are not supported."""
    blob_type = fields.get("x-ms-blob-type")
    if blob_type is None:
        raise Refusal("MissingRequiredHeader", "x-ms-blob-type is missing.")
    if blob_type not in ("BlockBlob", "AppendBlob"):
        raise Refusal("NotImplemented", f"Blobs of type {blob_type[:32]!r} are not supported.")
    return blob_type


async def put_blob(store: Store, call: Call) -> Response:
    """Put Blob: replace or create a block blob of one run, or an empty append blob; discards uncommitted blocks."""
    fields = call.fields
    refuse_unsupported(fields)
    if blob_type_of(fields) == "AppendBlob":
        return await _put_append_blob(store, call)
    if structured.content_bytes(call) > PUT_BLOB_BYTES_MAX:
        raise Refusal("RequestBodyTooLarge")
    metadata, settings, tier = dump_json(metadata_of(fields)), settings_of(fields, standard=True), tier_of(fields)
    tags = tags_of(fields)
    store.container_id(call)
    written = await structured.store_content(store, call, md5=True)
    try:
        checksums = _checked(fields, written)
    except Refusal:
        store.discard(written)
        raise
    assert written.md5 is not None
    settings.setdefault("content-md5", encode_base64(written.md5))
    new = NewBlob([written.block] if written.block else [], settings, metadata, tier, tags=tags)
    return await commit_new(store, call, new, checksums + structured.echo(fields), written.allocations)


async def _put_append_blob(store: Store, call: Call) -> Response:
    fields = call.fields
    if call.body.size_bytes:
        raise Refusal("InvalidHeaderValue", "An append blob begins empty: Content-Length must be 0.")
    if fields.get("x-ms-access-tier"):
        raise Refusal("UnsupportedHeader", "An append blob has no access tier.")
    settings = settings_of(fields, standard=True)
    new = NewBlob([], settings, dump_json(metadata_of(fields)), "", appends=0, tags=tags_of(fields))
    return await commit_new(store, call, new, [], ())


@dataclass(slots=True, frozen=True)
class NewBlob:
    """A blob about to be committed. metadata and copy: as the catalog keeps them; tier: "" when none was asked for.

    appends: None for a block blob; of an append blob, how many appends made *blocks*.
    """

    blocks: list[Block]
    settings: dict[str, str]
    metadata: str
    tier: str
    copy: Callable[[int], str] = lambda now: ""
    appends: int | None = None
    sealed: bool = False
    tags: str = ""


async def commit_new(
    store: Store, call: Call, new: NewBlob, pairs: Pairs, allocations: tuple[Allocation, ...]
) -> Response:
    """Make *new* the blob if the conditions hold, and answer 201 with *pairs*; takes over *allocations*."""

    def apply(transaction: Transaction) -> Response:
        container_id = container_in(transaction, call).id
        old = check_create(transaction, call, container_id)
        row = create_blob(transaction, call, container_id, old, new)
        return answer(call.request, 201, written_pairs(row) + pairs)

    return await store.commit(call, apply, allocations)


def create_blob(transaction: Transaction, call: Call, container_id: int, old: BlobRow | None, new: NewBlob) -> BlobRow:
    """Make *new* the blob: free what it does not use of *old*'s runs and of the uncommitted blocks."""
    name, now, version = call.target.blob, transaction.now, transaction.next_version()
    assert name is not None
    is_stream = new.appends is not None
    row = BlobRow(
        version=version,
        size=sum(block.length for block in new.blocks),
        created=now if old is None else old.created,
        modified=now,
        settings=dump_json(new.settings),
        metadata=new.metadata,
        tier=new.tier,
        tier_changed=now if new.tier else 0,
        copy=new.copy(now),
        layout=b"" if is_stream else pack(new.blocks),
        lease="" if old is None else old.lease,
        stream=version if is_stream else 0,
        appends=new.appends or 0,
        sealed=int(new.sealed),
        tags=new.tags,
    )
    gone = block_runs(catalog.delete_staged(transaction.connection, container_id, name))
    if old is not None:
        gone |= snapshots.unshared_by(transaction.connection, container_id, name, old)
    if is_stream:
        streams.extend(transaction.connection, version, new.blocks)
    transaction.write_blob(container_id, name, row)
    catalog.index_tags(transaction.connection, container_id, name, "" if old is None else old.tags, new.tags)
    transaction.freed.extend(gone - block_runs(new.blocks))
    return row


def written_pairs(row: BlobRow) -> Pairs:
    """Return the fields every write answers with."""
    return [
        ("etag", etag(row.version)),
        ("last-modified", http_date(row.modified)),
        ("x-ms-request-server-encrypted", "true"),
    ]


def _checked(fields: Fields, written: Written) -> Pairs:
    """Compare the stored bytes with the checksums sent; return those to answer with (Put Blob: both)."""
    check_transfer(fields, written.crc64, written.md5)
    assert written.md5 is not None
    return [("content-md5", encode_base64(written.md5)), ("x-ms-content-crc64", encode_crc64(written.crc64))]


class Checksums(NamedTuple):
    """The fields that state the checksums of the bytes to come."""

    md5: str
    crc64: str


OF_THE_BODY = Checksums("content-md5", "x-ms-content-crc64")


def check_transfer(fields: Fields, crc64: int, md5: bytes | None, stated: Checksums = OF_THE_BODY) -> None:
    """Refuse when a checksum the request states is not that of the bytes that came."""
    sent_md5 = fields.get(stated.md5)
    if sent_md5 and md5 is not None and not hmac.compare_digest(decode_md5(sent_md5), md5):
        raise Refusal("Md5Mismatch")
    sent_crc64 = fields.get(stated.crc64)
    if sent_crc64 and sent_crc64 != encode_crc64(crc64):
        raise Refusal("Crc64Mismatch")


def block_id_of(call: Call) -> bytes:
    """Return the block id a request names. Refuses."""
    text = call.target.query.get("blockid")
    if not text:
        raise Refusal("MissingRequiredQueryParameter", "blockid is missing.")
    return decode_block_id(text.replace(" ", "+"))  # an unescaped + in the query; Base64 has no spaces


async def put_block(store: Store, call: Call) -> Response:
    """Put Block: store one uncommitted block; the same id again replaces it."""
    fields = call.fields
    block_id = block_id_of(call)
    written = await store_block(store, call, PUT_BLOCK_BYTES_MAX)
    return await stage_written(store, call, block_id, written, written.checksum_pairs + structured.echo(fields))


async def store_block(store: Store, call: Call, bytes_max: int) -> Written:
    """Store the body of a block, 1 to *bytes_max* bytes, in its run, and check its sums; refused, it is given back."""
    fields = call.fields
    refuse_unsupported(fields)
    size = structured.content_bytes(call)
    if size == 0:
        raise Refusal("InvalidHeaderValue", "A block cannot be empty.")
    if size > bytes_max:
        raise Refusal("RequestBodyTooLarge")
    store.container_id(call)
    written = await structured.store_content(store, call, md5="content-md5" in fields)
    try:
        check_transfer(fields, written.crc64, written.md5)
    except Refusal:
        store.discard(written)
        raise
    return written


async def stage_written(store: Store, call: Call, block_id: bytes, written: Written, pairs: Pairs) -> Response:
    """Make *written* an uncommitted block and answer 201 with *pairs*; takes over its run."""
    assert written.block is not None
    block = written.block._replace(id=block_id)
    pairs = [*pairs, ("x-ms-request-server-encrypted", "true")]

    def apply(transaction: Transaction) -> Response:
        _stage(transaction, container_in(transaction, call).id, call, block)
        return answer(call.request, 201, pairs)

    return await store.commit(call, apply, written.allocations)


def _stage(transaction: Transaction, container_id: int, call: Call, block: Block) -> None:
    """Record an uncommitted block; every id of a blob's uncommitted blocks has the same length."""
    name = call.target.blob
    assert name is not None
    connection = transaction.connection
    current = catalog.find_current(connection, container_id, name)
    leases.check_write(current.lease if current else "", call.fields, transaction.now_ms)
    if current is not None and current.stream:
        raise Refusal("InvalidBlobType")
    id_length, count = catalog.find_staged(connection, container_id, name) or (len(block.id), 0)
    if id_length != len(block.id):
        raise Refusal("InvalidBlobOrBlock", "Every block id of a blob must have the same length.")
    replaced = catalog.find_block(connection, container_id, name, block.id) if count else None
    if replaced is not None:
        transaction.freed.extend(block_runs([replaced]))
    elif count >= BLOCKS_UNCOMMITTED_MAX:
        raise Refusal("BlockCountExceedsLimit")
    catalog.write_block(connection, container_id, name, block)
    catalog.write_staged(connection, container_id, name, id_length, count + (replaced is None), transaction.now)


async def put_block_list(store: Store, call: Call) -> Response:
    """Put Block List: make the blob of the listed blocks; every other uncommitted block is discarded."""
    fields = call.fields
    refuse_unsupported(fields)
    if STRUCTURED_BODY in fields:
        raise Refusal("UnsupportedHeader", "A block list is not sent as a structured message.")
    if call.body.size_bytes > BLOCK_LIST_BYTES_MAX:
        raise Refusal("RequestBodyTooLarge")
    metadata, settings, tier = dump_json(metadata_of(fields)), settings_of(fields, standard=False), tier_of(fields)
    tags = tags_of(fields)
    store.container_id(call)
    body = await call.body.read()
    crc64 = _native.crc64(body)
    check_transfer(fields, crc64, hashlib.md5(body, usedforsecurity=False).digest())
    entries = parse_block_list(body, BLOCKS_COMMITTED_MAX)
    checksum = ("x-ms-content-crc64", encode_crc64(crc64))

    def apply(transaction: Transaction) -> Response:
        container_id = container_in(transaction, call).id
        old = check_create(transaction, call, container_id)
        if old is not None and old.stream:
            raise Refusal("InvalidBlobType")
        blocks = _resolve(transaction, container_id, call, entries, old)
        row = create_blob(transaction, call, container_id, old, NewBlob(blocks, settings, metadata, tier, tags=tags))
        return answer(call.request, 201, [*written_pairs(row), checksum])

    return await store.commit(call, apply)


def _resolve(
    transaction: Transaction, container_id: int, call: Call, entries: list[Entry], old: BlobRow | None
) -> list[Block]:
    """Find the block each entry names: Latest looks among the uncommitted first."""
    assert call.target.blob is not None
    staged = catalog.staged_blocks(transaction.connection, container_id, call.target.blob)
    uncommitted = {block.id: block for block in staged}
    committed = {block.id: block for block in unpack(old.layout)} if old is not None else {}
    committed.pop(b"", None)  # the run of a Put Blob has no id and cannot be listed
    blocks: list[Block] = []
    for kind, block_id in entries:
        block = uncommitted.get(block_id) if kind != "Committed" else None
        if block is None and kind != "Uncommitted":
            block = committed.get(block_id)
        if block is None:
            raise Refusal("InvalidBlockList")
        blocks.append(block)
    if len({len(block.id) for block in blocks}) > 1:
        raise Refusal("InvalidBlockList", "Every block id of a blob must have the same length.")
    return blocks


def get_block_list(store: Store, call: Call) -> Response:
    """Get Block List: committed (default), uncommitted or all."""
    kind = call.target.query.get("blocklisttype", "committed").lower()
    if kind not in ("committed", "uncommitted", "all"):
        raise Refusal("InvalidQueryParameterValue", "blocklisttype is committed, uncommitted or all.")
    container_id, name = store.container_id(call), call.target.blob
    assert name is not None
    row = catalog.find_blob(store.reader, container_id, name)
    staged = catalog.staged_blocks(store.reader, container_id, name)
    if row is None and not staged:
        raise Refusal("BlobNotFound")
    if row is not None and row.stream:
        raise Refusal("InvalidBlobType")
    committed = [block for block in unpack(row.layout) if block.id] if row is not None else []
    text = "<BlockList>"
    if kind != "uncommitted":
        text += f"<CommittedBlocks>{_blocks_xml(committed)}</CommittedBlocks>"
    if kind != "committed":
        text += f"<UncommittedBlocks>{_blocks_xml(staged)}</UncommittedBlocks>"
    pairs: Pairs = [("x-ms-blob-content-length", str(row.size if row is not None else 0))]
    if row is not None:
        pairs += [("etag", etag(row.version)), ("last-modified", http_date(row.modified))]
    return answer_xml(call.request, 200, text + "</BlockList>", pairs)


def _blocks_xml(blocks: list[Block]) -> str:
    return "".join(
        f"<Block><Name>{encode_base64(block.id)}</Name><Size>{block.length}</Size></Block>" for block in blocks
    )
