"""Issue 4, flow control: coroutines of many guests wait for their turns; cancelling one leaves no trace."""

from __future__ import annotations

import asyncio
import random

import pytest

from pvblob.vsp.budget import Shares
from pvblob.vsp.turnstile import Turnstile


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def pass_through(turnstile: Turnstile, guest: int, order: list[int]) -> None:
    await turnstile.enter(guest, 0)
    order.append(guest)
    turnstile.leave(guest, 0)


async def test_a_late_guest_is_let_in_before_the_rest_of_a_long_queue() -> None:
    turnstile = Turnstile(Shares(64, 1 << 30))
    order: list[int] = []

    async def request(guest: int) -> None:
        await pass_through(turnstile, guest, order)

    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(request(1))
        await turns(20)
        seen = len(order)
        assert 0 < seen <= 20, "one for each turn of the loop"
        group.create_task(request(2))
    assert 2 in order[seen : seen + 2]


async def test_a_guest_that_has_nothing_else_there_enters_at_once_but_only_once_per_turn() -> None:
    turnstile = Turnstile(Shares(64, 1 << 30))
    order: list[int] = []

    async def request(guest: int) -> None:
        await pass_through(turnstile, guest, order)

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(request(1))
        group.create_task(request(2))
        await turns(1)
        assert order == [1, 2], "the first of each; a guest's second one takes turns though its first one has left"
    assert sorted(order) == [1] * 20 + [2]


async def test_a_guest_that_is_alone_is_let_in_no_faster_for_nobody_knows_who_comes_next() -> None:
    turnstile = Turnstile(Shares(10_000, 1 << 30))
    entered = 0

    async def request() -> None:
        nonlocal entered
        await turnstile.enter(1, 0)
        entered += 1

    tasks = [asyncio.create_task(request()) for _ in range(1000)]
    await turns(500)
    assert 400 < entered <= 500
    await asyncio.gather(*tasks)
    assert turnstile.running == 1000


@pytest.mark.parametrize("seed", range(10))
async def test_cancelling_at_any_moment_loses_no_place(seed: int) -> None:
    chance = random.Random(seed)
    turnstile = Turnstile(Shares(4, 1000))

    async def request(guest: int, size_bytes: int) -> None:
        await turnstile.enter(guest, size_bytes)
        try:
            await turns(chance.randrange(3))
        finally:
            turnstile.leave(guest, size_bytes)

    tasks = []
    for _ in range(300):
        tasks.append(asyncio.create_task(request(chance.randrange(5), chance.randrange(400))))
        if chance.random() < 0.4:
            chance.choice(tasks).cancel()
        await turns(chance.randrange(2))
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert (turnstile.running, turnstile.waiting) == (0, 0)
    await asyncio.wait_for(request(1, 0), 5)
