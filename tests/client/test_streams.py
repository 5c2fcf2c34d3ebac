"""A stream's pieces are under way before they are asked for, bounded, in order, and called off with it."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

import pvblob
from pvblob.client.exchange import AsyncExchange, Exchange
from pvblob.client.streams import AHEAD
from pvblob.errors import LentMemoryExhausted
from pvblob.http import Body, Fields, Request, Response
from pvblob.vsc.device import Device
from tests.conftest import GateBackend, pattern

SIZE_BYTES, CHUNK_BYTES = 100_000, 10_000


class GatedRanges(GateBackend):
    """A blob of SIZE_BYTES; every range of it but the first waits for the gate."""

    async def execute(self, request: Request, body: Body) -> Response:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.fields.get("x-ms-range") or "")
        assert found is not None
        start, end = int(found[1]), min(int(found[2]) + 1, SIZE_BYTES)
        if start:
            await self._pass_gate(str(start))
        content = pattern(SIZE_BYTES)[start:end]
        span = ("content-range", f"bytes {start}-{end - 1}/{SIZE_BYTES}")
        return Response(206, Fields([("content-length", str(len(content))), span, ("etag", '"1"')]), content)


def _have_room(device: Device) -> None:
    """Let the host map memory now, so that no piece waits for it longer than a stream does."""
    held = [device.allocate(CHUNK_BYTES) for _ in range(AHEAD + 2)]
    del held


def test_the_next_pieces_are_under_way_and_no_more(make_host: Callable[..., Any]) -> None:
    backend = GatedRanges()
    begun_too_soon = []

    def open_when_they_have_begun() -> None:
        for _ in range(AHEAD):
            backend.began.acquire()
        begun_too_soon.append(backend.began.acquire(blocking=False))
        backend.open_gate()

    opener = threading.Thread(target=open_when_they_have_begun)
    opener.start()
    exchange = Exchange(make_host(backend).socket_path)
    with pvblob.Client(exchange) as client:
        _have_room(exchange.device())
        pieces = [bytes(piece) for piece in client.stream("things", "b", chunk_bytes=CHUNK_BYTES)]
    opener.join()
    assert begun_too_soon == [False]
    assert [len(piece) for piece in pieces] == [CHUNK_BYTES] * 10
    assert b"".join(pieces) == pattern(SIZE_BYTES)


async def test_a_stream_that_is_left_calls_off_what_is_under_way(make_host: Callable[..., Any]) -> None:
    backend = GatedRanges()
    device = Device(make_host(backend).socket_path)
    async with pvblob.AsyncClient(AsyncExchange(device=device)) as client:
        _have_room(device)
        pieces = client.stream("things", "b", chunk_bytes=CHUNK_BYTES)
        assert bytes(await anext(pieces)) == pattern(SIZE_BYTES)[:CHUNK_BYTES]
        following = asyncio.ensure_future(anext(pieces))
        for _ in range(AHEAD):
            await asyncio.to_thread(backend.began.acquire)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        # The host answers in turn: the cancels came before.
        assert len(await client.get("things", "b", offset=0, length=1)) == 1
        backend.open_gate()
    assert sorted(backend.cancelled) == ["10000", "20000", "30000"]


def test_a_stream_goes_on_while_a_program_holds_pieces_and_one_finds_room(
    live_host: Any, content: Callable[[int], bytes]
) -> None:
    """Pieces are lent memory, which has a bound: close to it there is one at a time, then an error that says so."""
    data = content(20 << 20)
    with pvblob.Client(Exchange(device=Device(live_host.socket_path, lent_bytes_max=12 << 20))) as client:
        client.create_container("things", exist_ok=True)
        client.put("things", "b", data)
        held: list[memoryview] = []
        with pytest.raises(LentMemoryExhausted, match="views"):
            held.extend(client.stream("things", "b", chunk_bytes=2 << 20))
        assert 1 <= len(held) <= 6
        assert b"".join(held) == data[: len(held) << 21]
        first = held[0]
        del held[1:]
        assert sum(map(len, client.stream("things", "b", chunk_bytes=2 << 20))) == len(data)
        assert first == data[: 2 << 20]
