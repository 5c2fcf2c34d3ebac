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


class Turns:
    """*free* places; who waits for one is served guest by guest in turn."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.waited = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def spare(self) -> int:
        """How many places nobody waits for."""
        return 0 if self._waiting else self.free

    def take_at_once(self) -> bool:
        """Take a place if nobody has to wait for it."""
        if not self.free or self._waiting:
            return False
        self.free -= 1
        return True

    async def take(self, guest: str) -> None:
        """Take a place when it is *guest*'s turn."""
        if self.take_at_once():
            return
        self.waited += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(guest, deque()).append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give_back()  # it was given to us as we were cancelled
            else:
                self._forget(guest, future)
            raise

    def give_back(self) -> None:
        """Give a place back, and on to who waits."""
        while self._waiting:
            guest, waiting = self._waiting.popitem(last=False)
            future = waiting.popleft()
            if waiting:
                self._waiting[guest] = waiting  # at the end: the others come first
            if not future.done():
                future.set_result(None)
                return
        self.free += 1

    def _forget(self, guest: str, future: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(guest)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[guest]


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
        self.connections = Turns(connections_max)
        self._requests = Rate(requests_per_s)
        self._bytes = Rate(bytes_per_s)
        # One at a time waits for the rates, so that what is left of them goes round among the guests too.
        self._next = Turns(1)
        self._machine = machine

    @property
    def waited(self) -> int:
        """How many had to wait for a connection."""
        return self.connections.waited

    async def acquire(self, guest: str, size_bytes: int) -> Lease:
        """Return a lease once it is *guest*'s turn and the rates allow it. size_bytes: of content to be sent."""
        await self._next.take(guest)
        try:
            wait_s = max(self._requests.take(1), self._bytes.take(size_bytes))
            if wait_s:
                await asyncio.sleep(wait_s)
        finally:
            self._next.give_back()
        await self.connections.take(guest)
        if self._machine is not None:
            try:
                await self._machine.connections.take(guest)
            except BaseException:
                self.connections.give_back()
                raise
        return Lease(self)

    def acquire_at_once(self) -> Lease | None:
        """Return a lease if nobody has to wait for it, else None."""
        if not self.connections.take_at_once():
            return None
        if self._machine is not None and not self._machine.connections.take_at_once():
            self.connections.give_back()
            return None
        self._requests.take(1)
        return Lease(self)

    @property
    def spare(self) -> int:
        """How many leases nobody waits for; none while a rate is overdrawn."""
        if not self._next.spare or self._requests.owes or self._bytes.owes:
            return 0
        own = self.connections.spare
        return own if self._machine is None else min(own, self._machine.spare)

    def give_back(self) -> None:
        """Take a lease back and pass it on."""
        if self._machine is not None:
            self._machine.connections.give_back()
        self.connections.give_back()

    def count_bytes(self, size_bytes: int) -> None:
        """Charge bytes that have been received already; the account's next requests wait for them."""
        self._bytes.take(size_bytes)
