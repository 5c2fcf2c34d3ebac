"""The snapshot shows requests in flight in the columns of the driver's debugfs file (azure-blob-device.md §5)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from pvblob import Client
from pvblob.http import Request
from pvblob.vsp.status import PENDING_COLUMNS, pending_text, snapshot, uuid_text
from tests.conftest import GateBackend, LiveHost


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
    assert columns == " ".join(PENDING_COLUMNS)
    assert line.split(" ")[1:5] == [
        str(request[name]) for name in ("request_len", "response_len", "data_len", "data_valid")
    ]


def test_a_uuid_is_printed_in_stored_byte_order() -> None:
    assert uuid_text(bytes(range(16))) == "00010203-0405-0607-0809-0a0b0c0d0e0f"
