"""Shares of an account: bounded, fair guest by guest, and given back whatever happens."""

from __future__ import annotations

import asyncio
import time

import pytest

from pvblob.upstream.budget import Budget


async def test_who_waits_is_served_guest_by_guest_in_turn() -> None:
    """Issue 5: fair shares; one guest's hundred requests delay another's by one."""
    budget = Budget(1)
    held = await budget.acquire("first", 0)
    order: list[str] = []

    async def ask(guest: str) -> None:
        lease = await budget.acquire(guest, 0)
        order.append(guest)
        lease.release()

    tasks = [asyncio.ensure_future(ask(guest)) for guest in ["greedy"] * 100 + ["modest"] * 2]
    await asyncio.sleep(0)
    held.release()
    held.release()
    await asyncio.gather(*tasks)
    assert order[:4] == ["greedy", "modest", "greedy", "modest"]
    assert budget.connections.free == 1


async def test_who_is_cancelled_while_waiting_loses_nothing_for_others() -> None:
    machine = Budget(2)
    budget = Budget(2, machine=machine)
    held = [await budget.acquire("a", 0) for _ in range(2)]
    waiting = [asyncio.ensure_future(budget.acquire("b", 0)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    held[0].release()  # goes to the second; cancelling it in the same turn passes it on to the third
    waiting[1].cancel()
    lease = await waiting[2]
    for one in (*held, lease):
        one.release()
    assert (budget.connections.free, machine.connections.free) == (2, 2)
    for one in waiting[:2]:
        with pytest.raises(asyncio.CancelledError):
            await one


async def test_all_accounts_together_stay_below_the_machines_bound() -> None:
    machine = Budget(3)
    accounts = [Budget(3, machine=machine) for _ in range(2)]
    running = most = 0

    async def use(budget: Budget, guest: str) -> None:
        nonlocal running, most
        lease = await budget.acquire(guest, 0)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        lease.release()

    await asyncio.gather(*(use(accounts[n % 2], f"g{n % 5}") for n in range(60)))
    assert most == 3
    assert machine.connections.free == 3


async def test_requests_per_second_are_kept() -> None:
    budget = Budget(1000, requests_per_s=100)
    began_s = time.monotonic()
    for lease in await asyncio.gather(*(budget.acquire("a", 0) for _ in range(150))):
        lease.release()
    assert time.monotonic() - began_s >= 0.45
