"""Programs that write logs: appends, their conditions, the seal; see `programs` for the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from azure.storage.blob import BlobServiceClient, BlobType
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

from tests.end_to_end import programs_aio
from tests.end_to_end.programs import MIB, fresh_container, outcome, pattern, program
from tests.end_to_end.programs_aio import contents

_POSITION = ("HttpResponseError", 412, "AppendPositionConditionNotMet")
_SIZE = ("HttpResponseError", 412, "MaxBlobSizeConditionNotMet")
_SEALED = ("ResourceExistsError", 409, "BlobIsSealed")
_TYPE = ("ResourceExistsError", 409, "InvalidBlobType")
_LINES = ([("0", 1), ("6", 2)], _POSITION, _SIZE, b"line 1line 2", (BlobType.AppendBlob, 2, True), _SEALED, _TYPE)


@program(_LINES)
def append_lines(service: BlobServiceClient, scratch: Path) -> Any:
    container = fresh_container(service, "appends")
    blob, block = container.get_blob_client("log"), container.get_blob_client("block")
    blob.create_append_blob()
    added = [blob.append_block(f"line {number}".encode(), validate_content=True) for number in (1, 2)]
    places = [(one["blob_append_offset"], one["blob_committed_block_count"]) for one in added]
    position = outcome(lambda: blob.append_block(b"x", appendpos_condition=0))
    size = outcome(lambda: blob.append_block(b"x", maxsize_condition=12))
    blob.seal_append_blob()
    properties = blob.get_blob_properties()
    (listed,) = container.list_blobs()
    told = (listed.blob_type, properties.append_blob_committed_block_count, properties.get("is_append_blob_sealed"))
    block.upload_blob(b"b")
    sealed, other = outcome(lambda: blob.append_block(b"x")), outcome(lambda: block.append_block(b"x"))
    return places, position, size, blob.download_blob().readall(), told, sealed, other


@program((True, True, 6), max_block_size=MIB, max_single_put_size=MIB)
def upload_append_blobs(service: BlobServiceClient, scratch: Path) -> Any:
    """What `upload_blob` makes of the type: it appends to what is there."""
    container, data = fresh_container(service, "append-uploads"), pattern(5 * MIB // 2, seed=4)
    blob, copy = container.get_blob_client("log"), container.get_blob_client("copy")
    blob.upload_blob(data, blob_type=BlobType.AppendBlob)
    blob.upload_blob(data, blob_type=BlobType.AppendBlob)
    copy.create_append_blob()
    copy.append_block_from_url(blob.url, source_offset=10, source_length=MIB)
    count = blob.get_blob_properties().append_blob_committed_block_count
    return blob.download_blob().readall() == data * 2, copy.download_blob().readall() == data[10 : 10 + MIB], count


@programs_aio.program(([("0", 1), ("6", 2)], _POSITION, b"line 1line 2", _SEALED))
async def append_lines_aio(service: AsyncBlobServiceClient, scratch: Path) -> Any:
    container = await programs_aio.fresh_container(service, "aio-appends")
    blob = container.get_blob_client("log")
    await blob.create_append_blob()
    added = [await blob.append_block(f"line {number}".encode()) for number in (1, 2)]
    places = [(one["blob_append_offset"], one["blob_committed_block_count"]) for one in added]
    position = await programs_aio.outcome(blob.append_block(b"x", appendpos_condition=0))
    await blob.seal_append_blob()
    return places, position, await contents(container, "log"), await programs_aio.outcome(blob.append_block(b"x"))
