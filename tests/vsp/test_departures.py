"""Guests that go at one moment: ended one by one, and what they leave is closed where nobody waits (rule 1)."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pvblob.vsp.departures import Departures
from pvblob.vsp.disposal import Disposal
from tests.waiting import until


async def test_the_loop_does_something_else_between_two_departures() -> None:
    """A guest that comes while a hundred go is served after one of them, not after all."""
    loop, seen, departures, all_gone = asyncio.get_running_loop(), list[str](), Departures(), asyncio.Event()

    def turn() -> None:
        seen.append("turn")
        loop.call_soon(turn if len(seen) < 5 else all_gone.set)

    for _ in range(3):
        departures.add(lambda: seen.append("gone"))
    loop.call_soon(turn)
    await asyncio.wait_for(all_gone.wait(), 10)
    assert seen[:5] == ["gone", "turn", "gone", "turn", "gone"]


async def test_a_departure_that_fails_holds_up_no_other() -> None:
    failed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context["exception"]))
    departures, error, gone = Departures(), ValueError("of this one"), asyncio.Event()

    def fail() -> None:
        raise error

    departures.add(fail)
    departures.add(gone.set)
    await asyncio.wait_for(gone.wait(), 10)
    assert failed == [error]
    gone.clear()
    departures.add(gone.set)  # and it goes on
    await asyncio.wait_for(gone.wait(), 10)


def test_one_thread_closes_what_is_closed_quickly() -> None:
    """Starting a thread takes the loop as long as a close takes the thread."""
    disposal, names, closed = Disposal(), set[int](), threading.Event()

    def close() -> None:
        names.add(threading.get_ident())
        closed.set()

    for _ in range(20):
        closed.clear()
        disposal.later(close)
        assert closed.wait(10)
        until(lambda: not disposal.waiting, "the thread did not become idle")
    assert len(names) == 1
    disposal.finish(10)
    assert disposal.waiting == 0


@pytest.mark.parametrize("threads_max", [1, 3])
def test_closes_that_are_stuck_are_counted_and_have_no_more_threads_than_allowed(threads_max: int) -> None:
    disposal, release, begun = Disposal(threads_max), threading.Event(), threading.Semaphore(0)

    def stuck() -> None:
        begun.release()
        release.wait(10)

    for _ in range(5):
        disposal.later(stuck)
    for _ in range(threads_max):
        assert begun.acquire(timeout=10)
    assert disposal.waiting == 5
    assert not begun.acquire(blocking=False)
    disposal.finish(0.01)
    assert disposal.waiting == 5, "it does not wait longer than it is told to"
    release.set()
    disposal.finish(10)
    assert disposal.waiting == 0
