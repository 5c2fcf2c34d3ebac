"""What one account, and all of them together, may take of the machine: connections, requests and bytes per second.

Who waits is served guest by guest in turn, each guest's own requests in order, so one that asks for a thousand things
delays another by one. Invariant: never more leases than the bound; a lease is given back exactly once.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from dataclasses import dataclass


class Rate:
    """A bucket that fills with *per_s* tokens a second and holds one second's worth; None: no limit."""

    def __init__(self, per_s: float | None) -> None:
        self._per_s = per_s
        self._tokens = per_s or 0.0
        self._at_s = time.monotonic()

    def take(self, amount: float) -> float:
        """Take *amount*; return how many seconds to wait before it may be used (what is missing is owed)."""
        if self._per_s is None:
            return 0.0
        now_s = time.monotonic()
        self._tokens = min(self._per_s, self._tokens + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        self._tokens -= amount
        return max(0.0, -self._tokens / self._per_s)

    @property
    def owes(self) -> bool:
        """Whether more was taken than there was: whoever takes next waits."""
        return self._per_s is not None and self._tokens + (time.monotonic() - self._at_s) * self._per_s < 0


@dataclass(slots=True)
class Lease:
    """A right to one connection, until `release`."""

    budget: Budget
    held: bool = True

    def release(self) -> None:
        """Give it back; idempotent."""
        if self.held:
            self.held = False
            self.budget.give_back()

    def used(self, size_bytes: int) -> None:
        """Count bytes that came; the account's next requests wait for them."""
        self.budget.count_bytes(size_bytes)


class Budget:
    """Bounds of one account; *machine*: the bounds of all of them, asked second."""

    def __init__(
        self,
        connections_max: int,
        *,
        requests_per_s: float | None = None,
        bytes_per_s: float | None = None,
        machine: Budget | None = None,
    ) -> None:
        self._free = connections_max
        self._requests = Rate(requests_per_s)
        self._bytes = Rate(bytes_per_s)
        self._machine = machine
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self.waited = 0

    async def acquire(self, guest: str, size_bytes: int) -> Lease:
        """Return a lease once it is *guest*'s turn and the rates allow it. size_bytes: of content to be sent."""
        await self._turn(guest)
        try:
            if self._machine is not None:
                await self._machine._turn(guest)
            wait_s = max(self._requests.take(1), self._bytes.take(size_bytes))
            if wait_s:
                try:
                    await asyncio.sleep(wait_s)
                except BaseException:
                    if self._machine is not None:
                        self._machine._give_back_own()
                    raise
        except BaseException:
            self._give_back_own()
            raise
        return Lease(self)

    def acquire_at_once(self) -> Lease | None:
        """Return a lease if nobody has to wait for it, else None."""
        machine = self._machine
        if not self._free or self._waiting or (machine is not None and (not machine._free or machine._waiting)):
            return None
        self._free -= 1
        if machine is not None:
            machine._free -= 1
        self._requests.take(1)
        return Lease(self)

    @property
    def spare(self) -> int:
        """How many leases nobody waits for; none while a rate is overdrawn."""
        if self._waiting or self._requests.owes or self._bytes.owes:
            return 0
        return self._free if self._machine is None else min(self._free, self._machine.spare)

    def give_back(self) -> None:
        """Take a lease back and pass it on."""
        if self._machine is not None:
            self._machine._give_back_own()
        self._give_back_own()

    def count_bytes(self, size_bytes: int) -> None:
        """Charge bytes that have been received already."""
        self._bytes.take(size_bytes)

    async def _turn(self, guest: str) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        self.waited += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(guest, deque()).append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._give_back_own()  # it was given to us as we were cancelled
            else:
                self._forget(guest, future)
            raise

    def _forget(self, guest: str, future: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(guest)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[guest]

    def _give_back_own(self) -> None:
        while self._waiting:
            guest, waiting = self._waiting.popitem(last=False)
            future = waiting.popleft()
            if waiting:
                self._waiting[guest] = waiting  # at the end: the others come first
            if not future.done():
                future.set_result(None)
                return
        self._free += 1
