"""Bodies stream from the socket to their file, bounded and checked, and end with their sender (http.Body, rule 1)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol

from pvblob import _native
from pvblob.front import FrontLimits
from pvblob.front.body import BATCH_BYTES, INLINE_BYTES_MAX, HttpBody
from pvblob.http import Fields, Request, Response
from tests.front.backends import MemoryBackend
from tests.front.conftest import Connect, StartFront
from tests.front.wire import BLOB, Wire

SIZES = [1, INLINE_BYTES_MAX - 1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, BATCH_BYTES + 1, 5 * BATCH_BYTES + 3]


@pytest.mark.parametrize("size_bytes", SIZES)
async def test_a_body_is_stored_whole_with_its_checksums(wire: Wire, backend: MemoryBackend, size_bytes: int) -> None:
    data = random.Random(size_bytes).randbytes(size_bytes)
    backend.put("/before", b"before")
    assert (await wire.ask("PUT", BLOB, content=data)).status == 201
    assert (await wire.ask("PUT", f"{BLOB}2", content=b"after")).status == 201
    assert backend.bytes_of(BLOB) == data
    assert (backend.bytes_of("/before"), backend.bytes_of(f"{BLOB}2")) == (b"before", b"after")
    assert backend.stored[BLOB] == (_native.crc64(data), hashlib.md5(data).digest())


async def test_a_body_may_be_read_instead(wire: Wire, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    async def execute(request: Request, body: HttpBody) -> Response:
        seen.append(await body.read())
        return Response(200, Fields(), b"%d" % body.size_bytes)

    monkeypatch.setattr(backend, "execute", execute)
    for data in (b"", b"short", b"long" * 100_000):
        assert (await wire.ask("POST", BLOB, content=data)).content == b"%d" % len(data)
    assert seen == [b"", b"short", b"long" * 100_000]


async def test_a_put_without_length_or_body_has_size_zero(wire: Wire, backend: MemoryBackend) -> None:
    """ecosystem.md §1.3: Create Container comes so."""
    assert (await wire.ask("PUT", BLOB)).status == 201
    assert backend.places[BLOB][1] == 0


async def test_a_chunked_body_is_asked_for_its_length(wire: Wire, backend: MemoryBackend) -> None:
    """http.Body: the size is known before the first byte is read; Azure answers 411 as well."""
    await wire.send(wire.signed("PUT", BLOB, {"transfer-encoding": "chunked"}) + b"5\r\nhello\r\n0\r\n\r\n")
    reply = await wire.reply()
    assert (reply.status, reply.code) == (411, b"MissingContentLengthHeader")
    assert backend.requests == []


async def test_a_gzip_body_is_stored_as_it_came(wire: Wire, backend: MemoryBackend) -> None:
    assert (await wire.ask("PUT", BLOB, {"content-encoding": "gzip"}, b"not gzip")).status == 201
    assert backend.bytes_of(BLOB) == b"not gzip"


async def test_100_continue_comes_when_the_backend_wants_the_body(wire: Wire, backend: MemoryBackend) -> None:
    request = wire.signed("PUT", BLOB, {"expect": "100-continue"}, b"hello")
    await wire.send(request[:-5])
    assert (await wire.reply()).status == 100
    await wire.send(request[-5:])
    assert (await wire.reply()).status == 201
    assert backend.bytes_of(BLOB) == b"hello"


async def test_100_continue_is_not_sent_for_a_body_nobody_wants(wire: Wire, backend: MemoryBackend) -> None:
    """RFC 9110 §10.1.1: the final status comes instead, and the connection ends, for the body may follow or not."""
    backend.reads_bodies = False
    await wire.send(wire.signed("PUT", BLOB, {"expect": "100-continue"}, b"hello")[:-5])
    reply = await wire.reply()
    assert (reply.status, reply.one(b"connection")) == (409, b"close")


async def test_a_small_body_nobody_wants_does_not_cost_the_connection(wire: Wire, backend: MemoryBackend) -> None:
    backend.reads_bodies = False
    assert (await wire.ask("PUT", BLOB, content=b"x" * 500_000)).one(b"connection") == b"keep-alive"
    assert (await wire.ask("GET", BLOB)).status == 204


async def test_a_large_body_nobody_wants_ends_the_connection(wire: Wire, backend: MemoryBackend) -> None:
    backend.reads_bodies = False
    await wire.send(head_of_size(wire, 100 * 1024 * 1024))
    assert (await wire.reply()).one(b"connection") == b"close"


@pytest.mark.parametrize("swallows", [False, True], ids=["backend-raises", "backend-answers"])
async def test_a_client_that_goes_away_breaks_its_body(
    start_front: StartFront, connect: Connect, backend: MemoryBackend, swallows: bool
) -> None:
    backend.swallows_broken_bodies = swallows
    front = await start_front()
    wire = await connect(front)
    await wire.send(head_of_size(wire, 4 * BATCH_BYTES) + b"x" * (2 * BATCH_BYTES))
    await backend.called.wait()
    await wire.close()
    await front.stop()
    assert len(backend.broken) == 1
    assert isinstance(backend.broken[0], ConnectionError)
    assert BLOB not in backend.places
    assert front.counters.disconnected == 1
    assert front.counters.failed == 0
    assert backend.releases == backend.pinned


async def test_a_client_that_stops_sending_is_given_up(
    start_front: StartFront, connect: Connect, backend: MemoryBackend
) -> None:
    """Design rule 5: waits are bounded."""
    wire = await connect(await start_front(FrontLimits(stall_timeout_s=0.1)))
    await wire.send(head_of_size(wire, 1000) + b"x" * 10)
    assert await wire.at_end()
    assert isinstance(backend.broken[0], ConnectionError)


async def test_a_full_disk_is_the_backends_error_to_answer(wire: Wire, backend: MemoryBackend) -> None:
    backend.fault = OSError(28, "No space left on device")
    assert (await wire.ask("PUT", BLOB, content=b"x")).status == 500


class HeldFile:
    """Stands in for os.pwrite: writes wait until they are let go, and are counted."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.finished = 0
        self._pwrite = os.pwrite

    def __call__(self, fd: int, data: memoryview, offset: int) -> int:
        self.entered.set()
        assert self.let_go.wait(30)
        self.finished += 1
        return self._pwrite(fd, data, offset)


async def test_no_thread_writes_after_a_cancelled_store_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """http.Backend: cancelling leaves no trace; the caller may reuse the file's bytes at once."""
    held = HeldFile()
    monkeypatch.setattr("pvblob.front.body.os.pwrite", held)
    loop = asyncio.get_running_loop()
    stream = StreamReader(BaseProtocol(loop), limit=2**30, loop=loop)
    size_bytes = 3 * BATCH_BYTES
    stream.feed_data(b"x" * (BATCH_BYTES + 1))
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with ThreadPoolExecutor(1) as executor:
        body = HttpBody(stream, size_bytes, continue_hook=lambda: None, executor=executor, stall_timeout_s=60)
        task = asyncio.create_task(body.store(fd, 0, md5=False))
        await loop.run_in_executor(None, held.entered.wait)
        task.cancel()
        await asyncio.wait({task}, timeout=0.05)
        assert not task.done()
        task.cancel()
        held.let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        written = held.finished
        assert written > 0
    assert held.finished == written
    os.close(fd)


def head_of_size(wire: Wire, size_bytes: int) -> bytes:
    return wire.signed("PUT", BLOB, {"content-length": str(size_bytes)})
