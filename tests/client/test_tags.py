"""Tags by the clients, over a real channel. Source: Azure REST, "Set Blob Tags", "Find Blobs by Tags"."""

from __future__ import annotations

from typing import Any

import pytest

import pvblob
from pvblob import AsyncClient, Client, FoundBlob


def test_tags_are_replaced_whole_and_change_no_etag(client: Client) -> None:
    blob = client.container("things").blob("b")
    blob.put(b"x")
    etag = blob.stat().etag
    assert blob.tags() == {}
    blob.set_tags({"project": "a/b + c", "year": "2026"})
    assert blob.tags() == {"project": "a/b + c", "year": "2026"}
    blob.set_tags({"year": ""})
    assert blob.tags() == {"year": ""}
    assert blob.stat().etag == etag


def test_what_tags_cannot_be_is_the_service_s_answer(client: Client) -> None:
    blob = client.container("things").blob("b")
    with pytest.raises(pvblob.NotFound):
        blob.set_tags({"a": "1"})
    blob.put(b"x")
    with pytest.raises(pvblob.BlobError, match="InvalidTags"):
        blob.set_tags({"a<b&": "<&>"})
    with pytest.raises(pvblob.BlobError, match="InvalidTags"):
        blob.set_tags({str(number): "" for number in range(11)})
    assert blob.tags() == {}


def test_blobs_are_found_by_their_tags_in_one_container_or_in_all(either: Any, live_host: Any) -> None:
    either.create_container("others")
    with Client.connect(live_host.socket_path) as writer:
        for container in ("things", "others"):
            for number in range(3):
                blob = writer.container(container).blob(f"b{number}")
                blob.put(b"x")
                blob.set_tags({"number": str(number), "kind": "test"})
    found = [
        FoundBlob(container, f"b{number}", {"number": str(number)})
        for container in ("others", "things")
        for number in (1, 2)
    ]
    assert list(either.find("\"number\" >= '1'")) == found
    assert list(either.find("\"number\" >= '1'", "things")) == found[2:]
    assert list(either.find("\"number\" = '7'")) == []
    with pytest.raises(pvblob.BlobError, match="InvalidQueryParameterValue"):
        list(either.find("number is 7"))


async def test_async_handles_have_tags_and_find_too(live_host: Any) -> None:
    async with await AsyncClient.connect(live_host.socket_path) as client:
        container = client.container("things")
        await container.create()
        blob = container.blob("b")
        await blob.put(b"x")
        await blob.set_tags({"a": "1"})
        assert await blob.tags() == {"a": "1"}
        assert [found.name async for found in container.find("\"a\" = '1'")] == ["b"]


def test_a_search_in_a_container_that_is_not_there_says_so(client: Client) -> None:
    with pytest.raises(pvblob.NotFound):
        list(client.container("nowhere").find("\"a\" = '1'"))
