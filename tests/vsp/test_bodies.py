"""Design rule 2: from send to completion the host owns the buffers, however often the request is cancelled."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pvblob import _native
from pvblob.vsp.bodies import BodyPool
from pvblob.vsp.budget import Shares
from pvblob.vsp.turnstile import Turnstile


async def test_a_cancel_and_then_a_deadline_do_not_let_go_of_pages_that_a_thread_still_moves() -> None:
    """Else the request completes and the store's run is given to another write while the thread writes there."""
    began, gate = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as executor:
        pool = BodyPool(executor, Turnstile(Shares(2, 1 << 20)))

        def move() -> str:
            loop.call_soon_threadsafe(began.set)
            gate.wait(30)
            return "moved"

        running = asyncio.create_task(pool.run(1, 100, move))
        await began.wait()
        for _ in range(3):
            running.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
            assert not running.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_body_that_waits_for_its_turn_is_never_moved_after_it_was_cancelled() -> None:
    gate = threading.Event()
    moved: list[int] = []
    with ThreadPoolExecutor(1) as executor:
        pool = BodyPool(executor, Turnstile(Shares(2, 1 << 20)))
        first = asyncio.create_task(pool.run(1, 100, lambda: gate.wait(30)))
        second = asyncio.create_task(pool.run(1, 100, lambda: moved.append(2)))
        for _ in range(5):
            await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.set()
        await first
        assert await pool.run(1, 100, lambda: "next") == "next"
    assert moved == []


class HeldWrite:
    """A request whose content the data plane writes for as long as the test likes: no real file can be held so."""

    id, channel, data_valid = 7, 1, 4096

    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []

    def store_soon(self, fd: int, offset: int, _digest: object) -> None:
        self.begun.append((fd, offset))


async def test_a_small_body_is_the_data_planes_until_it_says_so_however_often_it_is_cancelled() -> None:
    with ThreadPoolExecutor(1) as executor:
        pool = BodyPool(executor, Turnstile(Shares(2, 1 << 20)))
        request: Any = HeldWrite()
        for error in (None, OSError(28, "no space")):
            storing = asyncio.create_task(pool.store(request, 3, 512, _native.Digest(False)))
            for _ in range(3):
                await asyncio.sleep(0)
                storing.cancel()
            settling = asyncio.create_task(pool.settle())
            for _ in range(5):
                await asyncio.sleep(0)
            assert not storing.done(), "the guest would get its pages back, and another write the run"
            assert not settling.done()
            pool.stored(request.id, error)
            with pytest.raises(asyncio.CancelledError):
                await storing
            await settling
        assert request.begun == [(3, 512)] * 2
        storing = asyncio.create_task(pool.store(request, 3, 512, _native.Digest(False)))
        await asyncio.sleep(0)
        pool.stored(request.id, ConnectionError("the guest has shrunk its memory"))
        with pytest.raises(ConnectionError):
            await storing
