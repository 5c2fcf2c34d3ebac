"""Waiting for one's turn on an event loop: `FairQueue` for coroutines.

Belongs to one loop. Cancelling whoever waits withdraws it. At most `entries_per_turn` coroutines are let in per turn
of the loop, so that a request which arrives meanwhile is seen before the rest of a long queue has been served.
"""

from __future__ import annotations

import asyncio

from pvblob.vsp.budget import FairQueue, Shares


class Turnstile:
    """Lets in coroutines of many guests (named by a number), in fair turns and within *shares*."""

    def __init__(self, shares: Shares[int], entries_per_turn: int | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: FairQueue[int, asyncio.Future[None]] = FairQueue(shares)
        self._entries_per_turn = entries_per_turn or shares.count_max
        self._scheduled = False

    async def enter(self, guest: int, size_bytes: int) -> None:
        """Wait for the turn of *guest*; the caller owes `leave` when this returns, and nothing when it raises."""
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
        for _ in range(self._entries_per_turn):
            taken = self._queue.take()
            if taken is None:
                return
            _, entry, _ = taken
            if entry.done():  # cancelled in this very turn; its `enter` finds it taken and leaves
                continue
            entry.set_result(None)
        self._schedule()

    @property
    def running(self) -> int:
        """How many are in."""
        return self._queue.shares.count

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)
