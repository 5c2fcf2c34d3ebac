"""Programs as users of azure-storage-blob write them (sync client), each returning what it saw.

A program takes a `BlobServiceClient` and a scratch directory and returns a value without dates, ETags and request ids,
so that the same program gives an equal value over HTTP and over a channel: the `expected` beside each program.
The clients come from the test: `client_options` are the constructor options the program needs.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobBlock, BlobServiceClient, ContainerClient, ContentSettings

MIB = 1024 * 1024
LISTED_BLOBS = 5001
TRICKY_NAMES = [
    "a b/c d.txt",
    "per%25cent/%2F",
    "plus+and&amp;=?#.bin",
    "umlaut-äöü/日本/\N{PILE OF POO}",
    "quotes'\"<>.xml",
    "dots./..a/.b",
    "~tilde-_.!*()",
]


@dataclass(frozen=True)
class Program:
    """A program, the options its client is made with, and the value it must return."""

    run: Callable[..., Any]
    expected: Any
    client_options: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.run.__name__


PROGRAMS: list[Program] = []


def program(expected: Any, **client_options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        PROGRAMS.append(Program(run, expected, client_options))
        return run

    return register


def pattern(size_bytes: int, seed: int = 1) -> bytes:
    """Return *size_bytes* bytes that no shift of them equals."""
    return random.Random(seed).randbytes(size_bytes)


def outcome(call: Callable[[], Any]) -> Any:
    """Return what *call* returns, or its error as (class, status, code)."""
    try:
        return call()
    except HttpResponseError as error:
        return failure(error)


def failure(error: HttpResponseError) -> tuple[str, int | None, str]:
    code = getattr(error, "error_code", None)
    return type(error).__name__, error.status_code, str(getattr(code, "value", code))


def fresh_container(service: BlobServiceClient, name: str) -> ContainerClient:
    container = service.get_container_client(name)
    container.create_container()
    return container


@program((100 * MIB, True, [4 * MIB] * 25, True), max_single_put_size=4 * MIB, max_block_size=4 * MIB)
def upload_and_download_a_large_file(service: BlobServiceClient, scratch: Path) -> Any:
    source, target = scratch / "source", scratch / "target"
    source.write_bytes(pattern(100 * MIB))
    blob = fresh_container(service, "large-file").get_blob_client("large.bin")
    with source.open("rb") as stream:
        blob.upload_blob(stream, max_concurrency=4)
    committed, uncommitted = blob.get_block_list("all")
    with target.open("wb") as stream:
        size_bytes = blob.download_blob(max_concurrency=4).readinto(stream)
    same = source.read_bytes() == target.read_bytes()
    return size_bytes, same, [block.size for block in committed], uncommitted == []


@program((64 * MIB, "BlockBlob", [], True), max_single_put_size=64 * MIB)
def upload_64_mib_in_one_request(service: BlobServiceClient, scratch: Path) -> Any:
    data = pattern(64 * MIB, seed=2)
    blob = fresh_container(service, "one-request").get_blob_client("one.bin")
    blob.upload_blob(data, max_concurrency=1)
    properties = blob.get_blob_properties()
    blocks, _ = blob.get_block_list("committed")
    same = blob.download_blob().readall() == data
    return properties.size, properties.blob_type.value, blocks, same


@program([(10, True), (1000, True), (5, True), ("HttpResponseError", 416, "InvalidRange"), (1, True), (3 * MIB, True)])
def read_ranges(service: BlobServiceClient, scratch: Path) -> Any:
    data = pattern(6 * MIB, seed=3)
    blob = fresh_container(service, "ranges").get_blob_client("ranges.bin")
    blob.upload_blob(data)

    def read(offset: int, length: int | None) -> tuple[int, bool]:
        found = blob.download_blob(offset=offset, length=length).readall()
        end = len(data) if length is None else offset + length
        return len(found), found == data[offset:end]

    size = len(data)
    spans = [(0, 10), (4096, 1000), (size - 5, None), (size, 1), (size - 1, 100), (MIB + 7, 3 * MIB)]
    return [outcome(lambda offset=offset, length=length: read(offset, length)) for offset, length in spans]


@program((40 * MIB, True, 10, True), max_single_get_size=4 * MIB, max_chunk_get_size=4 * MIB)
def download_in_chunks(service: BlobServiceClient, scratch: Path) -> Any:
    data = pattern(40 * MIB, seed=4)
    blob = fresh_container(service, "chunks").get_blob_client("chunks.bin")
    blob.upload_blob(data)
    buffer = io.BytesIO()
    size_bytes = blob.download_blob(max_concurrency=4).readinto(buffer)
    chunks = list(blob.download_blob().chunks())
    return size_bytes, buffer.getvalue() == data, len(chunks), b"".join(chunks) == data


@program((LISTED_BLOBS, True, [5000, 1], [700, 300], ["dir-0/", "dir-1/", "dir-2/", "dir-3/", "dir-4/", "last"]))
def list_5001_blobs(service: BlobServiceClient, scratch: Path) -> Any:
    container = fresh_container(service, "listing")
    names = [f"dir-{n % 5}/blob-{n:05d}" for n in range(LISTED_BLOBS - 1)] + ["last"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: container.upload_blob(name, b""), names))
    listed = [blob.name for blob in container.list_blobs()]
    pages = [len(list(page)) for page in container.list_blob_names().by_page()]
    below = container.list_blobs(name_starts_with="dir-3/", results_per_page=700)
    sizes = [len(list(page)) for page in below.by_page()]
    directories = [item.name for item in container.walk_blobs(delimiter="/")]
    return len(listed), listed == sorted(names), pages, sizes, directories


@program(([202] * 100, [202, 404], ["keep"], [True] * 256))
def delete_blobs_in_batches(service: BlobServiceClient, scratch: Path) -> Any:
    container = fresh_container(service, "batches")
    names = [f"name {n:03d}/ü" for n in range(100)]
    for name in [*names, "keep", "twice"]:
        container.upload_blob(name, b"x")
    first = [answer.status_code for answer in container.delete_blobs(*names)]
    second = container.delete_blobs("twice", "never", raise_on_any_failure=False)
    statuses = [answer.status_code for answer in second]
    left = list(container.list_blob_names())
    many = container.delete_blobs(*(f"absent-{n}" for n in range(256)), raise_on_any_failure=False)
    return first, statuses, left, [answer.status_code == 404 for answer in many]


@program(
    (
        {"someKey": "Value", "lower": "two words", "EMPTY": ""},
        {"Replaced": "1"},
        ("text/plain", "gzip", "de", "no-cache", "inline"),
        ("application/octet-stream", None),
        {"Replaced": "1"},
    )
)
def round_trip_metadata_and_settings(service: BlobServiceClient, scratch: Path) -> Any:
    container = fresh_container(service, "metadata")
    blob = container.get_blob_client("metadata.bin")
    settings = ContentSettings("text/plain", "gzip", "de", "inline", "no-cache")
    blob.upload_blob(b"x", metadata={"someKey": "Value", "lower": "two words", "EMPTY": ""}, content_settings=settings)
    first = blob.get_blob_properties()
    blob.set_blob_metadata({"Replaced": "1"})
    second = blob.get_blob_properties()
    blob.set_http_headers(ContentSettings(content_type="application/octet-stream"))
    third = blob.get_blob_properties()
    (listed,) = container.list_blobs(include=["metadata"])
    kept = first.content_settings
    return (
        dict(first.metadata),
        dict(second.metadata),
        (kept.content_type, kept.content_encoding, kept.content_language, kept.cache_control, kept.content_disposition),
        (third.content_settings.content_type, third.content_settings.content_encoding),
        dict(listed.metadata),
    )


@program((("ResourceExistsError", 409, "BlobAlreadyExists"), b"first", b"second", b"second"))
def refuse_to_overwrite(service: BlobServiceClient, scratch: Path) -> Any:
    blob = fresh_container(service, "overwrite").get_blob_client("once.txt")
    blob.upload_blob(b"first")
    refused = outcome(lambda: blob.upload_blob(b"second"))
    kept = blob.download_blob().readall()
    blob.upload_blob(b"second", overwrite=True)
    replaced = blob.download_blob().readall()
    return refused, kept, replaced, blob.download_blob().readall()


@program(
    (
        True,
        ("ResourceModifiedError", 412, "ConditionNotMet"),
        ("ResourceModifiedError", 304, "ConditionNotMet"),
        ("ResourceModifiedError", 412, "ConditionNotMet"),
        ("ResourceModifiedError", 412, "ConditionNotMet"),
        b"two",
        None,
    )
)
def honour_etag_conditions(service: BlobServiceClient, scratch: Path) -> Any:
    blob = fresh_container(service, "conditions").get_blob_client("conditions.txt")
    old = blob.upload_blob(b"one")["etag"]
    new = blob.upload_blob(b"two", overwrite=True, etag=old, match_condition=MatchConditions.IfNotModified)["etag"]
    same, other = MatchConditions.IfNotModified, MatchConditions.IfModified
    return (
        old != new,
        outcome(lambda: blob.upload_blob(b"three", overwrite=True, etag=old, match_condition=same)),
        outcome(lambda: blob.download_blob(etag=new, match_condition=other).readall()),
        outcome(lambda: blob.get_blob_properties(etag=old, match_condition=same)),
        outcome(lambda: blob.delete_blob(etag=old, match_condition=same)),
        blob.download_blob(etag=new, match_condition=same).readall(),
        outcome(lambda: blob.delete_blob(etag=new, match_condition=same)),
    )


def _pieces() -> Iterator[bytes]:
    for n in range(10):
        yield bytes([n]) * (MIB // 2)


@program([True] * 7, max_single_put_size=2 * MIB, max_block_size=MIB)
def upload_every_kind_of_body(service: BlobServiceClient, scratch: Path) -> Any:
    whole = b"".join(_pieces())
    (scratch / "body").write_bytes(whole)
    container = fresh_container(service, "bodies")

    def survives(name: str, data: Any, expected: bytes, **options: Any) -> bool:
        container.upload_blob(name, data, **options)
        return container.download_blob(name).readall() == expected

    with (scratch / "body").open("rb") as file:
        return [
            survives("bytes", whole, whole),
            survives("text", "gr\xfc\xdfe", "gr\xfc\xdfe".encode()),
            survives("generator", _pieces(), whole),
            survives("list-iterator", iter([b"a", b"bc", b""]), b"abc"),
            survives("stream", io.BytesIO(whole), whole, max_concurrency=3),
            survives("file", file, whole, length=len(whole)),
            survives("cut", io.BytesIO(whole), whole[: MIB + 5], length=MIB + 5),
        ]


@program(
    (
        (["AAA", "BBB", "CCC"], []),
        (["BBB", "AAA"], []),
        b"2222111",
        (["BBB", "AAA"], ["DDD"]),
        ("HttpResponseError", 400, "InvalidBlockList"),
        b"2222",
    )
)
def commit_block_lists(service: BlobServiceClient, scratch: Path) -> Any:
    blob = fresh_container(service, "blocks").get_blob_client("blocks.bin")

    def ids() -> tuple[list[str], list[str]]:
        committed, uncommitted = blob.get_block_list("all")
        return [block.id for block in committed], [block.id for block in uncommitted]

    for block_id, data in (("AAA", b"111"), ("BBB", b"2222"), ("CCC", memoryview(b"33333"))):
        blob.stage_block(block_id, data)
    blob.commit_block_list([BlobBlock("AAA"), BlobBlock("BBB"), BlobBlock("CCC")])
    first = ids()
    blob.commit_block_list([BlobBlock("BBB"), BlobBlock("AAA")])
    second, swapped = ids(), blob.download_blob().readall()
    blob.stage_block("DDD", b"4")
    third = ids()
    refused = outcome(lambda: blob.commit_block_list([BlobBlock("ZZZ")]))
    blob.commit_block_list([BlobBlock("BBB")])
    return first, second, swapped, third, refused, blob.download_blob().readall()


@program((b"", 0, [], 0, b""))
def read_an_empty_blob(service: BlobServiceClient, scratch: Path) -> Any:
    blob = fresh_container(service, "empty").get_blob_client("empty")
    blob.upload_blob(b"")
    buffer = io.BytesIO()
    blob.download_blob().readinto(buffer)
    chunks = list(blob.download_blob().chunks())
    size = blob.get_blob_properties().size
    return blob.download_blob().readall(), size, chunks, blob.download_blob().size, buffer.getvalue()


_GONE = ("ResourceNotFoundError", 404, "BlobNotFound")
_NO_CONTAINER = ("ResourceNotFoundError", 404, "ContainerNotFound")


@program(
    {
        "get": _GONE,
        "head": _GONE,
        "delete": _GONE,
        "metadata": _GONE,
        "exists": False,
        "container exists": False,
        "list": _NO_CONTAINER,
        "upload": _NO_CONTAINER,
        "delete container": _NO_CONTAINER,
        "create twice": ("ResourceExistsError", 409, "ContainerAlreadyExists"),
        "bad name": ("HttpResponseError", 400, "InvalidResourceName"),
        "bad metadata": ("HttpResponseError", 400, "InvalidMetadata"),
    }
)
def meet_errors(service: BlobServiceClient, scratch: Path) -> Any:
    container = fresh_container(service, "errors")
    absent, nowhere = container.get_blob_client("absent"), service.get_container_client("nowhere")
    calls: dict[str, Callable[[], Any]] = {
        "get": lambda: absent.download_blob().readall(),
        "head": absent.get_blob_properties,
        "delete": absent.delete_blob,
        "metadata": lambda: absent.set_blob_metadata({"a": "1"}),
        "exists": absent.exists,
        "container exists": nowhere.exists,
        "list": lambda: list(nowhere.list_blobs()),
        "upload": lambda: nowhere.upload_blob("x", b"x"),
        "delete container": nowhere.delete_container,
        "create twice": container.create_container,
        "bad name": lambda: service.get_container_client("Bad_Name").create_container(),
        "bad metadata": lambda: absent.upload_blob(b"", metadata={"not-a-name": "1"}),
    }
    return {name: outcome(call) for name, call in calls.items()}


@program((sorted(TRICKY_NAMES, key=str.encode), [True] * len(TRICKY_NAMES), []))
def use_tricky_names(service: BlobServiceClient, scratch: Path) -> Any:
    container = fresh_container(service, "names")
    for name in TRICKY_NAMES:
        container.upload_blob(name, name.encode())
    listed = list(container.list_blob_names())
    read = [container.download_blob(name).readall() == name.encode() for name in TRICKY_NAMES]
    for name in TRICKY_NAMES:
        container.delete_blob(name)
    return listed, read, list(container.list_blob_names())


@program((["accounts-1", "accounts-2"], {"Ax": "1"}, {"bY": "2"}, True, False, ["accounts-2"]))
def manage_containers(service: BlobServiceClient, scratch: Path) -> Any:
    first, second = service.create_container("accounts-1", metadata={"Ax": "1"}), service.create_container("accounts-2")
    listed = [container.name for container in service.list_containers(name_starts_with="accounts-")]
    created = dict(first.get_container_properties().metadata)
    second.set_container_metadata({"bY": "2"})
    changed = dict(second.get_container_properties().metadata)
    existed = first.exists()
    first.delete_container()
    left = [container.name for container in service.list_containers(name_starts_with="accounts-")]
    return listed, created, changed, existed, first.exists(), left
