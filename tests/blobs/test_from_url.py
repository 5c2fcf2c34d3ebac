"""Put Block From URL and Put Blob From URL within an account. Source: the pages of Azure REST of that name."""

from __future__ import annotations

import base64
import hashlib
import os

import pytest

HERE = "https://acct.blob.core.windows.net"
SOURCE = "x-ms-copy-source"


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


async def put_blocks(call, target: str, *parts: bytes) -> bytes:
    ids = [f"{number:04}" for number in range(len(parts))]
    for block_id, part in zip(ids, parts, strict=True):
        assert (await call("PUT", f"{target}?comp=block&blockid={block_id}", {}, part)).status == 201
    listed = "".join(f"<Latest>{block_id}</Latest>" for block_id in ids)
    body = f"<BlockList>{listed}</BlockList>".encode()
    assert (await call("PUT", f"{target}?comp=blocklist", {}, body)).status == 201
    return b"".join(parts)


async def stage(call, block_id: str, **fields: str):
    head = {SOURCE: f"{HERE}/con/a", **{name.replace("_", "-"): value for name, value in fields.items()}}
    return await call("PUT", f"/con/b?comp=block&blockid={block_id}", head)


async def test_blocks_from_ranges_of_a_blob_make_a_new_one_that_outlives_it(call):
    data = await put_blocks(call, "/con/a", os.urandom(1000), os.urandom(5 << 20), b"end")
    across = await stage(call, "AAAA", x_ms_source_range="bytes=500-5242979")
    assert across.status == 201
    assert across.fields.get("x-ms-content-crc64")
    tail = await stage(call, "BBBB", x_ms_source_range="bytes=5242980-", x_ms_source_content_md5=md5(data[5242980:]))
    assert (tail.status, tail.fields.get("content-md5")) == (201, md5(data[5242980:]))
    assert (await call("DELETE", "/con/a")).status == 202
    listed = b"<BlockList><Latest>AAAA</Latest><Latest>BBBB</Latest></BlockList>"
    assert (await call("PUT", "/con/b?comp=blocklist", {}, listed)).status == 201
    assert (await call("GET", "/con/b")).body == data[500:]


async def test_the_checksum_answered_is_that_of_the_bytes_a_body_would_have_brought(call):
    data = await put_blocks(call, "/con/a", b"x" * 70, b"y" * 30)
    sent = await call("PUT", "/con/c?comp=block&blockid=AAAA", {}, data[60:80])
    copied = await stage(call, "AAAA", x_ms_source_range="bytes=60-79")
    assert copied.fields.get("x-ms-content-crc64") == sent.fields.get("x-ms-content-crc64")
    right = sent.fields.get("x-ms-content-crc64")
    assert (await stage(call, "AAAA", x_ms_source_range="bytes=60-79", x_ms_source_content_crc64=right)).status == 201


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"x-ms-source-range": "bytes=100-"}, "InvalidRange"),
        ({"x-ms-source-range": "items=1-2"}, "InvalidHeaderValue"),
        ({"x-ms-source-content-md5": md5(b"other")}, "Md5Mismatch"),
        ({"x-ms-source-content-crc64": "AAAAAAAAAAA="}, "Crc64Mismatch"),
        ({"x-ms-source-if-match": '"0x1"'}, "SourceConditionNotMet"),
        ({SOURCE: f"{HERE}/con/none"}, "CannotVerifyCopySource"),
        ({SOURCE: "https://other.blob.core.windows.net/con/a"}, "NotImplemented"),
        ({"x-ms-structured-body": "XSM/1.0; properties=crc64"}, "UnsupportedHeader"),
    ],
)
async def test_a_block_that_cannot_come_from_its_source_is_refused_and_leaves_nothing(call, fields, code):
    await call.put("/con/a", b"s" * 100)
    target = "/con/b?comp=block&blockid=AAAA"
    assert (await call("PUT", target, {SOURCE: f"{HERE}/con/a", **fields})).code == code
    assert (await call("GET", "/con/b?comp=blocklist&blocklisttype=all")).code == "BlobNotFound"


async def test_a_write_from_a_url_has_no_body(call):
    await call.put("/con/a", b"source")
    assert (await call("PUT", "/con/b?comp=block&blockid=AAAA", {SOURCE: f"{HERE}/con/a"}, b"x")).code == "InvalidInput"
    assert (await call.put("/con/b", b"x", x_ms_copy_source=f"{HERE}/con/a")).code == "InvalidInput"


async def test_a_blob_from_a_url_takes_the_sources_settings_and_its_own_metadata(call):
    data = await put_blocks(call, "/con/a", b"one", b"two")
    await call("PUT", "/con/a?comp=properties", {"x-ms-blob-content-type": "x/y", "x-ms-blob-cache-control": "no"})
    await call("PUT", "/con/a?comp=metadata", {"x-ms-meta-k": "v"})
    fields = {"x_ms_blob_content_type": "text/plain", "x_ms_meta_own": "1"}
    made = await call.put("/con/b", x_ms_copy_source=f"{HERE}/con/a", **fields)
    assert (made.status, made.fields.get("content-md5")) == (201, md5(data))
    got = await call("GET", "/con/b")
    assert (got.body, got.etag, got.fields.get("content-md5")) == (data, made.etag, md5(data))
    assert (got.fields.get("content-type"), got.fields.get("cache-control")) == ("text/plain", "no")
    assert (got.fields.get("x-ms-meta-k"), got.fields.get("x-ms-meta-own")) == (None, "1")
    assert got.fields.get("x-ms-copy-id") is None


async def test_a_blob_from_a_url_can_leave_the_sources_settings_behind(call):
    await call.put("/con/a", b"", content_type="x/y")
    made = await call.put("/con/b", x_ms_copy_source=f"{HERE}/con/a", x_ms_copy_source_blob_properties="false")
    assert made.status == 201
    got = await call("GET", "/con/b")
    assert (got.body, got.fields.get("content-type")) == (b"", "application/octet-stream")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"if-none-match": "*"}, "BlobAlreadyExists"),
        ({"if-match": '"0x1"'}, "ConditionNotMet"),
        ({"x-ms-source-if-none-match": "*"}, "SourceConditionNotMet"),
        ({"x-ms-source-content-md5": md5(b"other")}, "Md5Mismatch"),
        ({"x-ms-blob-type": "PageBlob"}, "NotImplemented"),
    ],
)
async def test_a_blob_that_cannot_come_from_its_source_is_refused_and_changes_nothing(call, fields, code):
    await call.put("/con/a", b"source")
    await call.put("/con/b", b"target")
    head = {"x-ms-blob-type": "BlockBlob", SOURCE: f"{HERE}/con/a", **fields}
    assert (await call("PUT", "/con/b", head)).code == code
    assert (await call("GET", "/con/b")).body == b"target"
