"""Waiting for one's turn on an event loop: `FairQueue` for coroutines.

Belongs to one loop. Cancelling whoever waits withdraws it. One is let in per turn of the loop, so that a request which
arrives meanwhile waits for one at most, and not for the rest of a long queue; turns cost too little to let in more. A
guest that has nothing else here enters at once, once per turn of the loop: it is its turn whenever it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pvblob.vsp.budget import FairQueue, Shares


class Turnstile:
    """Lets in coroutines of many guests (named by a number), in fair turns and within *shares*.

    weight_of: as for `FairQueue`.
    """

    def __init__(self, shares: Shares[int], weight_of: Callable[[int], float] = lambda _guest: 1.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: FairQueue[int, asyncio.Future[None]] = FairQueue(shares, weight_of)
        self._scheduled = False
        self._at_once: set[int] = set()  # who has entered without waiting in this turn of the loop

    async def enter(self, guest: int, size_bytes: int) -> None:
        """Wait for the turn of *guest*; the caller owes `leave` when this returns, and nothing when it raises."""
        if guest not in self._at_once and self._queue.take_at_once(guest, size_bytes):
            if not self._at_once:
                self._loop.call_soon(self._at_once.clear)
            self._at_once.add(guest)
            return
        entry = self._loop.create_future()
        self._queue.put(guest, entry, size_bytes)
        self._schedule()
        try:
            await entry
        except asyncio.CancelledError:
            if not self._queue.withdraw(guest, entry):
                self.leave(guest, size_bytes)
            raise

    def leave(self, guest: int, size_bytes: int) -> None:
        """Give the place back."""
        self._queue.leave(guest, size_bytes)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._let_in)

    def _let_in(self) -> None:
        self._scheduled = False
        taken = self._queue.take()
        if taken is None:
            return
        _, entry, _ = taken
        if not entry.done():  # else cancelled in this very turn; its `enter` finds it taken and leaves
            entry.set_result(None)
        if len(self._queue):
            self._schedule()

    @property
    def running(self) -> int:
        """How many are in."""
        return self._queue.shares.count

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)
