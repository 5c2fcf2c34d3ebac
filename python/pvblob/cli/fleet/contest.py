"""A contest from beginning to end: servers up, blobs written, clients standing, rounds interleaved, all taken down.

`run(settings, narrate)` → `Outcome`. Whatever ends it, Ctrl-C and errors included, every process and file it made is
gone when it returns. What the numbers look like is `report`'s business.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from pvblob.cli.fleet import servers, wire
from pvblob.cli.fleet.corpus import GIB, MIB, Corpus
from pvblob.cli.fleet.counters import family
from pvblob.cli.fleet.crew import Measurement, Plan
from pvblob.cli.fleet.readers import PATHS, Site
from pvblob.errors import PvblobError, SettingsError

BLOB_BYTES = 64 * MIB
SEED = 20211005
Narrate = Callable[[str, int, int], None]


class ContestFailure(PvblobError):
    """A client or a server of the contest failed; the text says which and how."""


class ContestSettings(NamedTuple):
    """What to measure. gib: what the blobs hold, and at least what every path reads in a round.

    directory: where the temporary store goes; None is the system's place for temporary files.
    """

    paths: Sequence[str]
    clients: int = 100
    gib: float = 1.0
    rounds: int = 3
    range_bytes: int = 4 * MIB
    directory: Path | None = None

    def corpus(self) -> Corpus:
        """Return the blobs to write. Raises SettingsError when ranges and blobs do not fit each other."""
        if BLOB_BYTES % self.range_bytes:
            raise SettingsError(f"a range of {self.range_bytes} bytes does not divide a blob of {BLOB_BYTES}")
        return Corpus(SEED, max(1, math.ceil(self.gib * GIB / BLOB_BYTES)), BLOB_BYTES, self.range_bytes)


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
    corpus = settings.corpus()
    with ExitStack() as stack:
        directory = stack.enter_context(_directory(settings, corpus))
        narrate("starting the host", 0, 1)
        host = stack.enter_context(servers.host(directory))
        paths = list(settings.paths)
        names, pids, url, www = {"host": host.settings}, {"host": [host.pid]}, None, ""
        program = servers.nginx_program()
        if any(PATHS[path].server == "nginx" for path in paths):
            if program is None:
                paths = [path for path in paths if PATHS[path].server != "nginx"]
                narrate("nginx is not installed: its row is left out", 0, 1)
            else:
                nginx = stack.enter_context(servers.nginx(directory, program))
                names["nginx"], pids["nginx"] = nginx.settings, family(nginx.pid)
                url, www = nginx.url, str(nginx.www)
        plan = Plan(Site(host.socket, host.http, url), corpus, settings.clients, paths, www, pids)
        crew = stack.enter_context(_crew(plan))
        _await_standing(crew, plan, narrate)
        measured = list(_rounds(crew, plan, settings.rounds, narrate))
    series = {path: Series(path, [one for one in measured if one.path == path]) for path in paths}
    return Outcome(settings, series, names, verified=True)


def _rounds(crew: socket.socket, plan: Plan, rounds: int, narrate: Narrate) -> Iterator[Measurement]:
    """Measure every path once a round; a round begins where the one before ended, so that no path is always first."""
    for number in range(rounds):
        turn = number % len(plan.paths)
        for position, path in enumerate(plan.paths[turn:] + plan.paths[:turn]):
            narrate(
                f"round {number + 1}: {PATHS[path].title}",
                number * len(plan.paths) + position,
                rounds * len(plan.paths),
            )
            # Every byte of every path is verified in the first round, outside the clock; later rounds read the same
            # ranges in another order, and warm up with one verified range for each client.
            wire.send(crew, (path, number, number == 0))
            yield Measurement(*_receive(crew, "measured"))


def _await_standing(crew: socket.socket, plan: Plan, narrate: Narrate) -> None:
    total = plan.corpus.blob_count
    what = f"writing {total} blobs of {plan.corpus.blob_bytes >> 20} MiB through the channel"
    narrate(what, 0, total)
    for _ in range(total):
        narrate(what, _receive(crew, "written"), total)
    narrate(f"starting {plan.clients} client processes", 0, plan.clients)
    _receive(crew, "standing")


def _receive(crew: socket.socket, wanted: str) -> Any:
    answer = wire.receive(crew)
    if answer is None:
        raise ContestFailure("the crew process ended unexpectedly; its last words are above")
    kind, value = answer
    if kind != wanted:
        raise ContestFailure(str(value))
    return value


@contextmanager
def _crew(plan: Plan) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            command = [sys.executable, "-m", "pvblob.cli.fleet.crew", str(theirs.fileno())]
            process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True, text=True
            )
        try:
            wire.send(ours, plan)
            yield ours
        finally:
            ours.close()
            servers.stop(process)


@contextmanager
def _directory(settings: ContestSettings, corpus: Corpus) -> Iterator[Path]:
    """Yield a temporary directory that is gone afterwards. Raises SettingsError when the disk is too small."""
    wanted = corpus.size_bytes * (2 if servers.nginx_program() else 1) + GIB // 4
    parent = settings.directory or Path(tempfile.gettempdir())
    free = shutil.disk_usage(parent).free
    if free < wanted:
        raise SettingsError(
            f"{parent} has {free / GIB:.1f} GiB free, {wanted / GIB:.1f} are needed: choose another --dir or less --gib"
        )
    with tempfile.TemporaryDirectory(prefix="pvblob-", dir=parent) as directory:
        yield Path(directory)


def exit_cleanly_on_sigterm() -> None:
    """Let SIGTERM unwind the program as Ctrl-C does, so that nothing is left behind."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def machine() -> dict[str, object]:
    """Return what the numbers depend on: processor, cores, kernel, versions."""
    from importlib.metadata import PackageNotFoundError, version
    from platform import python_version, release

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    models = [line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].partition(":")[2].strip() if models else "unknown",
        "cores": os.cpu_count(),
        "kernel": release(),
        "python": python_version(),
        "packages": {package: installed(package) for package in ("pvblob", "azure-storage-blob", "obstore", "aiohttp")},
    }
