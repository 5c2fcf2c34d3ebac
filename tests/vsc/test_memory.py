"""Design rules 2 and 10: lent memory grows by regions, buffers keep their pages, spent memory is a clear error."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pvblob.client.exchange import Exchange
from pvblob.errors import LentMemoryExhausted
from pvblob.http import Request
from pvblob.vsc.aio import AsyncDevice
from pvblob.vsc.device import Device

RequestTo = Callable[..., Request]


def test_memory_grows_on_demand_and_idle_regions_go_back(live_host: Any) -> None:
    """Rule 10: a region is lent when it is needed, and given back when nothing of it is in use."""
    device = Device.open(live_host.socket_path)
    link = device.current()
    assert link is not None
    assert link.memory.usage() == (1, 64 << 20, 0), "one region comes with the channel; nothing of it is touched"
    first = device.allocate(1)
    assert link.memory.usage()[:2] == (1, 64 << 20)
    large = device.allocate(100 << 20)
    assert link.memory.usage()[0] == 2
    del large
    link.return_idle_memory()
    assert device.allocate(4096) is not None  # a round trip: the host's answer has been handled
    link.pump()
    assert link.memory.usage()[0] == 1
    del first
    device.close()


def test_nothing_is_lent_unasked_where_little_may_be_lent(live_host: Any) -> None:
    """Rule 10: there, what the program needs first decides how the little is cut."""
    for lent_bytes_max in (1 << 20, (512 << 20) - 4096):
        device = Device.open(live_host.socket_path, lent_bytes_max=lent_bytes_max)
        link = device.current()
        assert link is not None
        assert link.memory.usage() == (0, 0, 0)
        assert len(device.allocate(lent_bytes_max)) == lent_bytes_max
        device.close()


def test_spent_memory_names_what_holds_it(live_host: Any) -> None:
    """Rule 10: when memory is spent and nothing can free it, the error says who holds what, at once."""
    device = Device(live_host.socket_path, lent_bytes_max=1 << 20)
    held = device.allocate(1 << 20)
    with pytest.raises(LentMemoryExhausted, match=r"4096 bytes do not fit.*1048576 of 1048576.*limit is 1048576"):
        device.allocate(4096)
    with pytest.raises(LentMemoryExhausted):
        device.allocate(2 << 20)
    del held
    assert len(device.allocate(4096)) == 4096
    device.close()


@pytest.mark.parametrize("waits", ["a thread", "a task"])
async def test_memory_that_grew_for_another_meanwhile_is_not_spent(
    live_host: Any, waits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 10: between finding no pages and finding no room to grow, another thread may have got all there is."""
    device = Device.open(live_host.socket_path, lent_bytes_max=1 << 20)
    link = device.current()
    assert link is not None
    begin_growth = link.begin_growth

    def grow_for_another(size_bytes: int, *, reserved_bytes: int = 0) -> int | None:
        gpa = begin_growth(size_bytes, reserved_bytes=reserved_bytes)
        while gpa is not None and not link.growth_finished(gpa):
            link.pump()
        return begin_growth(size_bytes, reserved_bytes=reserved_bytes)

    monkeypatch.setattr(link, "begin_growth", grow_for_another)
    if waits == "a thread":
        buffer = device.allocate(4096)
    else:
        buffer = await AsyncDevice(device).allocate(4096)
    assert len(buffer) == 4096
    device.close()


def test_a_request_that_does_not_fit_spent_memory_is_cut_smaller(live_host: Any, request_to: RequestTo) -> None:
    """Rule 10: a request larger than what is left travels in smaller pieces."""
    device = Device(live_host.socket_path, lent_bytes_max=2 << 20)
    exchange = Exchange(device=device)
    exchange.perform(request_to("PUT", "/small-memory?restype=container"))
    data = os.urandom(5 << 20)
    put = request_to("PUT", "/small-memory/b", ("x-ms-blob-type", "BlockBlob"), ("content-length", str(len(data))))
    assert exchange.perform(put, data).status == 201
    assert exchange.perform(request_to("GET", "/small-memory/b")).content == data
    exchange.close()


def test_pages_stay_lent_as_long_as_a_view_lives(live_host: Any, request_to: RequestTo) -> None:
    """In-place views are memoryviews numpy can use; their pages are nobody else's until the last one is gone."""
    exchange = Exchange(live_host.socket_path)
    exchange.perform(request_to("PUT", "/views?restype=container"))
    data = os.urandom(300_000)
    put = request_to("PUT", "/views/b", ("x-ms-blob-type", "BlockBlob"), ("content-length", str(len(data))))
    exchange.perform(put, data)
    answer = exchange.perform_view(request_to("GET", "/views/b"), size_bytes_max=1 << 20)
    assert answer.view is not None
    array = np.frombuffer(answer.view, np.uint8)
    assert not array.flags.writeable
    link = exchange.device().current()
    assert link is not None
    del answer
    for _ in range(20):
        exchange.perform(request_to("GET", "/views/b"))
    assert array.tobytes() == data, "other requests did not touch the pages of a living view"
    held = link.memory.usage()[2]
    del array
    gc.collect()
    assert link.memory.usage()[2] < held
    exchange.close()


def test_an_answer_lands_in_a_lent_buffer_without_a_copy_and_errors_leave_it_alone(
    live_host: Any, request_to: RequestTo
) -> None:
    """Design §3: content goes to the data buffer, errors go to the message."""
    exchange = Exchange(live_host.socket_path)
    exchange.perform(request_to("PUT", "/lent?restype=container"))
    put = request_to("PUT", "/lent/b", ("x-ms-blob-type", "BlockBlob"), ("content-length", "5"))
    exchange.perform(put, b"12345")
    out = exchange.device().allocate(10)
    memoryview(out)[:] = b"untouched!"
    missing = exchange.perform_into(request_to("GET", "/lent/none"), out)
    assert (missing.status, bytes(out)) == (404, b"untouched!")
    assert b"BlobNotFound" in missing.content
    answer = exchange.perform_into(request_to("GET", "/lent/b"), out)
    assert (answer.status, answer.written, bytes(out)) == (200, 5, b"12345" + b"ched!")
    exchange.close()
