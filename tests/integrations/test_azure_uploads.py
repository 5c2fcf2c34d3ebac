"""Request bodies of every kind the SDK hands down (ecosystem.md §1.3), through the sync and the async transport."""

from __future__ import annotations

import array
import io
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.rest import HttpRequest
from azure.storage.blob._shared.streams import StructuredMessageEncodeStream, StructuredMessageProperties
from azure.storage.blob._shared.uploads import SubStream

from pvblob.integrations.azure_bodies import CHUNK_BYTES

SIZES = {"short": 100_001, "longer than a chunk": CHUNK_BYTES + 100_001}


class AsyncFile:
    """A file whose `read` is a coroutine."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    async def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    async def seekable(self) -> bool:
        return True

    async def tell(self) -> int:
        return self._file.tell()


class AwaitableFile:
    """A file whose `read` is a plain function that returns an awaitable."""

    def __init__(self, data: bytes) -> None:
        self._file = AsyncFile(data)

    def read(self, size: int = -1) -> Any:
        return self._file.read(size)


class Pipe:
    """A file that cannot seek, gives what it likes, and says in which thread it was read."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self.threads: set[int] = set()

    def read(self, size: int) -> bytes:
        self.threads.add(threading.get_ident())
        return self._file.read(min(size, 70_000))


def pieces(data: bytes) -> Iterator[bytes]:
    yield b""
    for at in range(0, len(data), 60_000):
        yield data[at : at + 60_000]


async def async_pieces(data: bytes) -> AsyncIterator[bytes]:
    for piece in pieces(data):
        yield piece


def behind_a_header(data: bytes) -> Any:
    file = io.BytesIO(b"header" + data)
    file.seek(6)
    return file


MEMORY: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "memoryview of other items": lambda data: memoryview(array.array("H", data[: len(data) // 2 * 2])),
    "scattered memoryview": lambda data: memoryview(b"".join(bytes((byte, 0)) for byte in data))[::2],
    "array": lambda data: array.array("b", data),
}
STREAMS: dict[str, Callable[[bytes], Any]] = {
    "file": io.BytesIO,
    "file in its middle": behind_a_header,
    "SubStream": lambda data: SubStream(io.BytesIO(data), 0, len(data), threading.Lock()),
    "pipe": Pipe,
    "generator": pieces,
    "list": lambda data: list(pieces(data)),
    "generator of views": lambda data: (memoryview(piece) for piece in pieces(data)),
}
ASYNC_STREAMS: dict[str, Callable[[bytes], Any]] = {
    "async generator": async_pieces,
    "async file": AsyncFile,
    "awaitable file": AwaitableFile,
}


def put(url: str, body: Any, size_bytes: int | None) -> HttpRequest:
    """A Put Blob request as the generated code makes it."""
    request = HttpRequest("PUT", url, headers={"x-ms-blob-type": "BlockBlob"})
    request.data = body
    if size_bytes is not None:
        request.headers["Content-Length"] = str(size_bytes)
    return request


def data_of(kind: str, size: str) -> bytes:
    return os.urandom(SIZES[size] - (1 if kind == "memoryview of other items" else 0))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("declared", [True, False], ids=["with length", "without"])
@pytest.mark.parametrize("kind", [*MEMORY, *STREAMS])
def test_every_kind_of_body_is_sent_whole(
    kind: str, declared: bool, size: str, container: Any, transport: Any, exchange: Any
) -> None:
    data = data_of(kind, size)
    body = (MEMORY | STREAMS)[kind](data)
    response = transport.send(put(container.url + "/b", body, len(data) if declared else None), stream=False)
    assert response.status_code == 201
    (passed,) = exchange.passed
    assert passed.sent == data
    assert passed.request.fields.get("content-length") == str(len(data))
    assert container.download_blob("b").readall() == data


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("declared", [True, False], ids=["with length", "without"])
@pytest.mark.parametrize("kind", [*MEMORY, *STREAMS, *ASYNC_STREAMS])
async def test_every_kind_of_body_is_sent_whole_by_the_async_transport(
    kind: str, declared: bool, size: str, acontainer: Any, atransport: Any, aexchange: Any
) -> None:
    data = data_of(kind, size)
    body = (MEMORY | STREAMS | ASYNC_STREAMS)[kind](data)
    response = await atransport.send(put(acontainer.url + "/b", body, len(data) if declared else None), stream=False)
    assert response.status_code == 201
    (passed,) = aexchange.passed
    assert passed.sent == data
    assert passed.request.fields.get("content-length") == str(len(data))


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview"])
def test_memory_is_handed_on_without_a_copy(kind: str, container: Any, transport: Any, exchange: Any) -> None:
    body = MEMORY[kind](b"x" * 1000)
    transport.send(put(container.url + "/b", body, 1000))
    assert memoryview(exchange.passed[0].body).obj is memoryview(body).obj


def test_a_short_body_is_gathered_so_that_the_exchange_can_repeat_it(
    container: Any, transport: Any, exchange: Any
) -> None:
    """Design rule 4: a resubmission needs the body again; an iterator has it once."""
    transport.send(put(container.url + "/b", pieces(b"x" * CHUNK_BYTES), CHUNK_BYTES))
    assert type(exchange.passed[0].body) is bytes


@pytest.mark.parametrize("kind", ["file in its middle", "SubStream"])
def test_a_long_file_is_read_as_it_goes_and_can_be_rewound(
    kind: str, container: Any, transport: Any, exchange: Any
) -> None:
    data = os.urandom(SIZES["longer than a chunk"])
    transport.send(put(container.url + "/b", STREAMS[kind](data), len(data)))
    source = exchange.passed[0].body
    assert source.size_bytes == len(data)
    assert source.rewind()
    assert [len(piece) for piece in source.chunks()] == [CHUNK_BYTES, 100_001]
    assert source.rewind()
    assert b"".join(source.chunks()) == data


def test_a_long_pipe_cannot_be_rewound(container: Any, transport: Any, exchange: Any) -> None:
    data = os.urandom(SIZES["longer than a chunk"])
    transport.send(put(container.url + "/b", Pipe(data), len(data)))
    assert not exchange.passed[0].body.rewind()


async def test_a_blocking_file_is_read_off_the_event_loop(acontainer: Any, atransport: Any) -> None:
    pipe = Pipe(b"x" * 1000)
    await atransport.send(put(acontainer.url + "/b", pipe, 1000))
    assert threading.get_ident() not in pipe.threads


@pytest.mark.parametrize("kind", ["bytes", "memoryview", "file", "generator"])
def test_what_lies_beyond_the_content_length_is_not_sent(
    kind: str, container: Any, transport: Any, exchange: Any
) -> None:
    transport.send(put(container.url + "/b", (MEMORY | STREAMS)[kind](b"0123456789"), 4))
    assert exchange.passed[0].sent == b"0123"


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("kind", ["bytes", "memoryview", "file", "generator"])
def test_a_body_that_ends_early_is_the_callers_error(kind: str, size: int, container: Any, transport: Any) -> None:
    """A ValueError is no AzureError, so the SDK does not retry it."""
    body = (MEMORY | STREAMS)[kind](b"x" * (size - 1))
    with pytest.raises(ValueError, match=f"ended after {size - 1} bytes although its Content-Length is {size}"):
        transport.send(put(container.url + "/b", body, size))


@pytest.mark.parametrize("kind", ["file", "generator", "async generator", "async file"])
async def test_an_async_body_that_ends_early_is_the_callers_error(kind: str, acontainer: Any, atransport: Any) -> None:
    body = (STREAMS | ASYNC_STREAMS)[kind](b"x" * 99)
    with pytest.raises(ValueError, match="ended after 99 bytes although its Content-Length is 100"):
        await atransport.send(put(acontainer.url + "/b", body, 100))


def test_text_is_sent_as_utf8_with_its_length_in_bytes(container: Any, transport: Any, exchange: Any) -> None:
    """azure-core declares the number of characters."""
    request = HttpRequest("PUT", container.url + "/b", headers={"x-ms-blob-type": "BlockBlob"}, content="straße")
    assert request.headers["Content-Length"] == "6"
    assert transport.send(request).status_code == 201
    assert exchange.passed[0].request.fields.get("content-length") == "7"
    assert container.download_blob("b").readall() == "straße".encode()


@pytest.mark.parametrize("body", [{"form": "data"}, [1, 2], 5, object()], ids=lambda body: type(body).__name__)
def test_what_is_no_body_is_refused_with_what_would_be(body: Any, container: Any, transport: Any) -> None:
    with pytest.raises(TypeError, match="request body"):
        transport.send(put(container.url + "/b", body, 10))


def test_an_async_body_in_a_sync_client_is_refused(container: Any, transport: Any) -> None:
    with pytest.raises(TypeError, match="async_generator"):
        transport.send(put(container.url + "/b", async_pieces(b"x"), 1))


def test_forms_are_refused(container: Any, transport: Any) -> None:
    with pytest.raises(TypeError, match="multipart"):
        transport.send(HttpRequest("POST", container.url, files={"name": b"content"}))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_structured_message_is_sent_as_it_is_framed(size: int, container: Any, transport: Any, exchange: Any) -> None:
    """ecosystem §1.3: the crc64 option wraps the body in a stream whose length is the framed one."""
    stream = StructuredMessageEncodeStream(io.BytesIO(os.urandom(size)), size, StructuredMessageProperties.NONE)
    framed = stream.read()
    stream.seek(0)
    transport.send(put(container.url + "/b", stream, len(stream)))
    assert exchange.passed[0].sent == framed
    assert len(framed) > size


def test_a_put_blob_of_64_mib_is_one_request(container: Any, exchange: Any) -> None:
    """ecosystem §1.4: the SDK's largest single put; the exchange carries it by continuation (design rule 6)."""
    container.upload_blob("b", b"x" * (64 << 20))
    (passed,) = exchange.passed
    assert len(passed.sent) == 64 << 20


def test_a_file_on_disk_is_uploaded_in_blocks_and_in_sub_streams(tmp_path: Path, container: Any, exchange: Any) -> None:
    data = os.urandom(11 << 20)
    path = tmp_path / "file"
    path.write_bytes(data)
    client = container.get_blob_client("b")
    client._config.max_single_put_size = 1 << 20
    client._config.max_block_size = 5 << 20
    client._config.min_large_block_upload_threshold = 4 << 20
    with path.open("rb") as file:
        client.upload_blob(file, max_concurrency=2)
    blocks = [passed for passed in exchange.passed if "comp=block&" in passed.request.target]
    assert sorted(len(passed.sent) for passed in blocks) == [1 << 20, 5 << 20, 5 << 20]
    assert client.download_blob().readall() == data


async def test_an_async_client_uploads_sub_streams(tmp_path: Path, acontainer: Any) -> None:
    data = os.urandom(11 << 20)
    path = tmp_path / "file"
    path.write_bytes(data)
    client = acontainer.get_blob_client("b")
    client._config.max_single_put_size = 1 << 20
    client._config.max_block_size = 5 << 20
    client._config.min_large_block_upload_threshold = 4 << 20
    with path.open("rb") as file:
        await client.upload_blob(file, max_concurrency=2)
    assert await (await client.download_blob()).readall() == data


def test_staged_blocks_take_buffers_and_iterators(container: Any) -> None:
    """adlfs stages memoryview slices of up to 50 MiB."""
    client = container.get_blob_client("b")
    client.stage_block("MQ==", memoryview(b"0123456789")[2:5], length=3)
    client.stage_block("Mg==", (piece for piece in (b"a", b"b")), length=2)
    client.stage_block("Mw==", io.BytesIO(b"file"))
    client.commit_block_list(["MQ==", "Mg==", "Mw=="])
    assert client.download_blob().readall() == b"234abfile"
