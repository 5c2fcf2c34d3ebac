"""The snapshot shows requests in flight in the columns of the driver's debugfs file (azure-blob-device.md §5)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from pvblob import Client
from pvblob.http import Body, Fields, Request, Response
from pvblob.vsc.device import Completion, Device
from pvblob.vsp.budget import Limits
from pvblob.vsp.status import PENDING_COLUMNS, pending_text, snapshot, uuid_text
from tests.conftest import GateBackend, LiveHost
from tests.waiting import until


def test_a_request_in_flight_is_shown_with_its_lengths_and_guest_addresses(
    gated_host: LiveHost, gate: GateBackend, request_to: Callable[..., Request]
) -> None:
    with Client.connect(gated_host.socket_path) as client:
        exchange = client._exchange
        done = threading.Thread(target=lambda: exchange.perform(request_to("PUT", "/wait/5"), b"12345", timeout_s=60))
        done.start()
        gate.began.acquire()
        state: Any = gated_host.call(lambda: snapshot(gated_host.host, {}))
        gate.open_gate()
        done.join()
    (request,) = state["requests"]
    assert state["requests_in_flight"] == 1
    assert request["pid"] == os.getpid()
    assert 0 < request["request_len"] < 4096
    assert request["response_len"] >= 4096
    assert request["data_valid"] == 5
    assert request["data_len"] >= 5
    buffers = [int(request[f"{part}_buffer"], 16) for part in ("request", "response", "data")]
    assert len(set(buffers)) == 3
    assert all(address >= 1 << 32 for address in buffers), "the guest's own addresses of its lent memory"
    assert state["guests"][0]["channels"][0]["in_flight"] == 1
    head, columns, line = pending_text(state).splitlines()
    assert head == "List of pending requests"
    assert columns == " ".join((*PENDING_COLUMNS, "state"))
    assert line.endswith(" running")
    assert line.split(" ")[1:5] == [
        str(request[name]) for name in ("request_len", "response_len", "data_len", "data_valid")
    ]


class Unread:
    """A backend that reads no body before the test lets it."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()

    async def execute(self, request: Request, body: Body) -> Response:
        self.began.set()
        await asyncio.to_thread(self.go_on.wait, 30)
        await body.read()
        return Response(201, Fields([("content-length", "0")]), b"")


def test_a_piece_of_an_upload_that_waits_to_be_stored_is_a_request_in_flight(
    make_host: Callable[..., LiveHost], request_to: Callable[..., Request]
) -> None:
    backend = Unread()
    host = make_host(backend)
    size = 40 << 20
    with Client.connect(host.socket_path) as client:
        put = request_to("PUT", "/con/big", ("content-length", str(size)))
        done = threading.Thread(target=client._exchange.perform, args=(put, bytes(size)))
        done.start()
        assert backend.began.wait(20)
        state: Any = host.call(lambda: snapshot(host.host, {}))
        backend.go_on.set()
        done.join(60)
    (request,) = state["requests"]
    assert state["requests_in_flight"] == 1
    assert 0 < request["data_valid"] < size
    assert request["age_s"] >= 0
    assert len(pending_text(state).splitlines()) == 3


class Looking:
    """A backend whose first request holds the loop, then looks at the host; the rest wait for the end."""

    def __init__(self) -> None:
        self.host: Any = None
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.ending = asyncio.Event()
        self.state: Any = None

    async def execute(self, request: Request, body: Body) -> Response:
        if request.target == "/look":
            self.began.set()
            assert self.go_on.wait(30)
            self.state = snapshot(self.host, {})
        else:
            await self.ending.wait()
        return Response(200, Fields([("content-length", "0")]), b"")


def begin(device: Device, target: str, count: int) -> list[Completion]:
    envelope = device.allocate(8192)
    length = envelope.write_request("GET", "https", "devstoreaccount1.blob.core.windows.net", target, [], 4096)
    request = envelope.slice(0, length)
    return [device.submit(request, device.allocate(4096), None, guid=os.urandom(16)) for _ in range(count)]


def states(state: Any) -> Counter[str]:
    return Counter(request["state"] for request in state["requests"])


def test_requests_that_python_has_not_taken_or_not_let_in_are_shown_too(make_host: Callable[..., LiveHost]) -> None:
    backend = Looking()
    host = make_host(backend)
    backend.host = host.host
    device = Device.open(host.socket_path)
    sent = begin(device, "/look", 1)
    assert backend.began.wait(30)
    sent += begin(device, "/wait", 100)
    until(lambda: host.host.engine.waiting(0)[0] == 100, "the requests did not arrive")
    backend.go_on.set()
    sent[0].wait()
    assert states(backend.state) == {"running": 1, "queued": 100}
    assert backend.state["requests_in_flight"] == 101
    assert len(pending_text(backend.state).splitlines()) == 2 + 101
    assert pending_text(backend.state).splitlines()[-1].endswith(" queued")
    until(lambda: host.host.engine.waiting(0)[0] == 0, "Python did not take the requests")
    alone = Limits().requests_running_max // 2
    expected = {"running": alone, "waiting": 100 - alone}
    until(lambda: host.call(lambda: states(snapshot(host.host, {}))) == expected, "the states did not come about")
    host.call(backend.ending.set)
    assert all(one.wait()[0] == 0 for one in sent[1:])
    device.close()


def test_a_uuid_is_printed_in_stored_byte_order() -> None:
    assert uuid_text(bytes(range(16))) == "00010203-0405-0607-0809-0a0b0c0d0e0f"
