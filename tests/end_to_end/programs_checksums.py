"""Programs that check content end to end, sync and asyncio; see `programs` for the rules."""

from __future__ import annotations

import gc
import hashlib
import io
from pathlib import Path
from typing import Any

from azure.storage.blob import BlobServiceClient
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

from tests.end_to_end import programs_aio
from tests.end_to_end.programs import MIB, fresh_container, outcome, pattern, program
from tests.end_to_end.programs_aio import contents


@program((True, ("HttpResponseError", 400, "Md5Mismatch"), True), max_single_put_size=MIB, max_block_size=MIB)
def validate_content(service: BlobServiceClient, scratch: Path) -> Any:
    data = pattern(3 * MIB + 1, seed=6)
    blob = fresh_container(service, "checksums").get_blob_client("checked.bin")
    blob.upload_blob(data, validate_content=True)
    read = blob.download_blob(validate_content=True).readall() == data
    wrong = {"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}
    refused = outcome(lambda: blob.stage_block("AAA", b"x", headers=wrong))
    blob.upload_blob(b"small", overwrite=True, validate_content=True)
    small = blob.get_blob_properties().content_settings.content_md5
    return read, refused, bytes(small) == hashlib.md5(b"small").digest()


@program(([True] * 3, True, True, True, b"", True), max_single_put_size=5 * MIB, max_block_size=MIB)
def validate_content_by_crc64(service: BlobServiceClient, scratch: Path) -> Any:
    """bytes carry a checksum in a header, streams and every download are structured messages."""
    container, data = fresh_container(service, "crc64"), pattern(9 * MIB + 1, seed=7)
    put, get = container.upload_blob, container.download_blob
    put("bytes", data[: 4 * MIB], validate_content="crc64")
    put("stream", io.BytesIO(data[: 4 * MIB + 3]), validate_content="auto")
    put("blocks", io.BytesIO(data), validate_content="crc64", max_concurrency=2)
    put("empty", b"", validate_content="crc64")
    sizes = {"bytes": 4 * MIB, "stream": 4 * MIB + 3, "blocks": len(data)}
    read = [get(name, validate_content="crc64").readall() == data[:size] for name, size in sizes.items()]
    plain = get("blocks").readall() == data
    part = get("blocks", offset=5, length=8 * MIB, validate_content="crc64").readall() == data[5 : 5 + 8 * MIB]
    sink = io.BytesIO()
    get("blocks", validate_content="crc64", max_concurrency=2).readinto(sink)
    chunks = b"".join(get("blocks", validate_content="crc64").chunks()) == data
    result = read, plain, part, sink.getvalue() == data, get("empty", validate_content="crc64").readall(), chunks
    gc.collect()  # the SDK's decoder stops before the end of the stream, so its connections are dropped, not closed
    return result


@programs_aio.program((True, True), max_single_put_size=MIB, max_block_size=MIB)
async def validate_content_aio(service: AsyncBlobServiceClient, scratch: Path) -> Any:
    data = pattern(3 * MIB + 1, seed=6)
    container = await programs_aio.fresh_container(service, "aio-checksums")
    blob = container.get_blob_client("checked.bin")
    await blob.upload_blob(data, validate_content=True)
    read = await contents(container, "checked.bin", validate_content=True) == data
    await blob.upload_blob(b"small", overwrite=True, validate_content=True)
    settings = (await blob.get_blob_properties()).content_settings
    return read, bytes(settings.content_md5) == hashlib.md5(b"small").digest()


@programs_aio.program(([True] * 3, True, b""), max_single_put_size=5 * MIB, max_block_size=MIB)
async def validate_content_by_crc64_aio(service: AsyncBlobServiceClient, scratch: Path) -> Any:
    container = await programs_aio.fresh_container(service, "aio-crc64")
    data = pattern(9 * MIB + 1, seed=7)
    await container.upload_blob("bytes", data[: 4 * MIB], validate_content="crc64")
    await container.upload_blob("stream", io.BytesIO(data[: 4 * MIB + 3]), validate_content="auto")
    await container.upload_blob("blocks", io.BytesIO(data), validate_content="crc64", max_concurrency=2)
    await container.upload_blob("empty", b"", validate_content="crc64")
    sizes = {"bytes": 4 * MIB, "stream": 4 * MIB + 3, "blocks": len(data)}
    read = [await contents(container, name, validate_content="crc64") == data[:size] for name, size in sizes.items()]
    part = await contents(container, "blocks", offset=5, length=8 * MIB, validate_content="crc64")
    return read, part == data[5 : 5 + 8 * MIB], await contents(container, "empty", validate_content="crc64")
