"""The programs again as asyncio users write them (`azure.storage.blob.aio`); see `programs` for the rules.

The values expected are those of the sync programs wherever the program is the same. 5,001 blobs are listed once, there.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobBlock, ContentSettings
from azure.storage.blob.aio import BlobServiceClient, ContainerClient

from tests.end_to_end.programs import MIB, TRICKY_NAMES, Program, failure, pattern

ASYNC_PROGRAMS: list[Program] = []

_GONE = ("ResourceNotFoundError", 404, "BlobNotFound")


def program(expected: Any, **client_options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        ASYNC_PROGRAMS.append(Program(run, expected, client_options))
        return run

    return register


async def outcome(call: Awaitable[Any]) -> Any:
    """Return what *call* gives, or its error as (class, status, code)."""
    try:
        return await call
    except HttpResponseError as error:
        return failure(error)


async def fresh_container(service: BlobServiceClient, name: str) -> ContainerClient:
    container = service.get_container_client(name)
    await container.create_container()
    return container


async def contents(container: ContainerClient, name: str, **options: Any) -> bytes:
    return await (await container.download_blob(name, **options)).readall()


@program((100 * MIB, True, [4 * MIB] * 25, True), max_single_put_size=4 * MIB, max_block_size=4 * MIB)
async def upload_and_download_a_large_file(service: BlobServiceClient, scratch: Path) -> Any:
    source = scratch / "source"
    source.write_bytes(pattern(100 * MIB))
    blob = (await fresh_container(service, "aio-large-file")).get_blob_client("large.bin")
    with source.open("rb") as stream:
        await blob.upload_blob(stream, max_concurrency=4)
    committed, uncommitted = await blob.get_block_list("all")
    with (scratch / "target").open("wb") as stream:
        size_bytes = await (await blob.download_blob(max_concurrency=4)).readinto(stream)
    same = source.read_bytes() == (scratch / "target").read_bytes()
    return size_bytes, same, [block.size for block in committed], uncommitted == []


@program((64 * MIB, [], True), max_single_put_size=64 * MIB)
async def upload_64_mib_in_one_request(service: BlobServiceClient, scratch: Path) -> Any:
    data = pattern(64 * MIB, seed=2)
    container = await fresh_container(service, "aio-one-request")
    blob = container.get_blob_client("one.bin")
    await blob.upload_blob(data)
    blocks, _ = await blob.get_block_list("committed")
    same = await contents(container, "one.bin") == data
    return (await blob.get_blob_properties()).size, blocks, same


@program([(10, True), (1000, True), (5, True), ("HttpResponseError", 416, "InvalidRange"), (1, True), (3 * MIB, True)])
async def read_ranges_at_once(service: BlobServiceClient, scratch: Path) -> Any:
    data = pattern(6 * MIB, seed=3)
    container = await fresh_container(service, "aio-ranges")
    await container.upload_blob("ranges.bin", data)

    async def read(offset: int, length: int | None) -> tuple[int, bool]:
        found = await contents(container, "ranges.bin", offset=offset, length=length)
        end = len(data) if length is None else offset + length
        return len(found), found == data[offset:end]

    size = len(data)
    spans = [(0, 10), (4096, 1000), (size - 5, None), (size, 1), (size - 1, 100), (MIB + 7, 3 * MIB)]
    return await asyncio.gather(*(outcome(read(offset, length)) for offset, length in spans))


@program((40 * MIB, True, 10, True), max_single_get_size=4 * MIB, max_chunk_get_size=4 * MIB)
async def download_in_chunks(service: BlobServiceClient, scratch: Path) -> Any:
    data = pattern(40 * MIB, seed=4)
    blob = (await fresh_container(service, "aio-chunks")).get_blob_client("chunks.bin")
    await blob.upload_blob(data)
    buffer = io.BytesIO()
    size_bytes = await (await blob.download_blob(max_concurrency=4)).readinto(buffer)
    chunks = [chunk async for chunk in (await blob.download_blob()).chunks()]
    return size_bytes, buffer.getvalue() == data, len(chunks), b"".join(chunks) == data


@program((200, [70, 70, 60], ["a/", "b/"], 100))
async def list_in_pages(service: BlobServiceClient, scratch: Path) -> Any:
    container = await fresh_container(service, "aio-listing")
    await asyncio.gather(*(container.upload_blob(f"{'ab'[n % 2]}/{n:03d}", b"") for n in range(200)))
    names = [blob.name async for blob in container.list_blobs()]
    by_page = container.list_blobs(results_per_page=70).by_page()
    pages = [len([blob async for blob in page]) async for page in by_page]
    directories = [item.name async for item in container.walk_blobs(delimiter="/")]
    below = [blob.name async for blob in container.list_blobs(name_starts_with="b/")]
    return len(names), pages, directories, len(below)


@program(([202] * 100, [202, 404], ["keep"]))
async def delete_blobs_in_batches(service: BlobServiceClient, scratch: Path) -> Any:
    container = await fresh_container(service, "aio-batches")
    names = [f"name {n:03d}/ü" for n in range(100)]
    await asyncio.gather(*(container.upload_blob(name, b"x") for name in [*names, "keep", "twice"]))
    first = [answer.status_code async for answer in await container.delete_blobs(*names)]
    second = await container.delete_blobs("twice", "never", raise_on_any_failure=False)
    statuses = [answer.status_code async for answer in second]
    return first, statuses, [name async for name in container.list_blob_names()]


@program(({"someKey": "Value", "EMPTY": ""}, {"Replaced": "1"}, ("text/plain", "gzip"), {"Replaced": "1"}))
async def round_trip_metadata_and_settings(service: BlobServiceClient, scratch: Path) -> Any:
    container = await fresh_container(service, "aio-metadata")
    blob = container.get_blob_client("metadata.bin")
    settings = ContentSettings("text/plain", "gzip")
    await blob.upload_blob(b"x", metadata={"someKey": "Value", "EMPTY": ""}, content_settings=settings)
    first = await blob.get_blob_properties()
    await blob.set_blob_metadata({"Replaced": "1"})
    second = await blob.get_blob_properties()
    listed = [dict(item.metadata) async for item in container.list_blobs(include=["metadata"])]
    kept = first.content_settings
    return dict(first.metadata), dict(second.metadata), (kept.content_type, kept.content_encoding), *listed


@program(
    (
        ("ResourceExistsError", 409, "BlobAlreadyExists"),
        ("ResourceModifiedError", 412, "ConditionNotMet"),
        ("ResourceModifiedError", 304, "ConditionNotMet"),
        b"two",
    )
)
async def honour_conditions(service: BlobServiceClient, scratch: Path) -> Any:
    container = await fresh_container(service, "aio-conditions")
    blob = container.get_blob_client("conditions.txt")
    old = (await blob.upload_blob(b"one"))["etag"]
    same, other = MatchConditions.IfNotModified, MatchConditions.IfModified
    exists = await outcome(blob.upload_blob(b"one"))
    new = (await blob.upload_blob(b"two", overwrite=True, etag=old, match_condition=same))["etag"]
    return (
        exists,
        await outcome(blob.upload_blob(b"three", overwrite=True, etag=old, match_condition=same)),
        await outcome(blob.download_blob(etag=new, match_condition=other)),
        await contents(container, "conditions.txt", etag=new, match_condition=same),
    )


async def _pieces() -> AsyncIterator[bytes]:
    for n in range(10):
        yield bytes([n]) * (MIB // 2)


@program([True] * 5, max_single_put_size=2 * MIB, max_block_size=MIB)
async def upload_every_kind_of_body(service: BlobServiceClient, scratch: Path) -> Any:
    whole = b"".join([piece async for piece in _pieces()])
    container = await fresh_container(service, "aio-bodies")

    async def survives(name: str, data: Any, expected: bytes, **options: Any) -> bool:
        await container.upload_blob(name, data, **options)
        return await contents(container, name) == expected

    return [
        await survives("bytes", whole, whole),
        await survives("text", "grüße", "grüße".encode()),
        await survives("async-generator", _pieces(), whole),
        await survives("stream", io.BytesIO(whole), whole, max_concurrency=3),
        await survives("cut", io.BytesIO(whole), whole[: MIB + 5], length=MIB + 5),
    ]


@program((["BBB", "AAA"], b"2222111", ("HttpResponseError", 400, "InvalidBlockList"), b"2222111"))
async def commit_block_lists(service: BlobServiceClient, scratch: Path) -> Any:
    container = await fresh_container(service, "aio-blocks")
    blob = container.get_blob_client("blocks.bin")
    await asyncio.gather(blob.stage_block("AAA", b"111"), blob.stage_block("BBB", memoryview(b"2222")))
    await blob.commit_block_list([BlobBlock("BBB"), BlobBlock("AAA")])
    committed, _ = await blob.get_block_list("all")
    swapped = await contents(container, "blocks.bin")
    refused = await outcome(blob.commit_block_list([BlobBlock("ZZZ")]))
    return [block.id for block in committed], swapped, refused, await contents(container, "blocks.bin")


@program((b"", 0, []))
async def read_an_empty_blob(service: BlobServiceClient, scratch: Path) -> Any:
    container = await fresh_container(service, "aio-empty")
    await container.upload_blob("empty", b"")
    stream = await container.download_blob("empty")
    return await contents(container, "empty"), stream.size, [chunk async for chunk in stream.chunks()]


@program([_GONE, _GONE, _GONE, False, ("ResourceNotFoundError", 404, "ContainerNotFound")])
async def meet_errors(service: BlobServiceClient, scratch: Path) -> Any:
    absent = (await fresh_container(service, "aio-errors")).get_blob_client("absent")
    calls = [
        absent.download_blob(),
        absent.get_blob_properties(),
        absent.delete_blob(),
        absent.exists(),
        service.get_container_client("aio-nowhere").upload_blob("x", b"x"),
    ]
    return [await outcome(call) for call in calls]


@program((sorted(TRICKY_NAMES, key=str.encode), [True] * len(TRICKY_NAMES)))
async def use_tricky_names(service: BlobServiceClient, scratch: Path) -> Any:
    container = await fresh_container(service, "aio-names")
    await asyncio.gather(*(container.upload_blob(name, name.encode()) for name in TRICKY_NAMES))
    listed = [name async for name in container.list_blob_names()]
    return listed, [await contents(container, name) == name.encode() for name in TRICKY_NAMES]
