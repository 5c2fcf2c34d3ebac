"""Issue 4, flow control: the order in which requests of several guests reach the backend. Order, not time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

from pvblob.client.exchange import Exchange
from pvblob.http import Body, Fields, Request, Response
from pvblob.vsc.device import Completion, Device
from pvblob.vsp.dispatch import EVENTS_PER_GUEST
from tests.waiting import until

HOST = "devstoreaccount1.blob.core.windows.net"
IN_FLIGHT = 400
# The other guest's request may wait for what the loop has in hand when it comes, and for the turn after that.
TURNS = 2


class Recorder:
    """A backend that remembers who asked; its first request holds the host's loop until the test lets go."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.held = threading.Event()
        self.go_on = threading.Event()

    async def execute(self, request: Request, body: Body) -> Response:
        if request.target == "/hold":
            self.held.set()
            assert self.go_on.wait(30)
        self.order.append(request.target)
        return Response(200, Fields([("content-length", "0")]), b"")


def submit(device: Device, target: str, count: int) -> list[Completion]:
    envelope = device.allocate(8192)
    length = envelope.write_request("GET", "https", HOST, target, [], 4096)
    request = envelope.slice(0, length)
    return [device.submit(request, device.allocate(4096), None, guid=os.urandom(16)) for _ in range(count)]


def ended(completions: list[Completion]) -> None:
    assert all(completion.wait()[0] == 0 for completion in completions)


def test_a_request_beside_a_guest_with_hundreds_waits_for_a_turn_and_not_for_the_queue(
    make_host: Callable[..., Any], request_to: Callable[..., Request]
) -> None:
    recorder = Recorder()
    host = make_host(recorder)
    with Exchange(host.socket_path) as holder, ExitStack() as stack:
        flooding, other = (stack.enter_context(closing(Device.open(host.socket_path))) for _ in range(2))
        ended(submit(flooding, "/connected", 1) + submit(other, "/connected", 1))
        holding = threading.Thread(target=holder.perform, args=(request_to("GET", "/hold"),))
        holding.start()
        assert recorder.held.wait(30)
        flood = submit(flooding, "/flood", IN_FLIGHT)  # all of them wait before the other guest's one
        alone = submit(other, "/alone", 1)
        until(lambda: {host.host.engine.queued(key) for key in (1, 2)} == {IN_FLIGHT, 1}, "the requests did not queue")
        recorder.go_on.set()
        ended(alone)
        ended(flood)
        holding.join(30)
    position = recorder.order.index("/alone")
    assert position <= TURNS * (EVENTS_PER_GUEST + 1), f"{position} requests went before it"
    assert recorder.order.count("/flood") == IN_FLIGHT
