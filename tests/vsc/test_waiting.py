"""Design rule 7: many threads and loops wait on one channel, none is ours, one leads, and signals reach Python."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pvblob.client.exchange import AsyncExchange, Exchange
from pvblob.errors import DeadlineExceeded
from pvblob.http import Request

RequestTo = Callable[..., Request]


def test_eight_threads_and_two_loops_share_one_channel(live_host: Any, request_to: RequestTo) -> None:
    """Rule 7: every answer reaches the one who asked, whoever drained the ring."""
    exchange = Exchange(live_host.socket_path)
    exchange.perform(request_to("PUT", "/shared?restype=container"))
    blobs = {f"/shared/{index}": os.urandom(3000 + 977 * index) for index in range(16)}
    for target, data in blobs.items():
        put = request_to("PUT", target, ("x-ms-blob-type", "BlockBlob"), ("content-length", str(len(data))))
        assert exchange.perform(put, data).status == 201

    def read_all(times: int) -> None:
        for _ in range(times):
            for target, data in blobs.items():
                assert exchange.perform(request_to("GET", target)).content == data

    async def read_all_async() -> None:
        shared = AsyncExchange(device=exchange.device())

        async def read(target: str, data: bytes) -> None:
            for _ in range(10):
                assert (await shared.perform(request_to("GET", target))).content == data

        await asyncio.gather(*(read(target, data) for target, data in blobs.items()))

    threads_before = threading.active_count()
    with ThreadPoolExecutor(10) as pool:
        work = [pool.submit(read_all, 10) for _ in range(8)]
        work += [pool.submit(asyncio.run, read_all_async()) for _ in range(2)]
        for one in work:
            one.result(60)
    assert live_host.host.guests == 1, "one process, one channel"
    assert threading.active_count() == threads_before, "no thread of ours"
    exchange.close()


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_ctrl_c_releases_the_main_thread_in_either_role(
    gated_host: Any, gate: Any, request_to: RequestTo, role: str
) -> None:
    """Rules 5 and 7: the interrupt leaves at once, the request is cancelled at the host, the others are unharmed."""
    exchange = Exchange(gated_host.socket_path)
    other: list[object] = []

    def wait_elsewhere() -> None:
        other.append(exchange.perform(request_to("GET", "/wait/other/100")).status)

    thread = threading.Thread(target=wait_elsewhere)
    if role == "follower":
        thread.start()
        assert gate.began.acquire(timeout=10)

    def interrupt() -> None:
        assert gate.began.acquire(timeout=10)
        if role == "leader":
            thread.start()
            assert gate.began.acquire(timeout=10)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        exchange.perform(request_to("GET", "/wait/main/100"))
    interrupter.join()
    gate.open_gate()
    thread.join(10)
    assert other == [200], "whoever leaves hands the lead on"
    assert exchange.perform(request_to("GET", "/after/10")).status == 200
    exchange.close()


def test_a_cancelled_task_cancels_its_request_at_the_host(gated_host: Any, gate: Any, request_to: RequestTo) -> None:
    """Rule 5: task cancellation sends a cancel packet; the late completion frees the quarantined pages."""

    async def run() -> None:
        async with AsyncExchange(gated_host.socket_path) as exchange:
            task = asyncio.create_task(exchange.perform(request_to("GET", "/wait/100000")))
            await asyncio.to_thread(gate.began.acquire, timeout=10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await exchange.perform(request_to("GET", "/after/10"))).status == 200
            link = exchange.device().current()
            assert link is not None
            assert link.channel.counts() == (0, 0, 0), "the cancelled request was completed and absorbed"

    asyncio.run(run())
    assert gate.cancelled == ["/wait/100000"]


def test_a_deadline_passes_at_the_host_and_the_channel_lives_on(
    gated_host: Any, gate: Any, request_to: RequestTo
) -> None:
    """Rule 5: every request has a deadline, honoured by the host: 0x80070102."""
    with Exchange(gated_host.socket_path) as exchange:
        with pytest.raises(DeadlineExceeded, match="did not finish within the deadline"):
            exchange.perform(request_to("GET", "/wait/10"), timeout_s=0.2)
        assert gate.cancelled == ["/wait/10"]
        assert exchange.perform(request_to("GET", "/after/10")).status == 200


def test_a_loop_waits_while_a_thread_leads_and_takes_over_when_it_leaves(
    gated_host: Any, gate: Any, request_to: RequestTo
) -> None:
    """Rule 7: on leaving for any reason the leader hands on to one that waits, a loop included."""
    exchange = Exchange(gated_host.socket_path)

    async def run() -> list[int]:
        shared = AsyncExchange(device=exchange.device())
        with ThreadPoolExecutor(1) as pool:
            leading = asyncio.get_running_loop().run_in_executor(
                pool, lambda: exchange.perform(request_to("GET", "/wait/thread/10"), timeout_s=0.3)
            )
            await asyncio.to_thread(gate.began.acquire, timeout=10)
            waiting = asyncio.create_task(shared.perform(request_to("GET", "/wait/loop/10")))
            await asyncio.to_thread(gate.began.acquire, timeout=10)
            with pytest.raises(DeadlineExceeded):
                await leading
            gate.open_gate()
            return [(await waiting).status]

    assert asyncio.run(run()) == [200]
    exchange.close()
