"""Copy Blob within an account. Source: Azure REST, "Copy Blob"."""

from __future__ import annotations

import pytest

HERE = "https://acct.blob.core.windows.net"


async def test_a_copy_is_complete_at_once_and_outlives_its_source(call):
    await call.put("/con/a", b"body" * 1000, content_type="x/y", x_ms_meta_k="v")
    got = await call("PUT", "/con/b", {"x-ms-copy-source": f"{HERE}/con/a?sig=secret"})
    assert (got.status, got.fields.get("x-ms-copy-status")) == (202, "success")
    await call.put("/con/a", b"other")
    await call("DELETE", "/con/a")
    copy = await call("GET", "/con/b")
    assert (copy.body, copy.fields.get("content-type"), copy.fields.get("x-ms-meta-k")) == (b"body" * 1000, "x/y", "v")
    assert copy.fields.get("x-ms-copy-source") == f"{HERE}/con/a"
    assert copy.fields.get("x-ms-copy-progress") == "4000/4000"


async def test_a_copy_of_blocks_keeps_the_block_list(call):
    for name in ("AAAA", "BBBB"):
        await call("PUT", f"/con/a?comp=block&blockid={name}", {}, name.encode())
    await call("PUT", "/con/a?comp=blocklist", {}, b"<BlockList><Latest>AAAA</Latest><Latest>BBBB</Latest></BlockList>")
    assert (await call("PUT", "/con/b", {"x-ms-copy-source": f"{HERE}/con/a", "x-ms-meta-n": "1"})).status == 202
    listed = await call("GET", "/con/b?comp=blocklist")
    assert [e.text for e in listed.xml.findall("CommittedBlocks/Block/Name")] == ["AAAA", "BBBB"]
    got = await call("GET", "/con/b")
    assert (got.body, got.fields.get("x-ms-meta-n")) == (b"AAAABBBB", "1")


async def test_a_copy_onto_itself_and_of_an_empty_blob_work(call):
    await call.put("/con/a", b"body")
    assert (await call("PUT", "/con/a", {"x-ms-copy-source": f"{HERE}/con/a"})).status == 202
    assert (await call("GET", "/con/a")).body == b"body"
    await call.put("/con/e", b"")
    assert (await call("PUT", "/con/f", {"x-ms-copy-source": f"{HERE}/con/e"})).status == 202
    assert (await call("GET", "/con/f")).body == b""


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"x-ms-copy-source": f"{HERE}/con/none"}, "CannotVerifyCopySource"),
        ({"x-ms-copy-source": f"{HERE}/none/a"}, "CannotVerifyCopySource"),
        ({"x-ms-copy-source": "https://other.blob.core.windows.net/con/a"}, "NotImplemented"),
        ({"x-ms-copy-source": "/con/a"}, "InvalidHeaderValue"),
        ({"x-ms-copy-source": f"{HERE}/Bad/a"}, "InvalidHeaderValue"),
        ({"x-ms-copy-source": f"{HERE}/con/a", "x-ms-source-if-match": '"0x1"'}, "SourceConditionNotMet"),
        ({"x-ms-copy-source": f"{HERE}/con/a", "if-match": '"0x1"'}, "ConditionNotMet"),
        ({"x-ms-copy-source": f"{HERE}/con/a", "if-none-match": "*"}, "BlobAlreadyExists"),
    ],
)
async def test_a_copy_that_cannot_be_is_refused(call, fields, code):
    await call.put("/con/a", b"source")
    await call.put("/con/b", b"target")
    assert (await call("PUT", "/con/b", fields)).code == code
    assert (await call("GET", "/con/b")).body == b"target"
