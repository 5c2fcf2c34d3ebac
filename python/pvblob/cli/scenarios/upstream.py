"""The scenarios of an account elsewhere: each client with a connection of its own, or all as guests of one host.

Every section has fresh client processes and, on the channel, a fresh host, so that what the network counts is what a
path needs from its start on. Bytes are compared in a second section, after the clock and the counters.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pvblob.cli.fleet.contestants import crew
from pvblob.cli.fleet.corpus import GIB, MIB, PAGE_BYTES, Corpus, name
from pvblob.cli.fleet.elsewhere import PROGRAM, Elsewhere, Traffic, network_program, open_elsewhere
from pvblob.cli.fleet.failure import ContestFailure
from pvblob.cli.fleet.measurement import Measurement, Order
from pvblob.cli.fleet.paths import Path as ContestPath
from pvblob.cli.fleet.servers import Server
from pvblob.cli.fleet.venue import SEED, Narrate, temporary_directory
from pvblob.cli.fleet.workers.account import KEY
from pvblob.cli.fleet.workers.contract import Address, Task
from pvblob.cli.scenarios.catalogue import Effort, Shape
from pvblob.cli.scenarios.rows import FAILED, Row, condense

DISTINCT, SHARED = "upstream-distinct", "upstream-shared"
# A process that takes longer has lost its way.
FIRST_BYTE_S_MAX = 60.0


class Amount(NamedTuple):
    """How much there is to read and how long. seconds: a section's bound, 0 for none.  fresh: processes per round."""

    blobs: int
    blob_bytes: int
    seconds: float
    rounds: int
    fresh: int


def amount(scenario: str, effort: Effort, shape: Shape) -> Amount:
    """Return what *effort* means here: its corpus is shared out among clients, or is the one blob."""
    total_bytes = effort.blobs * 64 * MIB
    if scenario == SHARED:
        return Amount(1, total_bytes, 40 * effort.seconds, 1, 0)
    blob_bytes = max(1, total_bytes // shape.clients // shape.block_bytes) * shape.block_bytes
    return Amount(shape.clients, blob_bytes, 0, max(1, effort.rounds // 2), effort.rounds)


class _Section(NamedTuple):
    """What one path brought in one round. first_byte_ns: (from the process's start, from the client's making)."""

    measured: Measurement
    traffic: Traffic
    first_byte_ns: Sequence[tuple[int, int]]
    server: str


class _Course(NamedTuple):
    scenario: str
    shape: Shape
    amount: Amount
    elsewhere: Elsewhere
    corpus: Corpus
    bytecode: Path


def run(
    scenario: str,
    paths: Sequence[ContestPath],
    shape: Shape,
    blank: dict[str, Row],
    narrate: Narrate,
    effort: Effort,
    directory: Path | None,
) -> list[Row]:
    """Measure *paths* side by side, round by round; return *blank*'s rows with what was found.

    Raises SettingsError, ServerFailure, FillFailure.
    """
    if network_program() is None:
        return [replace(row, absent=f"{PROGRAM} is not built") for row in blank.values()]
    wanted = amount(scenario, effort, shape)
    with ExitStack() as stack:
        total_bytes = wanted.blobs * wanted.blob_bytes
        place = stack.enter_context(temporary_directory(3 * total_bytes + GIB, directory))
        corpus = Corpus(SEED, wanted.blobs, wanted.blob_bytes, str(place / "checksums"))
        elsewhere = stack.enter_context(open_elsewhere(corpus, place, narrate))
        course = _Course(scenario, shape, wanted, elsewhere, corpus, place / "bytecode")
        rows = {key: replace(row, blob_bytes=wanted.blob_bytes) for key, row in blank.items()}
        return [_row(rows[key], found) for key, found in _rounds(course, paths, narrate).items()]


def _rounds(
    course: _Course, paths: Sequence[ContestPath], narrate: Narrate
) -> dict[str, list[_Section] | ContestFailure]:
    """Let paths take turns; a round begins one further than the one before. One that fails is out."""
    found: dict[str, list[_Section] | ContestFailure] = {path.key: [] for path in paths}
    rounds = course.amount.rounds
    for number in range(rounds):
        turn = number % len(paths)
        for position, path in enumerate([*paths[turn:], *paths[:turn]]):
            sections = found[path.key]
            if isinstance(sections, ContestFailure):
                continue
            narrate(f"{course.scenario}: {path.title}", number * len(paths) + position, rounds * len(paths))
            try:
                sections.append(_section(course, path, number))
            except ContestFailure as failure:
                found[path.key] = failure
    return found


def _section(course: _Course, path: ContestPath, number: int) -> _Section:
    before = course.elsewhere.network.traffic()
    with _served(course, path) as (server, address):
        pids = [server.pids() if server else [], *course.elsewhere.pids()]
        with crew(path, address, course.corpus, course.shape.clients, pids) as standing:
            standing.await_standing()
            measured = standing.measure(_order(course, number))
            traffic = course.elsewhere.network.traffic().since(before)
            if number == 0:
                standing.measure(_order(course, number, check=True))
        # The first one is not counted: it finds machine and host busy with the end of the clients, and no byte code.
        fresh = [_first_byte(course, path, address, number) for number in range(1 + course.amount.fresh)]
        first_byte_ns = fresh[1:]
        return _Section(measured, traffic, first_byte_ns, server.settings if server else "none")


@contextmanager
def _served(course: _Course, path: ContestPath) -> Iterator[tuple[Server | None, Address]]:
    """Yield the path's host, if it has one, and where its clients go."""
    if path.protocol == "tls":
        yield None, course.elsewhere.address
        return
    with course.elsewhere.gateway(cached=course.scenario == SHARED) as server:
        yield server, server.addresses["channel"]


def _order(course: _Course, number: int, *, check: bool = False) -> Order:
    shape, corpus = course.shape, course.corpus
    task = Task(shape.clients, shape.block_bytes, 1, corpus.blob_count, corpus.blob_bytes)
    seconds = 0.001 if check else course.amount.seconds
    way = "own" if course.scenario == DISTINCT else "same"
    return Order(task, f"round {number}", seconds, check_all=check, read_back=False, cold="", way=way)


def _first_byte(course: _Course, path: ContestPath, address: Address, number: int) -> tuple[int, int]:
    """Have a fresh process read the first bytes of a blob; compare them. Raises ContestFailure."""
    corpus = course.corpus
    blob = number % corpus.blob_count
    command = [sys.executable, "-m", "pvblob.cli.fleet.first_byte", path.name, name(blob)]
    command += [address.socket or address.url, address.authorities, KEY]
    # What is installed has its byte code; a package run from its sources, or where nobody may write, is to have it too.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(course.bytecode)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started_ns = time.monotonic_ns()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=FIRST_BYTE_S_MAX, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        raise ContestFailure(f"{path.title}: a fresh process had no byte in {FIRST_BYTE_S_MAX:.0f} s") from None
    if done.returncode:
        raise ContestFailure(f"{path.title}: a fresh process failed: {done.stderr.strip().rpartition(chr(10))[2]}")
    began_ns, ended_ns, checksum = map(int, done.stdout.split())
    written = array("I", Path(corpus.checksums).read_bytes())
    if checksum != written[blob * (corpus.blob_bytes // PAGE_BYTES)]:
        raise ContestFailure(f"{path.title}: a fresh process read other bytes than were written")
    return ended_ns - started_ns, ended_ns - began_ns


def _row(blank: Row, found: list[_Section] | ContestFailure) -> Row:
    if isinstance(found, ContestFailure):
        return replace(blank, absent=FAILED + " ".join(str(found).split()))
    measured = [section.measured for section in found]
    others = [[cpu_s / (one.size_bytes / GIB) for cpu_s in one.others_cpu_s] for one in measured]
    elsewhere, network = (median(figures) for figures in zip(*others, strict=True))
    fresh = [pair for section in found for pair in section.first_byte_ns]
    from_start, from_client = [median(times) / 1e6 for times in zip(*fresh, strict=True)] if fresh else (None, None)
    return replace(
        blank,
        server=found[0].server,
        upstream_bytes=median(section.traffic.bytes_down for section in found),
        connections=median(section.traffic.connections for section in found),
        first_byte_ms=from_client,
        first_byte_from_start_ms=from_start,
        elsewhere_cpu_s_per_gib=elsewhere,
        network_cpu_s_per_gib=network,
        **condense(measured, blank.measure),
    )
