"""Whose mutation is applied next, and when a batch is begun and ended. Pure logic: no thread, no clock, no catalog.

A guest that asks for one thing at a time waits for the batch that is in the making or being synced when it asks, and
for its own. So it is let into the one in the making, first; a guest with many mutations lengthens no batch beyond a
quarter of what a sync takes; and who came back at once last time is given time to, before a batch without it begins.
All this only where such a guest has been seen lately. Where there is none, batches take all that waits: a sync costs
the same for one and for five hundred (docs/decisions/0015). Times are seconds of any clock that only goes forward.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")

BATCH_MAX = 512
MAKING_SHARE = 0.25
"""How long a batch may be in the making beside such a guest, as a share of what a sync takes."""
LATELY_S = 0.1
# A program that is answered asks again within some 0.2 ms, and on a machine that is busy within a few times that.
PAUSE_S = 0.001
SYNCS_REMEMBERED = 16
GUESTS_SWEPT_AT = 64


@dataclass(slots=True)
class _Habits:
    """What is remembered of a guest. many_s: when it had several things unanswered; prompt: it asked again at once."""

    asked_s: float
    unanswered: int = 0
    many_s: float = -math.inf
    answered_s: float = -math.inf
    prompt: bool = False

    def is_single(self, now_s: float) -> bool:
        return now_s - self.asked_s < LATELY_S <= now_s - self.many_s


class Turns(Generic[Item]):
    """Items that wait, a lane for each guest. Lanes are served in turns, a new one first; each keeps its order."""

    def __init__(self) -> None:
        self.lanes: OrderedDict[Hashable, deque[Item]] = OrderedDict()  # in the order of their turns; none is empty
        self._habits: dict[Hashable, _Habits] = {}

    def __len__(self) -> int:
        return sum(map(len, self.lanes.values()))

    def put(self, guest: Hashable, item: Item, now_s: float) -> None:
        """Let *item* wait behind what its guest has waiting. The caller owes `answered`."""
        lane = self.lanes.get(guest)
        if lane is None:
            lane = self.lanes[guest] = deque()
            self.lanes.move_to_end(guest, last=False)
        lane.append(item)
        habits = self._habits.get(guest)
        if habits is None:
            habits = self._habits[guest] = _Habits(now_s)
        habits.asked_s = now_s
        habits.unanswered += 1
        if habits.unanswered > 1:
            habits.many_s = now_s
        else:
            habits.prompt = now_s - habits.answered_s < PAUSE_S

    def take(self, guest: Hashable) -> Item:
        """Take the first item of a guest that has one; its next one waits for a turn."""
        lane = self.lanes[guest]
        item = lane.popleft()
        if lane:
            self.lanes.move_to_end(guest)
        else:
            del self.lanes[guest]
        return item

    def answered(self, guest: Hashable, now_s: float) -> None:
        """One item of *guest* has its answer, or nobody waits for it any more."""
        habits = self._habits[guest]
        habits.unanswered -= 1
        habits.answered_s = now_s

    def forget_idle(self, now_s: float) -> None:
        """Forget guests that have not been seen lately, once there are many."""
        if len(self._habits) > GUESTS_SWEPT_AT + 2 * len(self.lanes):
            kept = {guest: one for guest, one in self._habits.items() if one.unanswered or one.is_single(now_s)}
            self._habits = kept

    def is_single(self, guest: Hashable, now_s: float) -> bool:
        """Whether *guest* asks for one thing at a time, and has done so lately."""
        return self._habits[guest].is_single(now_s)

    def singles(self, now_s: float) -> set[Hashable]:
        """Return the guests that ask for one thing at a time, and have done so lately."""
        return {guest for guest, habits in self._habits.items() if habits.is_single(now_s)}

    def pause_until_s(self, now_s: float) -> float:
        """Return until when the next batch may wait for a guest that asks again at once; not while one such waits."""
        singles = self.singles(now_s)
        if not singles or any(guest in singles for guest in self.lanes):
            return now_s
        awaited = (self._habits[guest] for guest in singles)
        return max((one.answered_s + PAUSE_S for one in awaited if one.prompt), default=now_s)


class Batch(Generic[Item]):
    """What is taken out of *turns* for one batch that is begun at *now_s*.

    making_s_max: how long it is in the making if somebody waits for it who asks for one thing at a time.
    """

    def __init__(self, turns: Turns[Item], now_s: float, making_s_max: float) -> None:
        self._turns = turns
        self._ends_s = now_s + making_s_max
        self._guests: set[Hashable] = set()
        self._singles = turns.singles(now_s)
        self._room = min(len(turns), BATCH_MAX)  # what comes later is the next batch's, unless its guest is new here

    def take(self, now_s: float) -> Item | None:
        """Take the next item; None when the batch takes no more."""
        turns = self._turns
        for guest in turns.lanes:
            if guest not in self._guests:
                self._guests.add(guest)
                if turns.is_single(guest, now_s):
                    self._singles.add(guest)
            elif self._room <= 0 or (now_s >= self._ends_s and self._singles - {guest}):
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
