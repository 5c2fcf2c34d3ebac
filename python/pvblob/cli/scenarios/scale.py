"""The scenario of many connected clients: what an idle one costs the host, and whether it slows the others down.

The host's own memory is what only it uses: Private_Dirty of all its mappings but the memory that guests lend, which is
theirs and is reported apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pvblob.cli.fleet.contestants import contestant
from pvblob.cli.fleet.corpus import KIB
from pvblob.cli.fleet.measurement import Measurement, Order
from pvblob.cli.fleet.paths import Path as ContestPath
from pvblob.cli.fleet.venue import Narrate, Venue
from pvblob.cli.fleet.workers.contract import Task
from pvblob.cli.scenarios.catalogue import RANGE, SMALL, Effort, Shape
from pvblob.cli.scenarios.rows import Row, condense

ACTIVE_MAX = 100
# Long enough for one read of every client, which connects them all.
CONNECT_S = 0.01
LENT_PREFIX = "/memfd:"
# A memfd of the host's own, which guests only read.
HOST_PAGE = "/memfd:pvblob-host-page"


class Memory(NamedTuple):
    """Memory of a process in bytes: its own, and what guests lent it."""

    private: int
    lent: int


def memory_of(smaps: str) -> Memory:
    """Add up the text of a process's smaps."""
    private = lent = 0
    is_lent = False
    for line in smaps.splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):  # the head of a mapping: addresses, access, offset, device, inode, path
            fields = rest.split(maxsplit=4)
            path = fields[4] if len(fields) > 4 else ""
            is_lent = path.startswith(LENT_PREFIX) and not path.startswith(HOST_PAGE)
        elif name == "Private_Dirty:" and not is_lent:
            private += int(rest.split()[0]) * KIB
        elif name == "Rss:" and is_lent:
            lent += int(rest.split()[0]) * KIB
    return Memory(private, lent)


def run(path: ContestPath, shapes: Sequence[Shape], venue: Venue, effort: Effort, narrate: Narrate) -> list[Row]:
    """Measure *path* with each number of connected clients, round by round, so that all share the machine's moods.

    Raises ContestFailure. Within a round the fleet grows; the memory is taken in the first, on a host that has not seen
    clients before.
    """
    counts = sorted(shape.clients for shape in shapes)
    measured: dict[int, list[Measurement]] = {count: [] for count in counts}
    costs: dict[int, Memory] = {}
    narrate(f"scale: starting {counts[-1]} client processes", 0, 1)
    with contestant(path, venue, counts[-1]) as one:
        one.await_standing()
        before = _memory(path, venue)
        for number in range(effort.rounds):
            one.leave()
            for position, count in enumerate(counts):
                narrate(f"scale: {count} connected", number * len(counts) + position, effort.rounds * len(counts))
                one.measure(_order(venue, count, SMALL, CONNECT_S, f"connect {number}"))
                after = _memory(path, venue)
                grown = Memory((after.private - before.private) // count, (after.lent - before.lent) // count)
                costs.setdefault(count, grown)
                active = min(count, ACTIVE_MAX)
                measured[count].append(one.measure(_order(venue, active, RANGE, effort.seconds, f"round {number}")))
    return [_row(path, shape, venue, measured[shape.clients], costs[shape.clients]) for shape in shapes]


def _order(venue: Venue, clients: int, block_bytes: int, seconds: float, turn: str) -> Order:
    task = Task(clients, block_bytes, 1, venue.corpus.blob_count, venue.corpus.blob_bytes)
    return Order(task, turn, seconds, check_all=False, read_back=False, cold="")


def _memory(path: ContestPath, venue: Venue) -> Memory:
    return memory_of(Path(f"/proc/{venue.servers[path.server].pid}/smaps").read_text("utf-8"))


def _row(path: ContestPath, shape: Shape, venue: Venue, measurements: Sequence[Measurement], cost: Memory) -> Row:
    row = Row(
        scenario="scale",
        path=path.name,
        operation=path.operation,
        title=path.title,
        clients=min(shape.clients, ACTIVE_MAX),
        in_flight=1,
        block_bytes=RANGE,
        measure="gib_per_s",
        server=venue.servers[path.server].settings,
        settings=path.settings,
        connected=shape.clients,
        host_private_bytes_per_client=cost.private,
        lent_bytes_per_client=cost.lent,
    )
    return replace(row, **condense(measurements, "gib_per_s"))
