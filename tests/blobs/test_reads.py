"""Get Blob and its ranges, HEAD, error bodies. Source: Azure REST, "Get Blob"; ecosystem.md §1.4, §1.5."""

from __future__ import annotations

import base64
import hashlib
import logging

import pytest

BODY = bytes(range(256)) * 8


@pytest.fixture
async def blob(call):
    await call.put("/con/b", BODY)
    await call.put("/con/empty", b"")
    return call


@pytest.mark.parametrize(
    ("text", "expected", "content_range"),
    [
        ("bytes=0-0", BODY[:1], "bytes 0-0/2048"),
        ("bytes=0-", BODY, "bytes 0-2047/2048"),
        ("bytes=2047-", BODY[-1:], "bytes 2047-2047/2048"),
        ("bytes=10-19", BODY[10:20], "bytes 10-19/2048"),
        ("bytes=2000-9999999999", BODY[2000:], "bytes 2000-2047/2048"),
        ("bytes=0-33554431", BODY, "bytes 0-2047/2048"),
    ],
)
async def test_a_range_is_answered_206_with_content_range(blob, text, expected, content_range):
    for name in ("range", "x-ms-range"):
        got = await blob("GET", "/con/b", {name: text})
        assert (got.status, got.body, got.fields.get("content-range")) == (206, expected, content_range)
        assert "content-md5" not in got.fields
        assert got.fields.get("x-ms-blob-content-md5") == base64.b64encode(hashlib.md5(BODY).digest()).decode()


async def test_the_azure_range_header_wins(blob):
    assert (await blob("GET", "/con/b", {"range": "bytes=0-0", "x-ms-range": "bytes=1-1"})).body == BODY[1:2]


@pytest.mark.parametrize("text", ["bytes=5", "bytes=9-5", "chunks=1-2", "bytes=-5", "bytes=0-1,3-4", "x"])
async def test_a_range_that_cannot_be_read_is_ignored(blob, text):
    got = await blob("GET", "/con/b", {"range": text})
    assert (got.status, got.body) == (200, BODY)


async def test_a_range_past_the_end_is_416(blob):
    got = await blob("GET", "/con/b", {"range": "bytes=2048-"})
    assert (got.status, got.code, got.fields.get("content-range")) == (416, "InvalidRange", "bytes */2048")


async def test_any_range_of_an_empty_blob_is_416_and_a_plain_read_is_200(blob):
    assert (await blob("GET", "/con/empty", {"x-ms-range": "bytes=0-33554431"})).code == "InvalidRange"
    got = await blob("GET", "/con/empty")
    assert (got.status, got.body) == (200, b"")


async def test_a_range_checksum_covers_the_range(blob):
    fields = {"x-ms-range": "bytes=5-99", "x-ms-range-get-content-md5": "true"}
    got = await blob("GET", "/con/b", fields)
    assert got.fields.get("content-md5") == base64.b64encode(hashlib.md5(BODY[5:100]).digest()).decode()
    fields = {"x-ms-range": "bytes=5-99", "x-ms-range-get-content-crc64": "true"}
    assert "x-ms-content-crc64" in (await blob("GET", "/con/b", fields)).fields
    assert (await blob("GET", "/con/b", {"x-ms-range-get-content-md5": "true"})).code == "MissingRequiredHeader"


async def test_a_range_checksum_is_refused_past_four_mebibytes(call):
    await call.put("/con/b", bytes((4 << 20) + 1))
    fields = {"x-ms-range": "bytes=0-", "x-ms-range-get-content-md5": "true"}
    assert (await call("GET", "/con/b", fields)).code == "OutOfRangeInput"
    fields["x-ms-range"] = "bytes=0-4194303"
    assert (await call("GET", "/con/b", fields)).status == 206
    assert call.service._store.extents._pins == {}


async def test_head_carries_the_error_in_a_field_only(blob):
    got = await blob("HEAD", "/con/none")
    assert (got.status, got.code, got.body) == (404, "BlobNotFound", b"")
    got = await blob("HEAD", "/none/none")
    assert (got.status, got.code) == (404, "ContainerNotFound")


async def test_any_version_is_accepted_and_echoed_with_the_client_request_id(blob):
    got = await blob("GET", "/con/b", {"x-ms-version": "2031-01-01", "x-ms-client-request-id": "mine"})
    assert got.fields.get("x-ms-version") == "2031-01-01"
    assert got.fields.get("x-ms-client-request-id") == "mine"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PATCH", "/con/b"),
        ("PUT", "/con/b?comp=page"),
        ("GET", "/con/b?versionid=x"),
        ("POST", "/con/b?comp=query"),
        ("PUT", "/?restype=service&comp=properties"),
        ("GET", "/con?restype=container&comp=acl"),
        ("BREW", "/con?restype=coffee&comp=pot"),
    ],
)
async def test_what_is_not_implemented_answers_501_with_its_code(blob, method, target):
    got = await blob(method, target)
    assert (got.status, got.code) == (501, "NotImplemented")


async def test_a_bug_in_a_handler_is_500_and_logged_with_its_traceback(blob, monkeypatch, caplog):
    from pvblob.blobs import service

    def broken(store, call):
        raise KeyError("a bug")

    monkeypatch.setitem(service.OPERATIONS, ("GET", "blob", None, None), service.Operation(broken))
    with caplog.at_level(logging.ERROR):
        got = await blob("GET", "/con/b")
    assert (got.status, got.code) == (500, "InternalError")
    assert "KeyError: 'a bug'" in caplog.text


async def test_a_many_block_blob_reads_any_range(call):
    import random

    random.seed(7)
    sizes = [random.randrange(1, 400) for _ in range(300)]
    whole = b""
    names = []
    for number, size in enumerate(sizes):
        name = base64.b64encode(b"%05d" % number).decode()
        piece = random.randbytes(size)
        await call("PUT", f"/con/m?comp=block&blockid={name}", {}, piece)
        whole += piece
        names.append(name)
    xml = "<BlockList>" + "".join(f"<Latest>{name}</Latest>" for name in names) + "</BlockList>"
    assert (await call("PUT", "/con/m?comp=blocklist", {}, xml.encode())).status == 201
    for _ in range(200):
        first = random.randrange(len(whole))
        last = random.randrange(first, len(whole) + 50)
        got = await call("GET", "/con/m", {"range": f"bytes={first}-{last}"})
        assert got.body == whole[first : last + 1]
    assert (await call("GET", "/con/m")).body == whole
    assert call.service._store.extents._pins == {}
