"""Content leaves from the page cache, whole and in order, and is released exactly once (http.FileContent)."""

from __future__ import annotations

import asyncio
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
from aiohttp.abc import AbstractStreamWriter

from pvblob.front import FrontLimits, HttpFront
from pvblob.front.content import JOINED_BYTES_MAX, SLICE_BYTES, Outlet, send
from pvblob.front.mapped import MappedFiles
from pvblob.http import Extent, Fields, Response
from tests.front.backends import MemoryBackend
from tests.front.conftest import Connect, StartFront
from tests.front.wire import BLOB, Wire, head

LARGE = 3 * SLICE_BYTES + 12_345


@pytest.mark.parametrize("size_bytes", [0, 1, JOINED_BYTES_MAX, JOINED_BYTES_MAX + 1, SLICE_BYTES + 1, LARGE])
async def test_file_content_arrives_whole(wire: Wire, backend: MemoryBackend, size_bytes: int) -> None:
    data = random.Random(size_bytes).randbytes(size_bytes)
    backend.put("/before", b"odd offset")
    backend.put(BLOB, data)
    reply = await wire.ask("GET", BLOB)
    assert reply.one(b"content-length") == b"%d" % size_bytes
    assert reply.content == data
    assert backend.releases == backend.pinned == 1


@pytest.mark.parametrize("length", [5000, 100_000, SLICE_BYTES + 5])
async def test_extents_of_several_files_arrive_in_order(
    wire: Wire, backend: MemoryBackend, tmp_path: Path, length: int
) -> None:
    sources = [random.Random(n).randbytes(length + 100) for n in range(3)]
    descriptors = []
    for number, source in enumerate(sources):
        (tmp_path / f"part{number}").write_bytes(source)
        descriptors.append(os.open(tmp_path / f"part{number}", os.O_RDONLY))
    backend.answer = Response(200, Fields(), backend.pin(*(Extent(fd, 100, length) for fd in descriptors)))
    reply = await wire.ask("GET", BLOB)
    assert reply.content == b"".join(source[100:] for source in sources)
    for fd in descriptors:
        os.close(fd)


async def test_bytes_in_memory_arrive_whole(wire: Wire, backend: MemoryBackend) -> None:
    for size_bytes in (0, 1, JOINED_BYTES_MAX + 1, LARGE):
        backend.answer = Response(200, Fields(), b"m" * size_bytes)
        assert (await wire.ask("GET", BLOB)).content == b"m" * size_bytes


async def test_a_range_is_sent_and_nothing_else(wire: Wire, backend: MemoryBackend) -> None:
    data = random.Random(7).randbytes(LARGE)
    backend.put(BLOB, data)
    reply = await wire.ask("GET", BLOB, {"range": "bytes=12345-3012345"})
    assert reply.content == data[12345:3012346]


async def test_a_file_that_has_grown_since_it_was_mapped_is_served(wire: Wire, backend: MemoryBackend) -> None:
    backend.put(BLOB, b"a" * 200_000)
    assert (await wire.ask("GET", BLOB)).content == b"a" * 200_000
    backend.put(f"{BLOB}2", b"b" * 5_000_000)
    assert (await wire.ask("GET", f"{BLOB}2")).content == b"b" * 5_000_000
    assert (await wire.ask("GET", BLOB)).content == b"a" * 200_000


async def test_cold_bytes_are_served(wire: Wire, backend: MemoryBackend, tmp_path: Path) -> None:
    """Design §6: what would block goes to a pool. The pages are evicted first, as far as the kernel agrees."""
    data = random.Random(8).randbytes(LARGE)
    backend.put(BLOB, data)
    fd = os.open(tmp_path / "bytes", os.O_RDWR)
    for range_field in ({}, {"range": "bytes=100-4099"}):
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        reply = await wire.ask("GET", BLOB, range_field)
        assert reply.content == (data[100:4100] if range_field else data)
    os.close(fd)


@pytest.mark.parametrize("size_bytes", [JOINED_BYTES_MAX, LARGE])
async def test_a_file_that_is_too_short_ends_the_connection(
    wire: Wire, backend: MemoryBackend, front: HttpFront, size_bytes: int
) -> None:
    """The length was announced; only ending the connection tells the client that it cannot be kept."""
    backend.put(BLOB, b"x" * size_bytes)
    backend.truncate(size_bytes // 2)
    await wire.send(wire.signed("GET", BLOB))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await wire.reply()
    assert backend.releases == 1
    assert front.counters.disconnected == 1


async def test_a_client_that_goes_away_costs_nothing(
    start_front: StartFront, connect: Connect, backend: MemoryBackend
) -> None:
    backend.put(BLOB, b"x" * (64 * 1024 * 1024))
    front = await start_front()
    wire = await connect(front)
    await wire.send(wire.signed("GET", BLOB))
    await wire.reader.readexactly(1000)
    wire.writer.transport.abort()
    await front.stop()
    assert backend.releases == 1
    assert front.counters.disconnected == 1


async def test_a_client_that_goes_away_before_the_answer_costs_nothing(
    start_front: StartFront, connect: Connect, backend: MemoryBackend
) -> None:
    backend.put(BLOB, b"x" * LARGE)
    backend.may_answer.clear()
    front = await start_front()
    wire = await connect(front)
    await wire.send(wire.signed("GET", BLOB))
    await backend.called.wait()
    wire.writer.transport.abort()
    # An answer on another connection shows that the loop has seen the first one end.
    other = await connect(front)
    await other.send(head("GET", BLOB, {"host": "x"}))
    assert (await other.reply()).status == 401
    backend.may_answer.set()
    await front.stop()
    assert backend.releases == backend.pinned == 1


async def test_a_client_that_stops_reading_is_given_up(
    start_front: StartFront, connect: Connect, backend: MemoryBackend
) -> None:
    """Design rule 5; else a client could pin the store's bytes for ever."""
    backend.put(BLOB, b"x" * (64 * 1024 * 1024))
    front = await start_front(FrontLimits(stall_timeout_s=0.1))
    wire = await connect(front, limit=1024)
    await wire.send(wire.signed("GET", BLOB))
    other = await connect(front)
    while not backend.releases:
        assert (await other.ask("GET", "/devstoreaccount1/other")).status == 204
    assert front.counters.disconnected == 1


class Trickle(asyncio.Transport):
    """A transport to a slow client: it takes one byte each time it is looked at. It is its own writer."""

    def __init__(self) -> None:
        self.unsent_bytes = 0
        self.empty = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.unsent_bytes += len(data)

    def get_write_buffer_size(self) -> int:
        self.unsent_bytes = max(0, self.unsent_bytes - 1)
        if not self.unsent_bytes:
            self.empty.set()
        return self.unsent_bytes

    def is_closing(self) -> bool:
        return False

    async def drain(self) -> None:
        await self.empty.wait()


async def test_a_slow_client_that_takes_something_is_not_given_up() -> None:
    """The bound is on waiting without progress, not on how long an answer takes."""
    slow = Trickle()
    with ThreadPoolExecutor(1) as executor:
        outlet = Outlet(slow, cast("AbstractStreamWriter", slow), MappedFiles(1), executor, stall_timeout_s=0.001)
        await send(outlet, b"head", b"content")
    assert slow.unsent_bytes == 0


async def test_stopping_ends_what_is_being_sent_and_releases_it(
    start_front: StartFront, connect: Connect, backend: MemoryBackend
) -> None:
    backend.put(BLOB, b"x" * (64 * 1024 * 1024))
    front = await start_front()
    wire = await connect(front, limit=1024)
    await wire.send(wire.signed("GET", BLOB))
    await wire.reader.readexactly(1000)
    await front.stop(grace_s=0.05)
    assert backend.releases == 1


async def test_a_field_that_cannot_be_written_is_a_500_and_releases(wire: Wire, backend: MemoryBackend) -> None:
    backend.put(BLOB, b"x" * LARGE)
    offset, length = backend.places[BLOB]
    content = backend.pin(Extent(os.open("/dev/null", os.O_RDONLY), offset, length))
    backend.answer = Response(200, Fields([("x-a", "\N{SNOWMAN}")]), content)
    assert (await wire.ask("GET", BLOB)).status == 500
    assert backend.releases == 1
    os.close(content.extents[0].fd)


async def test_two_clients_are_served_side_by_side(front: HttpFront, connect: Connect, backend: MemoryBackend) -> None:
    data = random.Random(9).randbytes(16 * 1024 * 1024)
    backend.put(BLOB, data)
    wires = [await connect(front) for _ in range(4)]
    replies = await asyncio.gather(*(wire.ask("GET", BLOB) for wire in wires))
    assert all(reply.content == data for reply in replies)
    assert backend.releases == 4


def test_mappings_are_bounded_and_views_outlive_them(tmp_path: Path) -> None:
    files = MappedFiles(files_max=2)
    descriptors = []
    views = []
    for number in range(4):
        (tmp_path / str(number)).write_bytes(b"%d" % number * 8192)
        descriptors.append(os.open(tmp_path / str(number), os.O_RDONLY))
        views.append(files.view(Extent(descriptors[-1], 100, 8000)))
    assert len(files) == 2
    assert [bytes(view[:2]) for view in views] == [b"00", b"11", b"22", b"33"]
    assert all(view.readonly for view in views)
    for fd in descriptors:
        os.close(fd)


def test_a_view_past_the_end_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    files = MappedFiles(files_max=2)
    with pytest.raises(OSError, match="1000 bytes"):
        files.view(Extent(fd, 500, 501))
    assert bytes(files.view(Extent(fd, 500, 500))) == b"x" * 500
    os.close(fd)
