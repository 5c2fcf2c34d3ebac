"""Design rule 5: the host honours every deadline, also of requests that wait for their turn; 0 means its maximum."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pvblob import _native
from pvblob.client.exchange import Exchange
from pvblob.errors import DeadlineExceeded
from pvblob.http import Request
from pvblob.vsc.device import Device
from pvblob.vsp.budget import Limits

RequestTo = Callable[..., Request]


def test_a_request_that_names_no_deadline_gets_the_hosts_longest(make_host: Callable[..., Any], gate: Any) -> None:
    host = make_host(gate, timeout_s_max=0.3)
    device = Device.open(host.socket_path)
    envelope, response = device.allocate(8192), device.allocate(4096)
    length = envelope.write_request("GET", "https", "devstoreaccount1.blob.x", "/wait/1", [], 4096)
    channel = device.connect().channel
    waiter = _native.Waiter()
    began = time.monotonic()
    token = channel.submit(waiter, envelope.slice(0, length), response, None, 0, 0, os.urandom(16))
    assert channel.wait(waiter, token, 30.0) == _native.WAIT_READY
    assert channel.take(token)[0] == _native.HRESULT["DEADLINE"]
    assert 0.25 < time.monotonic() - began < 20
    assert gate.cancelled == ["/wait/1"]
    device.close()


def test_a_request_that_waits_for_its_turn_ends_at_its_deadline_and_is_not_executed(
    make_host: Callable[..., Any], gate: Any, request_to: RequestTo
) -> None:
    host = make_host(gate, limits=Limits(requests_running_max=2))  # one at a time for one guest, see budget.Shares
    with Exchange(host.socket_path) as exchange, Exchange(host.socket_path) as other:
        running = threading.Thread(target=exchange.perform, args=(request_to("GET", "/wait/1"),))
        running.start()
        assert gate.began.acquire(timeout=20)
        with pytest.raises(DeadlineExceeded, match="did not finish within the deadline"):
            exchange.perform(request_to("GET", "/queued/1"), timeout_s=0.3)
        assert other.perform(request_to("GET", "/other/1")).status == 200, "another guest does not wait for this one"
        gate.open_gate()
        running.join(20)
        assert exchange.perform(request_to("GET", "/after/1")).status == 200
    assert "/queued/1" not in gate.ended
