"""Put Blob, Put Block, Put Block List, Get Block List. Source: Azure REST, the pages of these names."""

from __future__ import annotations

import base64
import hashlib

import pytest


def block_id(number: int, width: int = 6) -> str:
    return base64.b64encode(f"{number:0{width}d}".encode()).decode()


def block_list(*entries: tuple[str, str]) -> bytes:
    inner = "".join(f"<{kind}>{name}</{kind}>" for kind, name in entries)
    return f'<?xml version="1.0" encoding="utf-8"?><BlockList>{inner}</BlockList>'.encode()


async def stage(call, target: str, number: int, body: bytes, width: int = 6):
    quoted = block_id(number, width).replace("=", "%3D").replace("+", "%2B")
    return await call("PUT", f"{target}?comp=block&blockid={quoted}", {}, body)


async def test_a_blob_reads_back_as_it_was_put(call):
    body = bytes(range(256)) * 40
    put = await call.put("/con/a/b%20c", body, x_ms_meta_Name="Value", content_type="text/x", x_ms_access_tier="cool")
    assert put.status == 201
    assert put.fields.get("content-md5") == base64.b64encode(hashlib.md5(body).digest()).decode()
    got = await call("GET", "/con/a/b%20c")
    assert (got.status, got.body, got.etag) == (200, body, put.etag)
    assert got.fields.get("content-md5") == put.fields.get("content-md5")
    assert got.fields.get("x-ms-meta-name") == "Value"
    assert got.fields.get("content-type") == "text/x"
    head = await call("HEAD", "/con/a/b%20c")
    assert (head.status, head.body) == (200, b"")
    assert head.fields.get("content-length") == str(len(body))
    assert head.fields.get("x-ms-access-tier") == "Cool"
    assert head.fields.get("x-ms-blob-type") == "BlockBlob"


async def test_every_write_gets_an_etag_of_its_own(call):
    etags = {(await call.put("/con/b", b"same")).etag for _ in range(50)}
    assert len(etags) == 50


async def test_an_overwrite_keeps_the_creation_time_and_drops_the_old_metadata(call):
    await call.put("/con/b", b"one", x_ms_meta_a="1")
    before = await call("HEAD", "/con/b")
    await call.put("/con/b", b"two")
    after = await call("GET", "/con/b")
    assert after.body == b"two"
    assert after.fields.get("x-ms-creation-time") == before.fields.get("x-ms-creation-time")
    assert "x-ms-meta-a" not in after.fields


async def test_checksums_are_those_the_field_prescribes(call):
    put = await call.put("/con/b", b"123456789")
    # CRC-64/NVME of the check string, little-endian.
    expected = base64.b64encode((0xAE8B14860A799888).to_bytes(8, "little")).decode()
    assert put.fields.get("x-ms-content-crc64") == expected
    staged = await stage(call, "/con/c", 1, b"123456789")
    assert staged.fields.get("x-ms-content-crc64") == expected
    assert "content-md5" not in staged.fields


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"content-md5": base64.b64encode(bytes(16)).decode()}, "Md5Mismatch"),
        ({"content-md5": "not base64"}, "InvalidMd5"),
        ({"x-ms-content-crc64": "AAAAAAAAAAA="}, "Crc64Mismatch"),
        ({"x-ms-structured-body": "XSM/2.0; properties=crc64"}, "InvalidHeaderValue"),
        ({"x-ms-tags": "=b"}, "InvalidTags"),
        ({"x-ms-blob-type": "PageBlob"}, "NotImplemented"),
        ({"x-ms-access-tier": "Lukewarm"}, "InvalidHeaderValue"),
        ({"x-ms-meta-a-b": "1"}, "InvalidMetadata"),
        ({"x-ms-meta-": "1"}, "EmptyMetadataKey"),
        ({"x-ms-meta-a": "x" * 9000}, "MetadataTooLarge"),
        ({"x-ms-meta-a": "x\r\ny: z"}, "InvalidMetadata"),
        ({"x-ms-blob-content-md5": "AAAA"}, "InvalidMd5"),
    ],
)
async def test_a_put_that_must_be_refused_stores_nothing(call, fields, code):
    refused = await call("PUT", "/con/b", {"x-ms-blob-type": "BlockBlob", **fields}, b"body")
    assert refused.code == code
    assert refused.xml.findtext("Code") == code
    assert (await call("GET", "/con/b")).code == "BlobNotFound"
    used, free = call.service._store.extents.usage()
    assert used == free


async def test_a_stored_md5_may_be_the_callers_own(call):
    claimed = base64.b64encode(b"0123456789abcdef").decode()
    await call.put("/con/b", b"body", x_ms_blob_content_md5=claimed)
    assert (await call("GET", "/con/b")).fields.get("content-md5") == claimed


async def test_blocks_become_a_blob_only_when_they_are_listed(call):
    for number in range(3):
        assert (await stage(call, "/con/b", number, b"%d" % number * 1000)).status == 201
    assert (await call("GET", "/con/b")).code == "BlobNotFound"
    listed = await call("GET", "/con/b?comp=blocklist&blocklisttype=all")
    assert [e.text for e in listed.xml.findall("UncommittedBlocks/Block/Size")] == ["1000"] * 3
    body = block_list(("Latest", block_id(2)), ("Uncommitted", block_id(0)))
    put = await call("PUT", "/con/b?comp=blocklist", {"x-ms-blob-content-type": "a/b"}, body)
    assert put.status == 201
    got = await call("GET", "/con/b")
    assert got.body == b"2" * 1000 + b"0" * 1000
    assert got.fields.get("content-type") == "a/b"
    listed = await call("GET", "/con/b?comp=blocklist&blocklisttype=all")
    assert [e.text for e in listed.xml.findall("CommittedBlocks/Block/Name")] == [block_id(2), block_id(0)]
    assert listed.xml.findall("UncommittedBlocks/Block") == []
    assert listed.etag == put.etag


async def test_a_block_list_can_keep_committed_blocks_and_repeat_them(call):
    for number in range(2):
        await stage(call, "/con/b", number, b"%d" % number * 10)
    await call("PUT", "/con/b?comp=blocklist", {}, block_list(("Latest", block_id(0)), ("Latest", block_id(1))))
    await stage(call, "/con/b", 0, b"x" * 10)
    entries = [("Committed", block_id(0)), ("Latest", block_id(0)), ("Committed", block_id(0)), ("Latest", block_id(1))]
    assert (await call("PUT", "/con/b?comp=blocklist", {}, block_list(*entries))).status == 201
    assert (await call("GET", "/con/b")).body == b"0" * 10 + b"x" * 10 + b"0" * 10 + b"1" * 10
    assert (await call("PUT", "/con/b?comp=blocklist", {}, block_list())).status == 201
    assert (await call("GET", "/con/b")).body == b""
    used, free = call.service._store.extents.usage()
    assert used == free


async def test_a_put_blob_discards_uncommitted_blocks(call):
    await stage(call, "/con/b", 0, b"0")
    await call.put("/con/b", b"whole")
    assert (
        await call("PUT", "/con/b?comp=blocklist", {}, block_list(("Latest", block_id(0))))
    ).code == "InvalidBlockList"
    assert (await call("GET", "/con/b")).body == b"whole"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (block_list(("Latest", "bm9uZQ==")), "InvalidBlockList"),
        (block_list(("Committed", block_id(1))), "InvalidBlockList"),
        (block_list(("Latest", "%%%")), "InvalidBlockId"),
        (block_list(("Latest", "")), "InvalidBlockId"),
        (block_list(("Newest", block_id(1))), "InvalidXmlDocument"),
        (b"<BlockList><Latest>", "InvalidXmlDocument"),
        (b"", "InvalidXmlDocument"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><BlockList><Latest>&a;</Latest></BlockList>', "InvalidXmlDocument"),
        (block_list(*[("Latest", block_id(1))] * 50_001), "BlockListTooLong"),
    ],
)
async def test_a_block_list_that_cannot_be_is_refused_and_keeps_the_blocks(call, body, code):
    await stage(call, "/con/b", 1, b"1")
    refused = await call("PUT", "/con/b?comp=blocklist", {}, body)
    assert (refused.status, refused.code) == (400, code)
    assert (await call("PUT", "/con/b?comp=blocklist", {}, block_list(("Latest", block_id(1))))).status == 201


async def test_block_ids_of_a_blob_have_one_length(call):
    await stage(call, "/con/b", 1, b"1")
    assert (await stage(call, "/con/b", 1, b"1", width=7)).code == "InvalidBlobOrBlock"
    assert (await stage(call, "/con/other", 1, b"1", width=7)).status == 201


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("comp=block", "MissingRequiredQueryParameter"),
        ("comp=block&blockid=%25%25", "InvalidBlockId"),
        (f"comp=block&blockid={'A' * 120}", "InvalidBlockId"),
    ],
)
async def test_a_block_without_a_usable_id_is_refused(call, query, code):
    assert (await call("PUT", f"/con/b?{query}", {}, b"1")).code == code


async def test_an_empty_block_is_refused(call):
    assert (await stage(call, "/con/b", 1, b"")).code == "InvalidHeaderValue"


async def test_a_block_is_replaced_by_one_of_the_same_id(call):
    await stage(call, "/con/b", 1, b"old")
    await stage(call, "/con/b", 1, b"new!")
    await call("PUT", "/con/b?comp=blocklist", {}, block_list(("Latest", block_id(1))))
    assert (await call("GET", "/con/b")).body == b"new!"


async def test_writes_to_a_missing_container_are_refused(call):
    assert (await call.put("/none/b", b"1")).code == "ContainerNotFound"
    assert (await stage(call, "/none/b", 1, b"1")).code == "ContainerNotFound"
    assert (await call("PUT", "/none/b?comp=blocklist", {}, block_list())).code == "ContainerNotFound"


async def test_a_block_id_may_hold_a_plus_that_nobody_escaped(call):
    text = base64.b64encode(b"\xfb\xef\xbe").decode()
    assert "+" in text
    assert (await call("PUT", f"/con/b?comp=block&blockid={text}", {}, b"1")).status == 201
    assert (await call("PUT", "/con/b?comp=blocklist", {}, block_list(("Latest", text)))).status == 201


async def test_properties_metadata_and_tier_change_without_the_bytes(call):
    first = await call.put("/con/b", b"body", content_type="a/b", x_ms_meta_a="1")
    changed = await call("PUT", "/con/b?comp=metadata", {"x-ms-meta-B": "2"})
    assert changed.status == 200
    assert changed.etag != first.etag
    got = await call("GET", "/con/b?comp=metadata")
    assert got.fields.get("x-ms-meta-b") == "2"
    assert "x-ms-meta-a" not in got.fields
    settings = {"x-ms-blob-cache-control": "no-store"}
    assert (await call("PUT", "/con/b?comp=properties", settings)).status == 200
    head = await call("HEAD", "/con/b")
    assert head.fields.get("cache-control") == "no-store"
    assert head.fields.get("content-type") == "application/octet-stream"
    assert "content-md5" not in head.fields
    assert (await call("PUT", "/con/b?comp=tier", {"x-ms-access-tier": "Cool"})).status == 200
    after = await call("HEAD", "/con/b")
    assert after.etag == head.etag
    assert after.fields.get("x-ms-access-tier") == "Cool"
    assert "x-ms-access-tier-change-time" in after.fields
    assert (await call("GET", "/con/b")).body == b"body"


async def test_a_deleted_blob_is_gone_with_its_blocks(call):
    await call.put("/con/b", b"body")
    await stage(call, "/con/b", 1, b"1")
    assert (await call("DELETE", "/con/b", {"x-ms-delete-snapshots": "only"})).status == 202
    assert (await call("GET", "/con/b")).status == 200
    assert (await call("DELETE", "/con/b", {"x-ms-delete-snapshots": "include"})).status == 202
    assert (await call("DELETE", "/con/b")).code == "BlobNotFound"
    assert (await call("GET", "/con/b?comp=blocklist")).code == "BlobNotFound"
    assert (await call("DELETE", "/con/b", {"x-ms-delete-snapshots": "all"})).code == "InvalidHeaderValue"
