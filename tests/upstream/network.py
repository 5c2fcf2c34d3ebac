"""The network between a host and the service, for tests that do not run on a loop themselves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from tests.upstream.proxy import FaultyProxy


class ProxyThread:
    """A `FaultyProxy` on a loop of its own."""

    def __init__(self, port: int) -> None:
        self.proxy = FaultyProxy(port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self._run(self.proxy.start)

    def _run(self, call: Callable[[], Any]) -> None:
        asyncio.run_coroutine_threadsafe(call(), self._loop).result(30)

    def cut_all(self) -> None:
        self._loop.call_soon_threadsafe(self.proxy.cut_all)

    def stop(self) -> None:
        self._run(self.proxy.stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()
