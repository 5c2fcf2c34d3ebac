"""The contest of `pvblob demo`: one fleet, reading everything once a round over every path.

`run(settings, narrate)` → `Outcome`. Whatever ends it, Ctrl-C and errors included, every process and file it made is
gone when it returns. What the numbers look like is `report`'s business.
"""

from __future__ import annotations

import math
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pvblob.cli.fleet.contestants import contestant
from pvblob.cli.fleet.corpus import GIB, MIB
from pvblob.cli.fleet.failure import ContestFailure
from pvblob.cli.fleet.measurement import Measurement
from pvblob.cli.fleet.paths import READ_PATHS
from pvblob.cli.fleet.rounds import Stage, run_stage
from pvblob.cli.fleet.venue import BLOB_BYTES, HostPlan, Narrate, VenuePlan, open_venue
from pvblob.cli.fleet.workers.contract import Task

PATHS = ("front-sdk", "front-obstore", "http-obstore", "channel", "channel-sdk")
RANGE_BYTES = 4 * MIB


class ContestSettings(NamedTuple):
    """What to measure. gib: what the blobs hold, and at least what every path reads in a round.

    directory: where the temporary store goes; None is the system's place for temporary files.
    """

    clients: int = 100
    gib: float = 1.0
    rounds: int = 3
    directory: Path | None = None


class Series(NamedTuple):
    """All rounds of one path."""

    path: str
    measurements: list[Measurement]

    @property
    def size_bytes(self) -> int:
        """What all clients read together in one round."""
        return self.measurements[0].size_bytes

    def seconds(self) -> float:
        """Return the median time of a round."""
        return median(one.seconds for one in self.measurements)

    def gib_per_s(self) -> list[float]:
        """Return the throughput of every round."""
        return [one.size_bytes / GIB / one.seconds for one in self.measurements]

    def per_gib(self, field: str) -> float:
        """Return the median of a CPU field in seconds per GiB read."""
        return float(median(getattr(one, field) / (one.size_bytes / GIB) for one in self.measurements))


class Outcome(NamedTuple):
    """What a contest found.

    servers: what answered each server's paths, with its settings.  verified: always true, for a byte that differs from
    what was written ends the contest with an error.
    """

    settings: ContestSettings
    series: dict[str, Series]
    servers: dict[str, str]
    verified: bool


def run(settings: ContestSettings, narrate: Narrate) -> Outcome:
    """Run the contest; *narrate(what, done, total)* is told what happens, never inside a timed section.

    Raises ContestFailure, SettingsError, and what the servers raise.
    """
    blobs = max(1, math.ceil(settings.gib * GIB / BLOB_BYTES))
    plan = VenuePlan({"host": HostPlan()}, True, blobs, settings.directory)
    with ExitStack() as stack:
        venue = stack.enter_context(open_venue(plan, narrate))
        paths = [READ_PATHS[key] for key in PATHS if READ_PATHS[key].server not in venue.absent]
        if venue.absent:
            narrate("nginx is not installed: its row is left out", 0, 1)
        narrate(f"starting {settings.clients} client processes for each path", 0, 1)
        standing = [stack.enter_context(contestant(path, venue, settings.clients)) for path in paths]
        for one in standing:
            one.await_standing()
        task = Task(settings.clients, RANGE_BYTES, 1, blobs, BLOB_BYTES)
        found = run_stage(standing, Stage("reading", task, 0, settings.rounds), narrate, check_all=True)
        names = {path.server: venue.servers[path.server].settings for path in paths}
    if found.failed:
        raise ContestFailure("; ".join(found.failed.values()))
    return Outcome(settings, {key: Series(key, found.measured[key]) for key in found.measured}, names, verified=True)


def exit_cleanly_on_sigterm() -> None:
    """Let SIGTERM unwind the program as Ctrl-C does, so that nothing is left behind."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
