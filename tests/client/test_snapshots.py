"""Snapshots by the clients' handles, over a real channel. Source: Azure REST, "Snapshot Blob"."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

import pvblob
from pvblob import AsyncClient, Client


def test_a_snapshot_is_read_in_every_way_as_the_blob_was(client: Client) -> None:
    blob = client.container("things").blob("b ä")
    old, new = b"old" * 100_000, b"new"
    etag = blob.put(old, metadata={"v": "1"}).etag
    moment = blob.snapshot()
    blob.put(new)
    before = blob.at(moment)
    for _ in range(2):  # the second time by what was learnt
        assert before.get() == old
        assert before.get(offset=3, length=5) == old[3:8]
        assert bytes(before.view(offset=1, length=7)) == old[1:8]
        into = bytearray(9)
        assert before.read_into(into, 6).size_bytes == len(old)
        assert into == old[6:15]
        assert (before.stat().etag, before.stat().metadata) == (etag, {"v": "1"})
        assert blob.get() == new
        assert blob.get(length=2) == b"ne"


def test_snapshots_are_listed_of_one_blob_alone_and_oldest_first(client: Client) -> None:
    container = client.container("things")
    blob, longer = container.blob("a"), container.blob("a0")
    moments = []
    for number in range(3):
        blob.put(b"x" * number)
        moments.append(blob.snapshot({"number": str(number)}))
    longer.put(b"")
    longer.snapshot()
    shown = list(blob.snapshots())
    assert [entry.snapshot for entry in shown] == moments == sorted(moments)
    assert [(entry.size_bytes, entry.metadata["number"]) for entry in shown] == [(0, "0"), (1, "1"), (2, "2")]
    assert [entry.snapshot for entry in client.list("things")] == [None, None]


def test_a_blob_is_made_again_what_it_was(client: Client) -> None:
    blob = client.container("things").blob("b")
    blob.put(b"good", metadata={"v": "1"}, content_type="text/plain")
    moment = blob.snapshot()
    blob.put(b"bad")
    blob.restore(moment)
    assert (blob.get(), blob.stat().metadata, blob.stat().content_type) == (b"good", {"v": "1"}, "text/plain")
    assert [entry.snapshot for entry in blob.snapshots()] == [moment]


def test_a_snapshot_is_deleted_alone_and_a_blob_with_its_snapshots(client: Client) -> None:
    blob = client.container("things").blob("b")
    blob.put(b"1")
    first, second = blob.snapshot(), blob.snapshot()
    assert blob.at(first).delete()
    with pytest.raises(pvblob.NotFound):
        blob.at(first).get()
    assert not blob.at(first).delete(missing_ok=True)
    assert [entry.snapshot for entry in blob.snapshots()] == [second]
    assert blob.get() == b"1"
    assert blob.delete()
    assert list(blob.snapshots()) == []
    with pytest.raises(pvblob.NotFound):
        blob.snapshot()


def test_what_was_is_not_written_to(client: Client) -> None:
    blob = client.container("things").blob("b")
    blob.put(b"1")
    before = blob.at(blob.snapshot())
    for change in (
        lambda: before.put(b"2"),
        lambda: before.put(b"2" * (20 << 20)),
        lambda: before.append(b"2"),
        before.snapshot,
        before.lease,
    ):
        with pytest.raises(pvblob.BlobError, match="InvalidQueryParameterValue"):
            change()
    assert blob.get() == before.get() == b"1"
    with pytest.raises(pvblob.BlobError, match="InvalidQueryParameterValue"):
        blob.at("yesterday").get()


def test_a_handle_of_a_snapshot_pickles(client: Client) -> None:
    blob = client.container("things").blob("b")
    blob.put(b"1")
    before = blob.at(blob.snapshot())
    blob.put(b"22")
    restored = pickle.loads(pickle.dumps(before))
    with restored.client:
        assert restored.get() == b"1"


async def test_async_handles_have_snapshots_too(live_host: Any) -> None:
    async with await AsyncClient.connect(live_host.socket_path) as client:
        container = client.container("things")
        await container.create()
        blob = container.blob("b")
        await blob.put(b"1")
        moment = await blob.snapshot({"why": "kept"})
        await blob.put(b"2")
        assert [entry.metadata async for entry in blob.snapshots()] == [{"why": "kept"}]
        assert await blob.at(moment).get(length=1) == b"1"
        await blob.restore(moment)
        assert await blob.get() == b"1"
        assert await blob.at(moment).delete()
