"""Issue 4, life and death: a guest killed at any point leaves the host as it was (design rules 1 and 7).

The dying guest is this very package in a forked child: it kills itself with SIGKILL at a chosen step of what it does.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvblob.client.exchange import Exchange
from pvblob.http import Request
from pvblob.vmbus.bus import connect
from pvblob.vsc.handshake import Handshake
from tests.thread_pools import start_all_threads

RequestTo = Callable[..., Request]
# Messages of the guest's handshake, the rings' GPADL in several of them; the last one is OPENCHANNEL.
HANDSHAKE_MESSAGES = 7


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_dying_child(run: Callable[[], object]) -> None:
    """Fork, run, and expect the child to have killed itself."""
    child = os.fork()
    if child == 0:
        try:
            run()
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the child has not died where it was to"


def held() -> tuple[int, int, int]:
    """Descriptors, threads and mappings of guests' memory of this process, in which the host runs."""
    mappings = Path("/proc/self/maps").read_text().count("/memfd:pvblob-")
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), mappings


def back_at(baseline: tuple[int, int, int], host: Any) -> None:
    deadline = time.monotonic() + 20
    while host.host.guests or held() > baseline:
        assert time.monotonic() < deadline, f"{held()} is held, {baseline} before; {host.host.guests} guests"
        time.sleep(0.01)


@pytest.fixture
def warm_host(live_host: Any, request_to: RequestTo) -> Any:
    """A host that has served a guest, so that what it starts at first use has been started."""
    with Exchange(live_host.socket_path) as exchange:
        exchange.perform(request_to("PUT", "/con?restype=container"))
        body = bytes(100_000)
        put = request_to("PUT", "/con/warm", ("x-ms-blob-type", "BlockBlob"), ("content-length", str(len(body))))
        for _ in range(4):
            exchange.perform(put, body)
    start_all_threads(live_host.host._executor)
    deadline = time.monotonic() + 10
    while live_host.host.guests:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return live_host


@pytest.mark.parametrize("messages", range(HANDSHAKE_MESSAGES + 1))
def test_a_guest_that_dies_in_its_handshake_leaves_nothing(warm_host: Any, messages: int) -> None:
    """Before contact, before the offer, with half of a GPADL sent, before and after OPENCHANNEL."""
    baseline = held()

    class Dying(Handshake):
        sent = 0

        def _send(self, message: Any, descriptors: tuple[int, ...] = ()) -> None:
            if self.sent == messages:
                die()
            super()._send(message, descriptors)
            self.sent += 1

    def run() -> None:
        handshake = Dying(connect(Path(warm_host.socket_path)))
        steps = handshake.open_channel(os.urandom(16), 1 << 30)
        while True:
            try:
                next(steps)
            except StopIteration:
                die()

    in_a_dying_child(run)
    back_at(baseline, warm_host)


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_a_guest_that_dies_in_an_upload_leaves_no_space_taken(
    warm_host: Any, request_to: RequestTo, pieces: int
) -> None:
    """Rule 6: what was spooled is gone with the channel."""
    baseline = held()
    size = 20 << 20
    used_before = used_bytes(warm_host)

    class Source:
        size_bytes = size

        def chunks(self) -> Any:
            for _ in range(pieces):
                yield bytes(8 << 20)
            die()

    def run() -> None:
        head = (("x-ms-blob-type", "BlockBlob"), ("content-length", str(size)))
        Exchange(warm_host.socket_path).perform(request_to("PUT", "/con/half", *head), Source())

    in_a_dying_child(run)
    back_at(baseline, warm_host)
    spent = warm_host.host.dispatcher.spent
    assert warm_host.call(lambda: spent.uploads.count) == 0
    assert used_bytes(warm_host) == used_before
    with Exchange(warm_host.socket_path) as exchange:
        assert exchange.perform(request_to("GET", "/con/half")).status == 404


def used_bytes(host: Any) -> int:
    tails, free = host.call(lambda: host.backend._store.extents.usage())
    return int(tails - free)


def test_a_guest_that_dies_while_the_host_writes_into_its_memory_leaves_nothing(
    warm_host: Any, request_to: RequestTo
) -> None:
    """Rule 1: the mapping lives until the last copy into it has ended, and no longer; other guests read on."""
    size = 8 << 20
    data = os.urandom(size)
    bystander = Exchange(warm_host.socket_path)
    put = request_to("PUT", "/con/big", ("x-ms-blob-type", "BlockBlob"), ("content-length", str(size)))
    assert bystander.perform(put, data).status == 201
    for _ in range(3):  # whatever is kept open for a blob that is read again and again
        assert bystander.perform(request_to("GET", "/con/big")).status == 200
    baseline = held()

    def run() -> None:
        from pvblob.vsc.device import Device

        device = Device.open(warm_host.socket_path)
        envelope, room = device.allocate(8192), device.allocate(size)
        length = envelope.write_request("GET", "https", "devstoreaccount1.blob.x", "/con/big", [], 4096)
        request = envelope.slice(0, length)
        waiting = [device.submit(request, device.allocate(4096), room) for _ in range(16)]
        waiting[0].wait()  # the other fifteen are being filled or wait for it
        die()

    for _ in range(5):
        in_a_dying_child(run)
        assert bystander.perform(request_to("GET", "/con/big")).content == data
    deadline = time.monotonic() + 20
    while warm_host.host.guests > 1 or held() > baseline:
        assert time.monotonic() < deadline, f"{held()} is held, {baseline} before"
        time.sleep(0.01)
    bystander.close()


def test_a_guest_that_dies_in_mid_request_has_its_requests_cancelled(
    gated_host: Any, gate: Any, request_to: RequestTo
) -> None:
    def run() -> None:
        threads = [
            threading.Thread(target=Exchange(gated_host.socket_path).perform, args=(request_to("GET", "/wait/1"),))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for _ in range(3):
            assert os.read(ready, 1)
        die()

    ready, said = os.pipe()

    def announce() -> None:
        for _ in range(3):
            assert gate.began.acquire(timeout=20)
            os.write(said, b".")

    announcer = threading.Thread(target=announce)
    announcer.start()
    in_a_dying_child(run)
    announcer.join()
    deadline = time.monotonic() + 20
    while len(gate.cancelled) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.close(ready)
    os.close(said)
