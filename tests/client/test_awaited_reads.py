"""Single reads of `AsyncClient`: sent in one call, awaited on the loop, cancelled with their task, fair to others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pvblob import AsyncClient
from pvblob.client.awaited_reads import TURNS_MAX


@pytest.mark.parametrize("kind", ["get", "read_into"])
async def test_cancelling_a_task_cancels_its_read_at_the_host_and_leaves_its_buffer_alone(
    gated_host: Any, gate: Any, kind: str
) -> None:
    client = await AsyncClient.connect(gated_host.socket_path)
    buffer = bytearray(100)
    read = client.get("wait", "100", length=100) if kind == "get" else client.read_into("wait", "100", buffer)
    task = asyncio.create_task(read)
    await asyncio.to_thread(gate.began.acquire)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await client.get("other", "50", length=50)) == 50  # the host answers in turn: the cancel came before
    gate.open_gate()
    assert gate.cancelled == ["/wait/100"]
    assert buffer == bytes(100)
    await client.aclose()


async def test_reads_that_wait_beside_others_are_answered_each_in_its_time(gated_host: Any, gate: Any) -> None:
    client = await AsyncClient.connect(gated_host.socket_path)
    waiting = [asyncio.create_task(client.get("wait", str(size), length=size)) for size in (10, 20, 30)]
    for _ in waiting:
        await asyncio.to_thread(gate.began.acquire)
    assert len(await client.get("other", "5000", length=5000)) == 5000
    assert not any(task.done() for task in waiting)
    gate.open_gate()
    assert [len(content) for content in await asyncio.gather(*waiting)] == [10, 20, 30]
    await client.aclose()


async def test_a_row_of_quick_reads_lets_other_tasks_have_their_turns(live_host: Any) -> None:
    client = await AsyncClient.connect(live_host.socket_path)
    await client.create_container("con")
    await client.put("con", "b", b"0123456789")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    rounds = 4
    for _ in range(rounds * TURNS_MAX):
        assert await client.get("con", "b", offset=2, length=3) == b"234"
    task.cancel()
    assert turns >= rounds
    await client.aclose()
