"""Fixtures of the front's tests: a real `HttpFront` on a free port, a small backend, raw connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest

from pvblob.front import FrontLimits, HttpFront
from tests.end_to_end.conftest import http_host
from tests.front.backends import MemoryBackend
from tests.front.wire import Wire

__all__ = ["backend", "connect", "front", "http_host", "start_front", "wire"]

OTHER_ACCOUNT = "otheraccount"
OTHER_KEY = b"another key of 32 bytes, not real"


class StartFront(Protocol):
    async def __call__(self, limits: FrontLimits = ...) -> HttpFront: ...


class Connect(Protocol):
    async def __call__(self, front: HttpFront, *, limit: int = ...) -> Wire: ...


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[MemoryBackend]:
    made = MemoryBackend(tmp_path / "bytes")
    yield made
    made.close()


@pytest.fixture
async def start_front(backend: MemoryBackend) -> AsyncIterator[StartFront]:
    """Start a front with the given limits; it is stopped when the test ends."""
    async with AsyncExitStack() as stack:

        async def start(limits: FrontLimits = FrontLimits()) -> HttpFront:  # noqa: B008  (frozen)
            front = HttpFront(backend, "127.0.0.1", 0, accounts={OTHER_ACCOUNT: OTHER_KEY}, limits=limits)
            await front.start()
            stack.push_async_callback(front.stop, grace_s=1.0)
            return front

        yield start


@pytest.fixture
async def front(start_front: StartFront) -> HttpFront:
    return await start_front()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open raw connections; they are closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def open_wire(front: HttpFront, *, limit: int = 2**16) -> Wire:
            wire = await Wire.open(front.url, limit=limit)
            stack.push_async_callback(wire.close)
            return wire

        yield open_wire


@pytest.fixture
async def wire(front: HttpFront, connect: Connect) -> Wire:
    return await connect(front)
