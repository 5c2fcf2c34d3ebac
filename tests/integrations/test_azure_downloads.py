"""Downloads through the transports: what ecosystem.md §1.1 demands of content handed to the Azure SDK."""

from __future__ import annotations

import gc
import gzip
import operator
import os
import sys
import zlib
from typing import Any

import pytest
from azure.core.exceptions import DecodeError, HttpResponseError, ResourceNotFoundError, StreamConsumedError
from azure.core.rest import HttpRequest
from azure.storage.blob import ContentSettings

MIB = 1 << 20


class Sink:
    """Keeps the very objects written to it."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self.pieces.append(piece)
        return len(piece)


def held_elsewhere(exchange: Any) -> list[int]:
    """How many references each downloaded content has besides the exchange's own note of it."""
    return [sys.getrefcount(passed.answer.content) - 2 for passed in downloads(exchange)]


def downloads(exchange: Any) -> list[Any]:
    return [passed for passed in exchange.passed if passed.request.method == "GET"]


def test_a_range_arrives_as_one_bytes_object_and_is_never_copied_on_the_way_up(container: Any, exchange: Any) -> None:
    """ecosystem §1.1, §1.4: 32 MiB then 4 MiB ranges; the SDK's join of one piece is the identity."""
    data = os.urandom(38 * MIB)
    container.upload_blob("b", data)
    sink = Sink()
    container.download_blob("b").readinto(sink)
    assert [len(piece) for piece in sink.pieces] == [32 * MIB, 4 * MIB, 2 * MIB]
    for piece, passed in zip(sink.pieces, downloads(exchange), strict=True):
        assert type(piece) is bytes
        assert piece is passed.answer.content
    assert b"".join(sink.pieces) == data


def test_readall_of_32_mib_is_one_request(container: Any, exchange: Any) -> None:
    data = os.urandom(32 * MIB)
    container.upload_blob("b", data)
    assert container.download_blob("b").readall() == data
    assert len(downloads(exchange)) == 1


async def test_an_async_range_arrives_as_one_bytes_object(acontainer: Any, aexchange: Any) -> None:
    data = os.urandom(9 * MIB)
    await acontainer.upload_blob("b", data)
    sink = Sink()
    await (await acontainer.download_blob("b")).readinto(sink)
    (passed,) = downloads(aexchange)
    assert len(sink.pieces) == 1
    assert sink.pieces[0] is passed.answer.content
    assert sink.pieces[0] == data


def test_the_stream_gives_no_length_hint(container: Any, transport: Any) -> None:
    """ecosystem §1.1: with `__len__`, list() would reserve 8 bytes per byte of content."""
    container.upload_blob("b", b"x" * 1000)
    response = transport.send(HttpRequest("GET", container.url + "/b"), stream=True)
    stream = response.stream_download(None, decompress=True)
    assert not hasattr(stream, "__len__")
    assert operator.length_hint(stream) == 0
    assert stream.content_length == 1000
    stream.properties = "set by the storage layer"
    assert stream.response is response
    assert stream.request is response.request


def test_a_consumed_downloader_keeps_no_content_alive(container: Any, exchange: Any) -> None:
    container.upload_blob("b", b"x" * MIB)
    downloader = container.download_blob("b")
    downloader.readinto(Sink())
    assert held_elsewhere(exchange) == [1]
    downloader._current_content = b""  # that one is the SDK's own
    assert held_elsewhere(exchange) == [0]


def test_a_dropped_downloader_leaks_nothing(container: Any, exchange: Any) -> None:
    container.upload_blob("b", b"x" * MIB)
    for _ in range(3):
        downloader = container.download_blob("b")
        del downloader
    gc.collect()
    assert held_elsewhere(exchange) == [0, 0, 0]


def test_an_unread_response_lets_go_when_it_is_closed(container: Any, transport: Any, exchange: Any) -> None:
    container.upload_blob("b", b"x" * MIB)
    response = transport.send(HttpRequest("GET", container.url + "/b"), stream=True)
    assert held_elsewhere(exchange) == [1]
    response.close()
    assert response.is_closed
    assert held_elsewhere(exchange) == [0]


def test_content_is_given_once(container: Any, transport: Any) -> None:
    container.upload_blob("b", b"once")
    response = transport.send(HttpRequest("GET", container.url + "/b"), stream=True)
    assert list(response.stream_download(None)) == [b"once"]
    with pytest.raises(StreamConsumedError):
        list(response.stream_download(None))


@pytest.mark.parametrize("read", ["read", "iter_bytes", "iter_raw", "body"])
def test_every_way_to_read_a_rest_response_gives_the_content(read: str, container: Any, transport: Any) -> None:
    container.upload_blob("b", b"content")
    response = transport.send(HttpRequest("GET", container.url + "/b"), stream=True)
    given = getattr(response, read)()
    assert (given if isinstance(given, bytes) else b"".join(given)) == b"content"
    assert response.is_closed
    assert response.is_stream_consumed


@pytest.mark.parametrize("read", ["read", "iter_bytes", "iter_raw"])
async def test_every_way_to_read_an_async_response_gives_the_content(
    read: str, acontainer: Any, atransport: Any
) -> None:
    await acontainer.upload_blob("b", b"content")
    async with await atransport.send(HttpRequest("GET", acontainer.url + "/b"), stream=True) as response:
        if read == "read":
            assert await response.read() == b"content"
        else:
            assert b"".join([piece async for piece in getattr(response, read)()]) == b"content"
    assert response.is_closed
    assert response.is_stream_consumed


async def test_an_async_body_can_be_loaded_as_the_md5_check_does(acontainer: Any, atransport: Any) -> None:
    await acontainer.upload_blob("b", b"content")
    response = await atransport.send(HttpRequest("GET", acontainer.url + "/b"), stream=True)
    await response.load_body()
    assert response.body() == response.content == b"content"
    assert [piece async for piece in response.stream_download(None)] == [b"content"]


def test_a_policy_may_replace_stream_download(container: Any, transport: Any) -> None:
    """The CRC-64 check of the SDK assigns it (ecosystem §1.1)."""
    container.upload_blob("b", b"content")
    response = transport.send(HttpRequest("GET", container.url + "/b"), stream=True)
    original = response.stream_download
    response.stream_download = lambda *args, **kwargs: [piece[::-1] for piece in original(*args, **kwargs)]
    response.location_mode = "primary"
    assert list(response.stream_download(None, decompress=True)) == [b"tnetnoc"]


def test_an_empty_blob_is_read_by_a_second_request(container: Any, exchange: Any) -> None:
    """ecosystem §1.4: 416 to the first range, then no range."""
    container.upload_blob("b", b"")
    assert container.download_blob("b").readall() == b""
    assert [passed.answer.status for passed in downloads(exchange)] == [416, 200]


def test_a_missing_blob_is_the_sdks_own_error(container: Any) -> None:
    with pytest.raises(ResourceNotFoundError) as caught:
        container.download_blob("missing")
    assert caught.value.error_code == "BlobNotFound"
    assert container.get_blob_client("missing").exists() is False


@pytest.mark.parametrize("max_concurrency", [1, 8])
def test_threads_share_one_transport(max_concurrency: int, container: Any, exchange: Any) -> None:
    """ecosystem §1.1: a ThreadPoolExecutor calls one transport."""
    data = os.urandom(11 * MIB + 7)
    client = container.get_blob_client("b")
    client._config.max_single_get_size = client._config.max_chunk_get_size = MIB
    client._config.max_single_put_size = client._config.max_block_size = MIB
    client.upload_blob(data, max_concurrency=max_concurrency)
    assert client.download_blob(max_concurrency=max_concurrency).readall() == data
    assert len(downloads(exchange)) == 12


async def test_tasks_share_one_transport(acontainer: Any) -> None:
    data = os.urandom(5 * MIB + 7)
    client = acontainer.get_blob_client("b")
    client._config.max_single_get_size = client._config.max_chunk_get_size = MIB
    client._config.max_single_put_size = client._config.max_block_size = MIB
    await client.upload_blob(data, max_concurrency=8)
    assert await (await client.download_blob(max_concurrency=8)).readall() == data


CODINGS = {
    "gzip": gzip.compress(b"text " * 999),
    "two members": gzip.compress(b"text " * 900) + gzip.compress(b"text " * 99),
    "deflate": zlib.compress(b"text " * 999),
    "raw deflate": zlib.compress(b"text " * 999)[2:-4],
}


@pytest.mark.parametrize("name", CODINGS)
def test_content_codings_are_undone_unless_the_caller_declines(name: str, container: Any) -> None:
    coding = "deflate" if "deflate" in name else "gzip"
    coded = CODINGS[name]
    container.upload_blob("b", coded, content_settings=ContentSettings(content_encoding=coding))
    assert container.download_blob("b").readall() == b"text " * 999
    assert container.download_blob("b", decompress=False).readall() == coded
    assert container.get_blob_client("b").get_blob_properties().content_settings.content_encoding == coding


def test_a_coding_the_content_does_not_have_is_a_decode_error(container: Any, transport: Any) -> None:
    container.upload_blob("b", b"no gzip", content_settings=ContentSettings(content_encoding="gzip"))
    response = transport.send(HttpRequest("GET", container.url + "/b"), stream=True)
    with pytest.raises(DecodeError, match="not gzip"):
        response.read()


def test_an_unknown_coding_is_left_alone(container: Any) -> None:
    container.upload_blob("b", b"as it is", content_settings=ContentSettings(content_encoding="zstd"))
    assert container.download_blob("b").readall() == b"as it is"


@pytest.mark.parametrize("validate_content", [True, "md5"])
def test_md5_validation_passes_over_the_transport(validate_content: Any, container: Any) -> None:
    container.upload_blob("b", b"checked", validate_content=validate_content)
    assert container.download_blob("b", validate_content=validate_content).readall() == b"checked"


@pytest.mark.parametrize("validate_content", [True, "md5"])
async def test_md5_validation_passes_over_the_async_transport(validate_content: Any, acontainer: Any) -> None:
    await acontainer.upload_blob("b", b"checked", validate_content=validate_content)
    stream = await acontainer.download_blob("b", validate_content=validate_content)
    assert await stream.readall() == b"checked"


def test_an_error_to_a_streamed_request_is_read_by_the_sdk(container: Any) -> None:
    container.upload_blob("b", b"0123456789")
    with pytest.raises(HttpResponseError) as caught:
        container.download_blob("b", offset=100, length=5).readall()
    assert caught.value.error_code == "InvalidRange"
    assert caught.value.status_code == 416
