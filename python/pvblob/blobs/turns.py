"""Whose mutation is applied next, and when a batch takes no more. Pure logic: no thread, no clock, no catalog.

A guest that asks for one thing at a time waits for the batch that is in the making or being synced when it asks, and
for its own. So it is let into the one in the making, first, and where such a guest has been seen lately, a guest with
many mutations waiting lengthens no batch beyond what a sync takes anyway. Where there is none, batches take all that
waits: a sync costs the same for one and for five hundred.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")

BATCH_MAX = 512
LATELY_S = 0.1
SYNCS_REMEMBERED = 16


class Turns(Generic[Item]):
    """Items that wait, a lane for each guest. Lanes are served in turns, a new one first; each keeps its order."""

    def __init__(self) -> None:
        self.lanes: OrderedDict[Hashable, deque[Item]] = OrderedDict()  # in the order of their turns; none is empty
        self._singles: dict[Hashable, float] = {}  # the last two guests that asked for one thing, and when

    def __len__(self) -> int:
        return sum(map(len, self.lanes.values()))

    def put(self, guest: Hashable, item: Item) -> None:
        """Let *item* wait behind what its guest has waiting."""
        lane = self.lanes.get(guest)
        if lane is None:
            lane = self.lanes[guest] = deque()
            self.lanes.move_to_end(guest, last=False)
        lane.append(item)

    def take(self, guest: Hashable) -> Item:
        """Take the first item of a guest that has one; its next one waits for a turn."""
        lane = self.lanes[guest]
        item = lane.popleft()
        if lane:
            self.lanes.move_to_end(guest)
        else:
            del self.lanes[guest]
        return item

    def note_single(self, guest: Hashable, now_s: float) -> None:
        """Remember that *guest* had one thing waiting and nothing else."""
        self._singles.pop(guest, None)
        self._singles[guest] = now_s
        if len(self._singles) > 2:
            del self._singles[next(iter(self._singles))]

    def is_waited_for(self, guest: Hashable, now_s: float) -> bool:
        """Whether somebody other than *guest* has lately asked for one thing at a time."""
        return any(other != guest and now_s - at_s < LATELY_S for other, at_s in self._singles.items())


class Batch(Generic[Item]):
    """What is taken out of *turns* for one batch, begun at *now_s* (seconds, any clock that only goes forward).

    making_s_max: how long a batch that somebody waits for is in the making.
    """

    def __init__(self, turns: Turns[Item], now_s: float, making_s_max: float) -> None:
        self._turns = turns
        self._ends_s = now_s + making_s_max
        self._guests: set[Hashable] = set()
        self._room = min(len(turns), BATCH_MAX)  # what comes later is the next batch's, unless its guest is new here

    def take(self, now_s: float) -> Item | None:
        """Take the next item; None when the batch takes no more."""
        turns = self._turns
        for guest, lane in turns.lanes.items():
            if guest not in self._guests:
                self._guests.add(guest)
                if len(lane) == 1:
                    turns.note_single(guest, now_s)
            elif self._room <= 0 or (now_s >= self._ends_s and turns.is_waited_for(guest, now_s)):
                continue
            self._room -= 1
            return turns.take(guest)
        return None


class SyncTimes:
    """What a sync takes when nothing is in its way: the shortest of the last few, in seconds."""

    def __init__(self) -> None:
        self._last: deque[float] = deque([0.0], SYNCS_REMEMBERED)

    def note(self, took_s: float) -> None:
        """Remember one."""
        self._last.append(took_s)

    @property
    def shortest_s(self) -> float:
        """The shortest of the last ones; 0.0 before there were any."""
        return min(self._last)
