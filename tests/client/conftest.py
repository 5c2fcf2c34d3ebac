"""Both clients over a real channel to a live host, seen through one face, so that one suite holds both to the rules."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pvblob import AsyncClient, Client

CONTAINER = "things"


class Awaited:
    """An AsyncClient whose calls are run to their end on one event loop: coroutines to values, iterators to lists."""

    def __init__(self, runner: asyncio.Runner, client: AsyncClient) -> None:
        self._runner = runner
        self._client = client

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._client, name)
        return lambda *args, **options: self._finish(member(*args, **options))

    def _finish(self, given: Any) -> Any:
        if inspect.isasyncgen(given):

            async def collect() -> list[Any]:
                return [entry async for entry in given]

            return self._runner.run(collect())
        return self._runner.run(given) if inspect.iscoroutine(given) else given


@pytest.fixture
def client(live_host: Any) -> Iterator[Client]:
    """A blocking client; the container `things` exists."""
    with Client.connect(live_host.socket_path) as connected:
        connected.create_container(CONTAINER)
        yield connected


@pytest.fixture(params=["Client", "AsyncClient"])
def either(request: pytest.FixtureRequest, client: Client, live_host: Any) -> Iterator[Any]:
    """A blocking client, then an asyncio client."""
    if request.param == "Client":
        yield client
        return
    with asyncio.Runner() as runner:
        connected = runner.run(AsyncClient.connect(live_host.socket_path))
        yield Awaited(runner, connected)
        runner.run(connected.aclose())


@pytest.fixture
def content() -> Callable[[int], bytes]:
    """Return a function that makes bytes which differ at every position of a page and from page to page."""

    def make(size_bytes: int) -> bytes:
        unit = bytes(range(256)) * 16 + b"pvblob!"
        return (unit * (size_bytes // len(unit) + 1))[:size_bytes]

    return make
