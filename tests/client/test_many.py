"""`get_many` and `read_many`: every read is answered once, errors are values, leaving cancels, nothing runs over."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pvblob import AsyncClient, Client, DeadlineExceeded, InvalidRange, NotFound

CONTAINER = "things"


def usage(client: Client) -> tuple[tuple[int, int, int], int]:
    """Return (in flight, abandoned, unknown completions) and the bytes of lent memory in use."""
    link = client._exchange.device().current()
    assert link is not None
    return link.channel.counts(), link.memory.usage()[2]


@pytest.mark.parametrize("in_flight", [1, 7, 32, 500])
def test_every_read_is_done_once_with_its_own_bytes(
    either: Any, client: Client, content: Callable[[int], bytes], in_flight: int
) -> None:
    """Issue 3: as they come, each with its position; 500 in flight are more than the ring holds at once."""
    draw = random.Random(in_flight)
    data = {f"b{index}": content(50_000 + index) for index in range(5)}
    for blob, one in data.items():
        client.put(CONTAINER, blob, one)
    reads = [(draw.choice(list(data)), draw.randrange(50_000), draw.randrange(1, 9000)) for _ in range(600)]
    done = {one.position: one.result() for one in either.get_many(CONTAINER, iter(reads), in_flight=in_flight)}
    assert done == {
        position: data[blob][offset : offset + length] for position, (blob, offset, length) in enumerate(reads)
    }
    buffers = [bytearray(min(length, 50_000 - offset)) for _, offset, length in reads]
    into = [(blob, offset, buffer) for (blob, offset, _), buffer in zip(reads, buffers, strict=True)]
    sizes = {one.position: one.result().size_bytes for one in either.read_many(CONTAINER, into, in_flight=in_flight)}
    assert sizes == {position: len(data[blob]) for position, (blob, _, _) in enumerate(reads)}
    for (blob, offset, _), buffer in zip(reads, buffers, strict=True):
        assert buffer == data[blob][offset : offset + len(buffer)]
    assert usage(client) == ((0, 0, 0), 0)


def test_an_error_is_its_own_reads_alone(either: Any, client: Client) -> None:
    """One failure does not lose the others; `result` raises it."""
    client.put(CONTAINER, "b", b"0123456789")
    client.put(CONTAINER, "empty", b"")
    reads = [("b", 0, 4), ("none", 0, 4), ("b", 8, 4), ("b", 10, 1), ("empty", 0, 5), ("b", 3, 0), ("b", 5, 9 << 20)]
    done = {one.position: one for one in either.get_many(CONTAINER, reads)}
    values = {position: one.value for position, one in done.items() if one.error is None}
    assert values == {0: b"0123", 2: b"89", 4: b"", 5: b"", 6: b"56789"}
    assert {position: type(one.error) for position, one in done.items() if one.error} == {1: NotFound, 3: InvalidRange}
    with pytest.raises(NotFound, match="GET /things/none"):
        done[1].result()
    short = {
        one.position: one for one in either.read_many(CONTAINER, [("b", 0, bytearray(10)), ("b", 5, bytearray(9))])
    }
    assert short[0].result().size_bytes == 10
    assert isinstance(short[1].error, InvalidRange)


def test_a_mistake_of_the_programs_is_raised(client: Client) -> None:
    client.put(CONTAINER, "b", b"0123456789")
    client.get(CONTAINER, "b", length=1)
    with pytest.raises(ValueError, match="in_flight"):
        client.get_many(CONTAINER, [], in_flight=0)
    with pytest.raises(ValueError, match="negative"):
        list(client.get_many(CONTAINER, [("b", -1, 4)]))
    with pytest.raises((TypeError, BufferError)):
        list(client.read_many(CONTAINER, [("b", 0, b"read-only!")]))
    assert usage(client) == ((0, 0, 0), 0)


def test_reads_are_taken_as_there_is_room_and_no_sooner(client: Client) -> None:
    client.put(CONTAINER, "b", b"0123456789")
    client.get(CONTAINER, "b", length=1)
    taken = 0

    def reads() -> Iterator[tuple[str, int, int]]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield "b", 0, 10

    for finished, _ in enumerate(client.get_many(CONTAINER, reads(), in_flight=4), 1):
        assert taken <= finished + 4
    assert taken == 100


def test_lent_buffers_are_filled_where_they_are(client: Client, content: Callable[[int], bytes]) -> None:
    client.put(CONTAINER, "b", content(100_000))
    lent = client._exchange.device().allocate(100_000)
    parts = [("b", at, lent.slice(at, 10_000)) for at in range(0, 100_000, 10_000)]
    assert all(done.result().size_bytes == 100_000 for done in client.read_many(CONTAINER, parts))
    assert bytes(lent) == content(100_000)


def test_spent_memory_and_credits_only_slow_it_down(make_host: Callable[..., Any], content: Any) -> None:
    """Design rules 4 and 10: a full ring, spent credits and spent pages are values; every read is done all the same."""
    host = make_host(requests_in_flight_max=3, lent_bytes_max=1 << 20)
    with Client.connect(host.socket_path) as client:
        client.create_container(CONTAINER)
        client.put(CONTAINER, "b", content(400_000))
        done = list(client.get_many(CONTAINER, [("b", at, 300_000) for at in range(40)], in_flight=20))
        assert sorted(one.position for one in done) == list(range(40))
        assert all(one.result() == content(400_000)[one.position : one.position + 300_000] for one in done)


def test_a_host_that_restarts_in_between_is_a_pause(client: Client, live_host: Any) -> None:
    """Rule 3: what was under way is read again through the new connection."""
    client.put(CONTAINER, "b", bytes(range(200)))
    seen = []
    for count, done in enumerate(client.get_many(CONTAINER, [("b", at, 1) for at in range(200)], in_flight=8)):
        seen.append((done.position, done.result()))
        if count in (20, 100):
            live_host.stop()
            live_host.start()
    assert sorted(seen) == [(at, bytes([at])) for at in range(200)]


def test_a_fork_in_between_leaves_the_parents_reads_alone(client: Client) -> None:
    """Rule 7: the child finishes the loop over a channel of its own, and cancels nothing of the parent's."""
    client.put(CONTAINER, "b", bytes(range(100)))
    reads = client.get_many(CONTAINER, [("b", at, 1) for at in range(100)], in_flight=10)
    first = next(reads)
    child = os.fork()
    if child == 0:
        try:
            rest = [first, *reads]
            right = sorted((done.position, done.result()) for done in rest) == [(at, bytes([at])) for at in range(100)]
            os._exit(0 if right else 1)
        finally:
            os._exit(2)
    rest = [first, *reads]
    assert sorted((done.position, done.result()) for done in rest) == [(at, bytes([at])) for at in range(100)]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---- leaving


@pytest.fixture
def gated(gated_host: Any) -> Iterator[Client]:
    with Client.connect(gated_host.socket_path) as connected:
        connected._exchange.device().allocate(1)
        yield connected


def settle(client: Client) -> None:
    """A round trip: the host has answered everything that was sent before."""
    assert client._exchange.perform(client._operations.read("after", "10", 0, 10, None, None)).status == 200


def test_ctrl_c_cancels_what_is_under_way(gated: Client, gate: Any) -> None:
    """Rules 2 and 5: the interrupt leaves at once, the host is told of each read, the pages come back later."""

    def interrupt() -> None:
        for _ in range(5):
            assert gate.began.acquire(timeout=10)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        list(gated.get_many("wait", [(str(number), 0, number) for number in range(100, 120)], in_flight=5))
    interrupter.join()
    settle(gated)
    assert sorted(gate.cancelled) == [f"/wait/{number}" for number in range(100, 105)]
    assert usage(gated) == ((0, 0, 0), 0)


def test_leaving_the_loop_cancels_and_quarantines(gated: Client, gate: Any) -> None:
    """Rule 2: pages of a cancelled read stay away until the host has answered."""
    reads = gated.get_many("wait", [("7", 0, 7), ("8", 0, 8)])
    waiting = threading.Thread(target=lambda: next(reads))
    waiting.start()
    for _ in range(2):
        assert gate.began.acquire(timeout=10)
    gate.open_gate()
    waiting.join(10)
    reads.close()
    settle(gated)
    assert usage(gated) == ((0, 0, 0), 0)


def test_a_cancelled_task_cancels_what_is_under_way(gated_host: Any, gate: Any) -> None:
    """Rule 5, for event loops."""

    async def run() -> None:
        async with await AsyncClient.connect(gated_host.socket_path) as client:
            client._exchange.device().allocate(1)

            async def read() -> None:
                async for _ in client.get_many("wait", [(str(number), 0, number) for number in range(10, 14)]):
                    pass

            task = asyncio.create_task(read())
            for _ in range(4):
                await asyncio.to_thread(gate.began.acquire, timeout=10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            request = client._operations.read("after", "10", 0, 10, None, None)
            assert (await client._exchange.perform(request)).status == 200
            link = client._exchange.device().current()
            assert link is not None
            assert link.channel.counts() == (0, 0, 0)

    asyncio.run(run())
    assert sorted(gate.cancelled) == ["/wait/10", "/wait/11", "/wait/12", "/wait/13"]


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_deadline_that_passes_is_an_error_as_a_value(gated_host: Any, gate: Any, kind: str) -> None:
    """Rule 5: a read that takes too long is its own error, told once, and cancelled at the host."""

    async def run() -> list[Any]:
        async with await AsyncClient.connect(gated_host.socket_path, timeout_s=0.3) as client:
            client._exchange.device().allocate(1)
            return [done async for done in client.get_many("wait", [("10", 0, 10)])]

    if kind == "asyncio":
        finished = asyncio.run(run())
    else:
        with Client.connect(gated_host.socket_path, timeout_s=0.3) as client:
            client._exchange.device().allocate(1)
            finished = list(client.get_many("wait", [("10", 0, 10)]))
    assert [type(done.error) for done in finished] == [DeadlineExceeded]
    assert gate.cancelled == ["/wait/10"]


@pytest.mark.parametrize("leaves", ["the first to wait", "the last to wait"])
async def test_batches_of_one_loop_do_not_stop_each_others_watching(gated_host: Any, gate: Any, leaves: str) -> None:
    """Design rule 7: whoever stops waiting leaves nobody behind on a channel that no one watches."""
    client = await AsyncClient.connect(gated_host.socket_path)

    async def read(size_bytes: int) -> list[int]:
        reads = [(str(size_bytes), 0, size_bytes)]
        return [len(one.result()) async for one in client.get_many("wait", reads)]

    async def begun(size_bytes: int) -> asyncio.Task[list[int]]:
        task = asyncio.create_task(read(size_bytes))
        await asyncio.to_thread(gate.began.acquire)
        return task

    first, last = await begun(100), await begun(200)
    leaving, staying = (first, last) if leaves == "the first to wait" else (last, first)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    gate.open_gate()
    assert await asyncio.wait_for(staying, timeout=10) in ([100], [200])
    await client.aclose()
