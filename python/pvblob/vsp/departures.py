"""Guests that have gone, each ended in a turn of the loop of its own.

Ending one takes the loop as long as a hundred small requests. When a job of a hundred processes is over they go at one
moment, and whoever comes or asks in that moment is served between two of them, not behind all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Departures:
    """Those that are still to be ended, in the order in which they went. Only the loop's thread calls."""

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()

    def add(self, end: Callable[[], None]) -> None:
        """Have *end* called, in a turn in which no other one is."""
        self._queue.append(end)
        if len(self._queue) == 1:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        try:
            self._queue[0]()
        finally:
            self._queue.popleft()
            if self._queue:
                asyncio.get_running_loop().call_soon(self._next)
