"""Group commit, cancellation and failing disks: design rules 4, 5, 9."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from pvblob.http import BytesBody, Fields, Request, Stored
from tests.blobs.conftest import HOST


class GatedBody(BytesBody):
    """A body whose bytes arrive only when the test says so."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.started = asyncio.Event()
        self.gate = asyncio.Event()

    async def store(self, fd: int, offset: int, *, md5: bool) -> Stored:
        self.started.set()
        await self.gate.wait()
        return await super().store(fd, offset, md5=md5)


class BrokenBody(BytesBody):
    """A body that fails in the middle."""

    def __init__(self, error: Exception) -> None:
        super().__init__(b"x" * 1000)
        self.error = error

    async def store(self, fd: int, offset: int, *, md5: bool) -> Stored:
        os.pwrite(fd, b"x" * 500, offset)
        raise self.error


def hold(call) -> threading.Event:
    """Keep the committer busy in its current batch until the event is set; later mutations stay queued."""
    entered, gate = threading.Event(), threading.Event()
    extents = call.service._store.extents
    original = extents.sync

    def held(written) -> None:
        entered.set()
        gate.wait()
        original(written)

    committer = call.service._store.committer
    committer._extents = _Held(extents, held)
    gate.entered = entered  # type: ignore[attr-defined]
    return gate


class _Held:
    """The extents with another `sync`."""

    def __init__(self, extents, sync) -> None:
        self._extents = extents
        self.sync = sync

    def __getattr__(self, name):
        return getattr(self._extents, name)


async def entered(gate) -> None:
    await asyncio.to_thread(gate.entered.wait)


def nothing_used(call) -> bool:
    used, free = call.service._store.extents.usage()
    return used == free


async def test_a_write_cancelled_while_its_body_arrives_leaves_no_trace(call):
    body = GatedBody(b"x" * 1000)
    task = asyncio.create_task(call.put("/con/b", body))
    await body.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await call("GET", "/con/b")).code == "BlobNotFound"
    assert nothing_used(call)


async def test_a_write_cancelled_in_the_queue_leaves_no_trace(call):
    gate = hold(call)
    first = asyncio.create_task(call.put("/con/first", b"1"))
    await entered(gate)
    second = asyncio.create_task(call.put("/con/second", b"2"))
    await asyncio.sleep(0)  # one turn of the loop takes a body that is in memory all the way into the queue
    assert not call.service._store.committer._queue.empty()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.set()
    assert (await first).status == 201
    assert (await call.put("/con/third", b"3")).status == 201
    assert (await call("GET", "/con/second")).code == "BlobNotFound"


async def test_a_write_cancelled_during_its_commit_answers_what_really_happened(call):
    gate = hold(call)
    task = asyncio.create_task(call.put("/con/b", b"1"))
    await entered(gate)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    gate.set()
    assert (await task).status == 201
    assert (await call("GET", "/con/b")).body == b"1"


async def test_mutations_queued_together_commit_together(call):
    gate = hold(call)
    tasks = [asyncio.create_task(call.put(f"/con/{n}", b"x")) for n in range(50)]
    await entered(gate)
    statements: list[str] = []
    call.service._writer.set_trace_callback(statements.append)
    gate.set()
    answers = await asyncio.gather(*tasks)
    assert {answer.status for answer in answers} == {201}
    assert statements.count("COMMIT") <= 2


async def test_a_guests_one_write_beside_another_guests_hundreds_is_in_the_next_batch(durable_call):
    """Issue 4, flow control; the rules of batches are in test_turns.py."""
    call = durable_call
    answered: list[int] = []

    async def put_as(reader: int, name: str) -> None:
        fields = Fields([("x-ms-blob-type", "BlockBlob")])
        request = Request("PUT", "https", HOST, f"/con/{name}", fields, guest="uid:1000", reader=reader)
        assert (await call.service.execute(request, BytesBody(b"x"))).status == 201
        answered.append(reader)

    gate = hold(call)
    flood, alone = 1, 2
    async with asyncio.TaskGroup() as group:
        group.create_task(put_as(flood, "first"))
        await entered(gate)
        for number in range(300):
            group.create_task(put_as(flood, str(number)))
        await asyncio.sleep(0)
        group.create_task(put_as(alone, "alone"))
        await asyncio.sleep(0)
        gate.set()
    assert answered.index(alone) <= 2, "the batch that was being synced when it came, and its own"
    assert answered.count(flood) == 301


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ConnectionResetError("the guest went away"), 400, "IncompleteBody"),
        (OSError(28, "no space"), 503, "ServerBusy"),
        (OSError(5, "I/O"), 500, "InternalError"),
        (ZeroDivisionError(), 500, "InternalError"),
    ],
)
async def test_a_body_that_fails_gives_its_run_back(call, error, status, code):
    got = await call.put("/con/b", BrokenBody(error))
    assert (got.status, got.code) == (status, code)
    assert nothing_used(call)


async def test_a_full_disk_fails_the_batch_with_503_and_loses_nothing_before_it(call):
    await call.put("/con/before", b"before")
    writer = call.service._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}")
    statuses = {}
    for number in range(200):
        answer = await call.put(f"/con/{number}", b"x", x_ms_meta_pad="p" * 4000)
        statuses[number] = answer.status
        if answer.status != 201:
            assert (answer.status, answer.code) == (503, "ServerBusy")
            break
    assert 503 in statuses.values()
    writer.execute("PRAGMA max_page_count = 1073741823")
    for number, status in statuses.items():
        assert (await call("HEAD", f"/con/{number}")).status == (200 if status == 201 else 404)
    assert (await call.put("/con/after", b"after")).status == 201
    assert (await call("GET", "/con/before")).body == b"before"


async def test_a_segment_that_fails_to_sync_fails_its_writes_and_those_written_before(durable_call, monkeypatch):
    call = durable_call
    await call.put("/con/good", b"good")
    early = GatedBody(b"early")
    pending = asyncio.create_task(call.put("/con/early", early))
    await early.started.wait()

    def refuse(fd: int) -> None:
        raise OSError(5, "injected: the disk is failing")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", refuse)
        assert (await call.put("/con/bad", b"bad")).status == 500
    early.gate.set()
    assert (await pending).status == 500  # its run was lent before the failure: the kernel may have dropped its pages
    assert (await call.put("/con/bad", b"better")).status == 201
    assert (await call("GET", "/con/good")).body == b"good"
    assert (await call("GET", "/con/early")).code == "BlobNotFound"


async def test_a_closed_service_answers_503_and_close_is_idempotent(call):
    body = GatedBody(b"late")
    late = asyncio.create_task(call.put("/con/late", body))
    await body.started.wait()
    call.service.close()
    call.service.close()
    assert (await call("GET", "/con/b")).status == 503
    body.gate.set()
    assert (await late).status == 503
    call.service.open()
    call.service.open()
    assert (await call("GET", "/con/late")).code == "BlobNotFound"


async def test_a_bug_in_one_mutation_undoes_only_that_one(call, monkeypatch, caplog):
    from pvblob.blobs import blob_snapshots, service

    async def broken(store, one):
        def apply(transaction):
            blob_snapshots.delete_in(transaction, one)
            raise KeyError("a bug after a change")

        return await store.commit(one, apply)

    await call.put("/con/a", b"a")
    await call.put("/con/b", b"b")
    monkeypatch.setitem(service.OPERATIONS, ("DELETE", "blob", None, None), service.Operation(broken, changes=True))
    answers = await asyncio.gather(call("DELETE", "/con/a"), call.put("/con/b", b"new"))
    assert [answer.status for answer in answers] == [500, 201]
    assert (await call("GET", "/con/a")).body == b"a"
    assert (await call("GET", "/con/b")).body == b"new"
    assert "a bug after a change" in caplog.text
