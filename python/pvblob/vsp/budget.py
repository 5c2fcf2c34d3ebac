"""What one machine has for all its guests, and whose turn it is. Pure logic: no loop, no clock, no request.

`Shares` bounds what is taken together and leaves room for whoever comes next: a guest may take as much again as is
still free (dynamic thresholds, Choudhury and Hahne 1998), so one alone gets half of everything, and a guest that holds
nothing may always take one. `FairQueue` orders those who wait by start-time fair queueing (Goyal, Vin and Cheng 1996):
a guest with a thousand requests waiting and a guest with one are served in turns, by cost and weight.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Guest = TypeVar("Guest", bound=Hashable)
Item = TypeVar("Item", bound=Hashable)

# What a request costs besides its bytes: one takes Python about as long as 256 KiB take a thread of the pool.
REQUEST_COST_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Limits:
    """What the host spends on all guests together.

    requests_running_max: requests that Python executes at a time; more would add delay and no throughput, because one
    core executes them and a commit takes whatever waits.  body_bytes_running_max: bytes of their bodies.
    fill_bytes_max: bytes of file contents that the threads which read files are given at a time.
    uploads_max, upload_bytes_max: uploads in pieces that have begun, and the disk space they have claimed.
    kept_answers_max, kept_bytes_max: answers kept for their later pieces, and the private bytes of those.
    """

    requests_running_max: int = 64
    body_bytes_running_max: int = 512 << 20
    fill_bytes_max: int = 32 << 20
    uploads_max: int = 2048
    upload_bytes_max: int = 64 << 30
    kept_answers_max: int = 8192
    kept_bytes_max: int = 512 << 20


@dataclass(slots=True)
class _Held:
    count: int = 0
    size_bytes: int = 0


class Shares(Generic[Guest]):
    """Bounds a count and a number of bytes over all guests. Total held ≤ the bounds + one item per guest."""

    def __init__(self, count_max: int, size_bytes_max: int) -> None:
        self.count_max = count_max
        self.size_bytes_max = size_bytes_max
        self.count = 0
        self.size_bytes = 0
        self._held: dict[Guest, _Held] = {}

    def may_take(self, guest: Guest, size_bytes: int) -> bool:
        """Whether *guest* may hold one more item of *size_bytes*."""
        held = self._held.get(guest)
        if held is None:
            return True
        return held.count < self.count_max - self.count and (
            held.size_bytes + size_bytes <= self.size_bytes_max - self.size_bytes
        )

    def take(self, guest: Guest, size_bytes: int) -> None:
        """Count an item of *size_bytes* as held by *guest*; the caller owes `give`."""
        held = self._held.setdefault(guest, _Held())
        held.count += 1
        held.size_bytes += size_bytes
        self.count += 1
        self.size_bytes += size_bytes

    def give(self, guest: Guest, size_bytes: int) -> None:
        """Count an item of *size_bytes* as held no longer."""
        held = self._held[guest]
        held.count -= 1
        held.size_bytes -= size_bytes
        self.count -= 1
        self.size_bytes -= size_bytes
        if not held.count:
            del self._held[guest]

    def held_by(self, guest: Guest) -> int:
        """Return how many items *guest* holds."""
        held = self._held.get(guest)
        return held.count if held is not None else 0


@dataclass(slots=True)
class _Flow(Generic[Item]):
    """One guest's waiting items with their sizes. start: the virtual time at which the first of them is due."""

    start: float
    waiting: OrderedDict[Item, int] = field(default_factory=OrderedDict)
    parked: bool = False  # its first item may not be taken now; a `leave` looks again


class FairQueue(Generic[Guest, Item]):
    """Items of many guests, each guest's in their order, taken in fair turns and within *shares*.

    weight_of: a guest's weight; one of weight 2 is served twice as much when both wait.
    """

    def __init__(self, shares: Shares[Guest], weight_of: Callable[[Guest], float] = lambda _guest: 1.0) -> None:
        self.shares = shares
        self._weight_of = weight_of
        self._flows: dict[Guest, _Flow[Item]] = {}
        self._due: list[tuple[float, int, Guest]] = []  # a heap; entries of flows that changed since are stale
        self._parked: OrderedDict[Guest, None] = OrderedDict()
        self._order = itertools.count()
        self._now = 0.0  # virtual time: the start of what was taken last

    def put(self, guest: Guest, item: Item, size_bytes: int) -> None:
        """Let *item* wait for its turn."""
        flow = self._flows.get(guest)
        if flow is None:
            flow = self._flows[guest] = _Flow(self._now)
        if not flow.waiting:
            flow.start = max(flow.start, self._now)
            heapq.heappush(self._due, (flow.start, next(self._order), guest))
        flow.waiting[item] = size_bytes

    def take_at_once(self, guest: Guest, size_bytes: int) -> bool:
        """Take an item that has not waited, of a guest that holds nothing and has nothing waiting: its turn is now.

        False for any other guest. The caller owes `leave`.
        """
        if guest in self._flows:
            return False
        flow = self._flows[guest] = _Flow(self._now)
        self._taken(guest, flow, size_bytes)
        return True

    def take(self) -> tuple[Guest, Item, int] | None:
        """Take the item whose turn it is, with its size; None when none may be taken now. The caller owes `leave`."""
        while self._due:
            start, _, guest = heapq.heappop(self._due)
            flow = self._flows.get(guest)
            if flow is None or not flow.waiting or flow.parked or flow.start != start:
                continue
            item, size_bytes = next(iter(flow.waiting.items()))
            if not self.shares.may_take(guest, size_bytes):
                flow.parked = True
                self._parked[guest] = None
                continue
            del flow.waiting[item]
            self._taken(guest, flow, size_bytes)
            return guest, item, size_bytes
        return None

    def _taken(self, guest: Guest, flow: _Flow[Item], size_bytes: int) -> None:
        self.shares.take(guest, size_bytes)
        self._now = flow.start
        flow.start += (REQUEST_COST_BYTES + size_bytes) / self._weight_of(guest)
        if flow.waiting:
            heapq.heappush(self._due, (flow.start, next(self._order), guest))

    def leave(self, guest: Guest, size_bytes: int) -> None:
        """An item that was taken is done with: its share is free again."""
        self.shares.give(guest, size_bytes)
        # Every parked guest holds something, so its own `leave` comes; room that others leave goes to the first.
        self._unpark(guest)
        if self._parked:
            self._unpark(next(iter(self._parked)))
        self._forget_idle(guest)

    def withdraw(self, guest: Guest, item: Item) -> bool:
        """Let *item* wait no longer; False when it does not wait (any more)."""
        flow = self._flows.get(guest)
        if flow is None or flow.waiting.pop(item, None) is None:
            return False
        self._unpark(guest)  # what was too big may have been this one
        self._forget_idle(guest)
        return True

    def _unpark(self, guest: Guest) -> None:
        if guest in self._parked:
            del self._parked[guest]
            flow = self._flows[guest]
            flow.parked = False
            heapq.heappush(self._due, (flow.start, next(self._order), guest))

    def _forget_idle(self, guest: Guest) -> None:
        flow = self._flows.get(guest)
        if flow is not None and not flow.waiting and not self.shares.held_by(guest):
            del self._flows[guest]

    def __len__(self) -> int:
        return sum(len(flow.waiting) for flow in self._flows.values())

    @property
    def guests(self) -> int:
        """How many guests have something waiting or running."""
        return len(self._flows)
