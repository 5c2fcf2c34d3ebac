"""Containers and the account level. Source: Azure REST, "Operations on containers", "Operations on the account"."""

from __future__ import annotations

import pytest


async def test_a_container_lives_from_create_to_delete(call):
    made = await call("PUT", "/box?restype=container", {"x-ms-meta-A": "1", "x-ms-blob-public-access": "blob"})
    assert made.status == 201
    assert (await call("PUT", "/box?restype=container")).code == "ContainerAlreadyExists"
    for method in ("GET", "HEAD"):
        got = await call(method, "/box?restype=container")
        assert (got.status, got.etag, got.fields.get("x-ms-meta-a")) == (200, made.etag, "1")
        assert got.fields.get("x-ms-blob-public-access") == "blob"
    assert (await call("DELETE", "/box?restype=container")).status == 202
    assert (await call("DELETE", "/box?restype=container")).code == "ContainerNotFound"
    assert (await call("GET", "/box?restype=container")).code == "ContainerNotFound"


async def test_container_metadata_is_replaced_whole(call):
    before = await call("PUT", "/con?restype=container&comp=metadata", {"x-ms-meta-a": "1", "x-ms-meta-b": "2"})
    after = await call("PUT", "/con?restype=container&comp=metadata", {"x-ms-meta-c": "3"})
    assert before.etag != after.etag
    got = await call("HEAD", "/con?restype=container&comp=metadata")
    assert [name for name, _ in got.fields if name.startswith("x-ms-meta-")] == ["x-ms-meta-c"]


async def test_a_deleted_container_takes_its_blobs_along_and_gives_their_space_back(call):
    for number in range(30):
        await call.put(f"/con/{number}", b"x" * 1000)
    assert (await call("GET", "/con/3")).status == 200
    await call("DELETE", "/con?restype=container")
    assert (await call("GET", "/con/3")).code == "ContainerNotFound"
    assert (await call.put("/con/3", b"1")).code == "ContainerNotFound"
    await call.make("con")
    assert (await call("GET", "/con/3")).code == "BlobNotFound"
    assert (await call("GET", "/con?restype=container&comp=list")).xml.findall("Blobs/Blob") == []
    call.service.close()
    call.service.open()
    # The committer reclaims while nothing is queued.
    committer = call.service._store.committer
    while call.service._store.reader.execute("SELECT count(*) FROM containers WHERE deleted = 1").fetchone() != (0,):
        assert committer._thread.is_alive()
    used, free = call.service._store.extents.usage()
    assert used == free


async def test_containers_are_listed_by_name_in_pages(call):
    for name in ("bbb", "aaa", "abc", "zzz"):
        await call.make(name)
    seen, marker = [], ""
    while True:
        page = (await call("GET", f"/?comp=list&maxresults=2&marker={marker}")).xml
        seen += [e.text for e in page.findall("Containers/Container/Name")]
        marker = page.findtext("NextMarker") or ""
        if not marker:
            break
    assert seen == ["aaa", "abc", "bbb", "con", "zzz"]
    page = (await call("GET", "/?comp=list&prefix=a&include=metadata")).xml
    assert [e.text for e in page.findall("Containers/Container/Name")] == ["aaa", "abc"]


async def test_accounts_do_not_see_each_other(call):
    await call.put("/con/b", b"1")
    other = "other.blob.core.windows.net"
    assert (await call("GET", "/con/b", authority=other)).code == "ContainerNotFound"
    assert (await call("GET", "/?comp=list", authority=other)).xml.findall("Containers/Container") == []


@pytest.mark.parametrize("target", ["/?restype=service&comp=properties", "/?restype=account&comp=properties"])
async def test_the_account_answers_what_clients_probe(call, target):
    assert (await call("GET", target)).status == 200
