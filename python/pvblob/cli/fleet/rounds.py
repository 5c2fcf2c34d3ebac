"""Measures paths side by side: everyone stands by, rounds in changing order, one path at work at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pvblob.cli.fleet.contestants import Contestant
from pvblob.cli.fleet.failure import ContestFailure
from pvblob.cli.fleet.measurement import Measurement, Order
from pvblob.cli.fleet.venue import Narrate
from pvblob.cli.fleet.workers.contract import Task


class Stage(NamedTuple):
    """What is measured round by round. seconds, cold: see `Order`."""

    title: str
    task: Task
    seconds: float
    rounds: int
    cold: str = ""


class Found(NamedTuple):
    """What the rounds of a stage brought, by the path's key.

    failed: why a path ended early; what it had measured before does not count.
    """

    measured: dict[str, list[Measurement]]
    failed: dict[str, str]


def run_stage(contestants: Sequence[Contestant], stage: Stage, narrate: Narrate, *, check_all: bool) -> Found:
    """Measure every contestant once a round; a round begins one further than the one before.

    check_all: in the first round every byte is compared before, outside the clock. A contestant that fails is left out
    from then on.
    """
    found = Found({one.path.key: [] for one in contestants}, {})
    total = stage.rounds * len(contestants)
    for number in range(stage.rounds):
        turn = number % max(1, len(contestants))
        for position, one in enumerate([*contestants[turn:], *contestants[:turn]]):
            if one.path.key in found.failed:
                continue
            narrate(f"{stage.title}: {one.path.title}", number * len(contestants) + position, total)
            order = Order(
                stage.task, f"round {number}", stage.seconds, check_all and number == 0, number == 0, stage.cold
            )
            try:
                found.measured[one.path.key].append(one.measure(order))
            except ContestFailure as failure:
                found.failed[one.path.key] = str(failure)
                del found.measured[one.path.key]
    return found
