"""Once-only writes. Source: design rule 4."""

from __future__ import annotations

import asyncio

from pvblob.blobs import once
from pvblob.http import BytesBody, OnceKey, Stored


def key(guid: int = 1, *, again: bool = False, digest: int = 0, guest: str = "uid:1000") -> OnceKey:
    return OnceKey(guest, bytes(16), guid.to_bytes(16, "big"), digest.to_bytes(32, "big"), again)


async def put(call, once_key: OnceKey, body=b"x", **fields: str):
    head = {"x-ms-blob-type": "BlockBlob", **{name.replace("_", "-"): value for name, value in fields.items()}}
    return await call("PUT", "/con/b", head, body, once=once_key)


class CountingBody(BytesBody):
    """Counts how often its bytes were asked for; waits for a gate when given one."""

    def __init__(self, gate: asyncio.Event | None = None) -> None:
        super().__init__(b"x")
        self.stored = 0
        self.started = asyncio.Event()
        self.gate = gate

    async def store(self, fd: int, offset: int, *, md5: bool) -> Stored:
        self.stored += 1
        self.started.set()
        if self.gate is not None:
            await self.gate.wait()
        return await super().store(fd, offset, md5=md5)


async def test_a_resubmission_replays_the_recorded_answer_and_writes_nothing(call):
    first = await put(call, key())
    body = CountingBody()
    again = await put(call, key(again=True), body)
    assert (again.status, list(again.fields)) == (first.status, list(first.fields))
    assert body.stored == 0
    assert (await call("HEAD", "/con/b")).etag == first.etag


async def test_a_failure_is_replayed_too(call):
    await call.put("/con/b", b"old")
    failed = await put(call, key(), if_none_match="*")
    assert failed.code == "BlobAlreadyExists"
    await call("DELETE", "/con/b")
    again = await put(call, key(again=True), if_none_match="*")
    assert (again.code, again.body) == ("BlobAlreadyExists", failed.body)


async def test_a_key_used_for_another_request_is_refused(call):
    await put(call, key())
    assert (await put(call, key(digest=1, again=True))).code == "OperationIdReused"
    assert (await put(call, key(digest=1))).code == "OperationIdReused"


async def test_a_repeated_key_runs_once_even_when_it_does_not_say_that_it_repeats(call):
    first = await put(call, key())
    again = await put(call, key())
    assert again.etag == first.etag
    used, free = call.service._store.extents.usage()
    assert used - free == 512


async def test_a_resubmission_joins_the_execution_that_still_runs(call):
    gate = asyncio.Event()
    body, other = CountingBody(gate), CountingBody()
    first = asyncio.create_task(put(call, key(), body))
    await body.started.wait()
    second = asyncio.create_task(put(call, key(again=True), other))
    wrong = await put(call, key(again=True, digest=9))
    assert wrong.code == "OperationIdReused"
    gate.set()
    assert (await first).etag == (await second).etag
    assert (body.stored, other.stored) == (1, 0)


async def test_whoever_joined_a_cancelled_execution_runs_it_and_only_one_of_them(call):
    gate = asyncio.Event()
    bodies = [CountingBody(gate), CountingBody(), CountingBody()]
    first = asyncio.create_task(put(call, key(), bodies[0]))
    await bodies[0].started.wait()
    others = [asyncio.create_task(put(call, key(again=True), body)) for body in bodies[1:]]
    await asyncio.sleep(0)
    first.cancel()
    answers = await asyncio.gather(*others)
    assert answers[0].status == 201
    assert answers[0].etag == answers[1].etag
    assert sum(body.stored for body in bodies[1:]) == 1


async def test_a_resubmission_that_never_ran_runs(call):
    assert (await put(call, key(again=True))).status == 201


async def test_keys_of_different_guests_do_not_meet(call):
    one = await put(call, key())
    two = await put(call, key(guest="uid:1001", again=True))
    assert one.etag != two.etag


async def test_a_record_survives_the_end_of_the_host(open_service, call):
    first = await put(call, key())
    call.service.close()
    call.service.open()
    assert (await put(call, key(again=True))).etag == first.etag


async def test_records_expire_only_after_their_time_of_host_uptime(call, monkeypatch):
    from pvblob.blobs import housekeeping

    await put(call, key())
    store = call.service._store
    now = [housekeeping.time.monotonic()]
    monkeypatch.setattr(housekeeping.time, "monotonic", lambda: now[0])
    wall = [2_000_000_000.0]  # the wall clock has jumped decades ahead: that alone must not expire anything
    work = housekeeping.Housekeeping(store.extents, lambda: wall[0])
    writer = call.service._writer
    call.service._store.committer.stop()
    work.step(writer, True)
    assert once.find(store.reader, key()) is not None
    now[0] += once.RETENTION_S + 1
    work.step(writer, True)
    assert once.find(store.reader, key()) is None


async def test_a_batch_is_replayed_with_its_parts(call):
    await call.put("/con/b", b"1")
    body = b"--q\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\nDELETE /con/b HTTP/1.1\r\n\r\n\r\n--q--\r\n"
    fields = {"content-type": "multipart/mixed; boundary=q"}
    first = await call("POST", "/?comp=batch", fields, body, once=key())
    again = await call("POST", "/?comp=batch", fields, body, once=key(again=True))
    assert b"HTTP/1.1 202" in first.body
    assert again.body == first.body
