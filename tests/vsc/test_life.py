"""Design rules 3, 4 and 7: restarts, forks and pickles; what is pending is repeated, fails, or is never sent twice."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest

from pvblob import AsyncClient, Client
from pvblob.client.exchange import AsyncExchange, Exchange
from pvblob.errors import DeviceGone, HostUnavailable
from pvblob.http import Request
from pvblob.vsc.handshake import Handshake
from tests.conftest import rest
from tests.waiting import until

RequestTo = Callable[..., Request]


def make_container(exchange: Exchange, request_to: RequestTo, name: str) -> None:
    assert exchange.perform(request_to("PUT", f"/{name}?restype=container")).status == 201


def put(request_to: RequestTo, target: str, size_bytes: int) -> Request:
    return request_to("PUT", target, ("x-ms-blob-type", "BlockBlob"), ("content-length", str(size_bytes)))


def test_no_host_is_a_clear_error(tmp_path: Any, request_to: RequestTo) -> None:
    with pytest.raises(HostUnavailable, match="pvblob serve"):
        Exchange(str(tmp_path / "nobody.sock")).perform(request_to("GET", "/x"))


def test_a_restarted_host_is_a_pause_and_not_an_error(live_host: Any, request_to: RequestTo) -> None:
    """Rule 3: handles recover by themselves; reads and writes go on."""
    exchange = Exchange(live_host.socket_path)
    make_container(exchange, request_to, "restart")
    assert exchange.perform(put(request_to, "/restart/b", 3), b"abc").status == 201
    live_host.stop()
    restarter = threading.Timer(0.2, live_host.start)
    restarter.start()
    assert exchange.perform(request_to("GET", "/restart/b")).content == b"abc"
    restarter.join()
    live_host.stop()
    live_host.start()
    assert exchange.perform(put(request_to, "/restart/c", 3), b"def").status == 201
    exchange.close()


def test_a_read_that_was_pending_when_the_host_stopped_is_asked_again(
    gated_host: Any, gate: Any, request_to: RequestTo
) -> None:
    """Rule 3: reads are repeated below the seam, within their deadline."""
    exchange = Exchange(gated_host.socket_path)

    def restart() -> None:
        assert gate.began.acquire(timeout=10)
        gated_host.stop()
        gate.open_gate()
        gated_host.start()

    restarter = threading.Thread(target=restart)
    restarter.start()
    assert exchange.perform(request_to("GET", "/wait/100")).status == 200
    restarter.join()
    assert gate.ended == ["/wait/100"]
    exchange.close()


def test_a_write_whose_host_never_comes_back_ends_within_its_deadline(
    gated_host: Any, gate: Any, request_to: RequestTo
) -> None:
    """Rule 5: no wait without a bound, also while the host is away."""
    exchange = Exchange(gated_host.socket_path)

    def stop() -> None:
        assert gate.began.acquire(timeout=10)
        gated_host.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises((HostUnavailable, DeviceGone)):
        exchange.perform(put(request_to, "/wait/1", 3), b"abc", timeout_s=1.0)
    stopper.join()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_opens_its_own_channel_and_the_parent_works_on(
    live_host: Any, request_to: RequestTo, method: str
) -> None:
    """Rule 7: a channel belongs to the process that opened it; handles pickle as settings."""
    exchange = Exchange(live_host.socket_path)
    make_container(exchange, request_to, f"child-{method}")
    target = f"/child-{method}/b"
    exchange.perform(put(request_to, target, 4), b"once")
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as children:
        answers = [children.submit(exchange.perform, request_to("GET", target)) for _ in range(4)]
        assert [answer.result(60).content for answer in answers] == [b"once"] * 4
    assert exchange.perform(request_to("GET", target)).content == b"once"
    exchange.close()


def test_a_child_forked_in_mid_request_neither_hangs_nor_disturbs_it(
    gated_host: Any, gate: Any, request_to: RequestTo
) -> None:
    """Rule 7: locks held by threads the child does not have are replaced; the parent's request ends normally."""
    exchange = Exchange(gated_host.socket_path)
    statuses: list[int] = []
    waiting = threading.Thread(target=lambda: statuses.append(exchange.perform(request_to("GET", "/wait/100")).status))
    waiting.start()
    assert gate.began.acquire(timeout=10)
    held = exchange.device().allocate(4096)
    child = os.fork()
    if child == 0:
        del held  # inherited pages are forgotten, not given back
        ok = exchange.perform(request_to("GET", "/in-child/10")).status == 200
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    gate.open_gate()
    waiting.join(10)
    assert statuses == [200]
    exchange.close()


def test_a_closed_exchange_opens_again_at_its_next_use(live_host: Any, request_to: RequestTo) -> None:
    exchange = Exchange(live_host.socket_path)
    make_container(exchange, request_to, "again")
    exchange.close()
    assert exchange.perform(request_to("GET", "/again?restype=container")).status == 200
    exchange.close()


def test_a_host_that_ends_while_it_takes_us_is_waited_for(live_host: Any, request_to: RequestTo) -> None:
    """Rule 3: a guest that meets a rescind in its very first handshake sees a pause and no error."""
    live_host.stop()
    ending = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ending.bind(live_host.socket_path)
    ending.listen()

    def end_and_return() -> None:
        taken, _ = ending.accept()
        taken.close()
        ending.close()
        Path(live_host.socket_path).unlink()
        live_host.start()

    ender = threading.Thread(target=end_and_return)
    ender.start()
    with Exchange(live_host.socket_path) as exchange:
        assert exchange.perform(request_to("PUT", "/waited?restype=container")).status == 201
    ender.join()


def test_a_device_withdrawn_from_a_busy_guest_is_a_pause(live_host: Any, request_to: RequestTo) -> None:
    """Rule 3: rescind waits for nobody; reads, writes and growing memory go on over the next channel."""
    exchange = Exchange(live_host.socket_path)
    make_container(exchange, request_to, "withdrawn")
    data = os.urandom(100_000)
    ending = threading.Event()

    def withdraw() -> None:
        while not ending.wait(0.02):
            live_host.call(live_host.host.rescind)

    withdrawing = threading.Thread(target=withdraw)
    withdrawing.start()
    try:
        for turn in range(5):
            target = f"/withdrawn/{turn}"
            condition = ("if-none-match", "*")  # executed twice, it would be refused
            head = (("x-ms-blob-type", "BlockBlob"), ("content-length", "100000"), condition)
            assert exchange.perform(request_to("PUT", target, *head), data).status == 201
            assert exchange.perform(request_to("GET", target)).content == data
    finally:
        ending.set()
        withdrawing.join()
    exchange.close()


def test_tasks_that_all_find_no_connection_make_one(
    live_host: Any, request_to: RequestTo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A withdrawn device is connected to once per process, not once per request that waited for it."""
    handshakes = 0
    begin = Handshake.__init__

    def counted(self: Handshake, *arguments: Any) -> None:
        nonlocal handshakes
        handshakes += 1
        begin(self, *arguments)

    monkeypatch.setattr(Handshake, "__init__", counted)

    async def run() -> list[int]:
        async with AsyncExchange(live_host.socket_path) as exchange:
            list_all = request_to("GET", "/?comp=list")
            answers = await asyncio.gather(*(exchange.perform(list_all) for _ in range(20)))
            return [answer.status for answer in answers]

    assert asyncio.run(run()) == [200] * 20
    assert handshakes == 1


async def test_a_closed_client_is_gone_for_the_host_while_its_loop_runs_on(
    live_host: Any, request_to: RequestTo
) -> None:
    """`Link.close`: the host lets go of everything at once, not when the loop's last reference is collected."""
    exchange = AsyncExchange(live_host.socket_path)
    assert (await exchange.perform(request_to("GET", "/?comp=list"))).status == 200
    gc.disable()
    try:
        await exchange.aclose()
        until(lambda: live_host.call(lambda: live_host.host.guests) == 0, "the host still has the guest")
    finally:
        gc.enable()


# ---- a handshake that meets a rescind, at each of its steps


class RescindAtStep:
    """Has the host withdraw every device before or after the guest's message number *step*, once.

    The host must have noticed guests of before go, and this one come: else there is nobody to withdraw from.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, live_host: Any, step: int, *, before: bool) -> None:
        self.sent = 0
        self._host = live_host
        self._await_guests(0)
        send = Handshake._send

        def rescinding(handshake: Handshake, *message: Any) -> None:
            self.sent += 1
            at_step = self.sent == step
            if at_step and before:
                self._rescind()
            send(handshake, *message)
            if at_step and not before:
                self._rescind()

        monkeypatch.setattr(Handshake, "_send", rescinding)

    def _rescind(self) -> None:
        self._await_guests(1)
        self._host.call(self._host.host.rescind)

    def _await_guests(self, count: int) -> None:
        until(lambda: self._host.call(lambda: self._host.host.guests) == count, f"not {count} guests")


def connect_blocking(socket_path: str) -> bool:
    with Client.connect(socket_path) as client:
        return not list(client.list_containers())


def call_first(socket_path: str) -> bool:
    with Exchange(socket_path) as exchange:
        return exchange.perform(rest("GET", "/?comp=list")).status == 200


def register_first(socket_path: str) -> bool:
    shm = SharedMemory(create=True, size=4096)
    try:
        with Exchange(socket_path) as exchange, exchange.register(shm) as registered:
            return registered.is_lent
    finally:
        shm.close()
        shm.unlink()


def connect_on_a_loop(socket_path: str) -> bool:
    async def run() -> bool:
        async with await AsyncClient.connect(socket_path) as client:
            return not [container async for container in client.list_containers()]

    return asyncio.run(run())


BEGINNINGS = (connect_blocking, call_first, register_first, connect_on_a_loop)


@pytest.mark.parametrize("begin", BEGINNINGS)
def test_a_rescind_at_any_step_of_the_handshake_is_a_pause(
    live_host: Any, begin: Callable[[str], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 3: an explicit connect tries again within its deadline as any call does."""
    with monkeypatch.context() as patch:
        counted = RescindAtStep(patch, live_host, 0, before=True)
        assert begin(live_host.socket_path)
    assert counted.sent >= 5, "contact, offers, memory, GPADL, open"
    for step in range(1, counted.sent + 1):
        for before in (True, False):
            with monkeypatch.context() as patch:
                met = RescindAtStep(patch, live_host, step, before=before)
                assert begin(live_host.socket_path), f"step {step}, before: {before}"
            assert met.sent > counted.sent or step == counted.sent, f"step {step}: the host did not withdraw"
