"""Programs whose bytes come from another blob of the account, sync and asyncio; see `programs` for the rules."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from azure.core import MatchConditions
from azure.storage.blob import BlobBlock, BlobServiceClient, ContentSettings
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

from tests.end_to_end import programs_aio
from tests.end_to_end.programs import MIB, fresh_container, outcome, pattern, program
from tests.end_to_end.programs_aio import contents

_NO_SOURCE = ("ResourceNotFoundError", 404, "CannotVerifyCopySource")


@program((True, "success", True, {"a": "1"}, {"b": "2"}, _NO_SOURCE))
def copy_blobs(service: BlobServiceClient, scratch: Path) -> Any:
    container = fresh_container(service, "copies")
    data = pattern(5 * MIB, seed=5)
    source = container.get_blob_client("source ü.bin")
    source.upload_blob(data, metadata={"a": "1"})
    copy, second = container.get_blob_client("copy"), container.get_blob_client("second")
    status = copy.start_copy_from_url(source.url)["copy_status"]
    second.start_copy_from_url(source.url, metadata={"b": "2"})
    source.delete_blob()
    return (
        copy.download_blob().readall() == data,
        status,
        copy.get_blob_properties().copy.source == source.url,
        dict(copy.get_blob_properties().metadata),
        dict(second.get_blob_properties().metadata),
        outcome(lambda: second.start_copy_from_url(container.get_blob_client("absent").url)),
    )


_EXISTS = ("ResourceExistsError", 409, "BlobAlreadyExists")


@program((True, "x/y", {"own": "1"}, _EXISTS, ("HttpResponseError", 400, "Md5Mismatch"), True))
def write_from_urls(service: BlobServiceClient, scratch: Path) -> Any:
    container, data = fresh_container(service, "from-urls"), pattern(5 * MIB, seed=8)
    source, whole, parts = (container.get_blob_client(name) for name in ("source ü.bin", "whole", "parts"))
    source.upload_blob(data, content_settings=ContentSettings(content_type="x/y"), metadata={"a": "1"})
    md5 = bytearray(hashlib.md5(data).digest())
    whole.upload_blob_from_url(source.url, metadata={"own": "1"}, source_content_md5=md5)
    properties = whole.get_blob_properties()
    exists = outcome(lambda: whole.upload_blob_from_url(source.url, overwrite=False))
    etag, only = properties.etag, MatchConditions.IfNotModified
    wrong = outcome(lambda: whole.upload_blob_from_url(source.url, source_content_md5=bytearray(16)))
    whole.upload_blob_from_url(source.url, metadata={"own": "1"}, etag=etag, match_condition=only)
    for number, offset in enumerate(range(0, len(data), 2 * MIB)):
        parts.stage_block_from_url(str(number), source.url, offset, min(2 * MIB, len(data) - offset))
    parts.commit_block_list([BlobBlock(str(number)) for number in (2, 1, 0)])
    turned = data[4 * MIB :] + data[2 * MIB : 4 * MIB] + data[: 2 * MIB]
    return (
        whole.download_blob().readall() == data,
        properties.content_settings.content_type,
        dict(properties.metadata),
        exists,
        wrong,
        parts.download_blob().readall() == turned,
    )


@programs_aio.program(("success", True, {"a": "1"}))
async def copy_blobs_aio(service: AsyncBlobServiceClient, scratch: Path) -> Any:
    container = await programs_aio.fresh_container(service, "aio-copies")
    data = pattern(5 * MIB, seed=5)
    source, copy = container.get_blob_client("source ü"), container.get_blob_client("copy")
    await source.upload_blob(data, metadata={"a": "1"})
    status = (await copy.start_copy_from_url(source.url))["copy_status"]
    await source.delete_blob()
    metadata = (await copy.get_blob_properties()).metadata
    return status, await contents(container, "copy") == data, dict(metadata)


@programs_aio.program((True, True))
async def write_from_urls_aio(service: AsyncBlobServiceClient, scratch: Path) -> Any:
    container, data = await programs_aio.fresh_container(service, "aio-from-urls"), pattern(3 * MIB, seed=9)
    source, parts = container.get_blob_client("source"), container.get_blob_client("parts")
    await source.upload_blob(data)
    await container.get_blob_client("whole").upload_blob_from_url(source.url)
    await parts.stage_block_from_url("0", source.url, MIB, MIB)
    await parts.commit_block_list([BlobBlock("0")])
    return await contents(container, "whole") == data, await contents(container, "parts") == data[MIB : 2 * MIB]
