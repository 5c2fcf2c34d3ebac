"""The scenarios: which paths, over which servers, in which stages.

A scenario is one or more heats; all paths of a heat stand by together and are measured in turn, stage after stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pvblob.cli.fleet.corpus import GIB, KIB, MIB
from pvblob.cli.fleet.paths import READ_PATHS, WRITE_PATHS
from pvblob.cli.fleet.paths import Path as ContestPath
from pvblob.cli.fleet.venue import HostPlan

SMALL = 4 * KIB
RANGE = 4 * MIB
WHOLE = 64 * MIB
TMPFS = Path("/dev/shm")


class Shape(NamedTuple):
    """A stage's size. weight: how many times the usual length its sections have; slow starts need longer ones."""

    clients: int
    block_bytes: int
    in_flight: int = 1
    weight: float = 1.0


class Heat(NamedTuple):
    """Paths that are measured side by side.

    hosts: to run, by name.  parent: where the temporary directory has to lie; None: the user's choice.  corpus: whether
    there are blobs to read; else the clients write.  once: a section reads everything once, with the page cache
    dropped before.
    """

    paths: Sequence[ContestPath]
    shapes: Sequence[Shape]
    hosts: Mapping[str, HostPlan]
    parent: Path | None = None
    corpus: bool = True
    once: bool = False
    bytes_wanted: int = GIB // 4


class Scenario(NamedTuple):
    """A scenario. measure: the figure it is about.  about: what it measures, in one sentence."""

    name: str
    title: str
    about: str
    measure: str
    heats: Sequence[Heat]


class Effort(NamedTuple):
    """How much is measured. seconds: of a timed section; blobs: of 64 MiB in a corpus."""

    rounds: int
    seconds: float
    blobs: int

    def adjusted(self, rounds: int | None, seconds: float | None, gib: float | None) -> Effort:
        """Return the effort with what is given in place of its own."""
        blobs = max(1, round(gib * GIB / WHOLE)) if gib else self.blobs
        return Effort(rounds or self.rounds, seconds or self.seconds, blobs)


FULL = Effort(rounds=5, seconds=0.8, blobs=16)
QUICK = Effort(rounds=3, seconds=0.25, blobs=4)

_HOST = {"host": HostPlan()}
_MEMORY_HOST = {"host": HostPlan(durability="none")}


def _reads(*keys: str) -> list[ContestPath]:
    return [READ_PATHS[key] for key in keys]


def _writes(*keys: str) -> list[ContestPath]:
    return [WRITE_PATHS[key] for key in keys]


def _fleet_read() -> Scenario:
    sdk = "channel-sdk", "channel-sdk-tuned", "http-sdk", "http-sdk-tuned"
    paths = _reads("limit", "limit-inplace", "channel", "channel-inplace", "http-raw", "http-obstore", *sdk)
    shapes = [Shape(1, RANGE), Shape(4, RANGE), Shape(100, RANGE, weight=2)]
    about = "Clients read 4 MiB ranges of blobs that lie in the page cache, one at a time each."
    return Scenario("fleet-read", "Ranges of 4 MiB", about, "gib_per_s", [Heat(paths, shapes, _HOST)])


def _whole_read() -> Scenario:
    sdk = [
        f"{name}{tuned}:{operation}"
        for operation in ("readall", "readinto")
        for tuned in ("", "-tuned")
        for name in ("channel-sdk", "http-sdk", "sdk-floor")
    ]
    paths = _reads("limit", "limit-inplace", "channel", "channel-inplace", "http-raw", "http-obstore", *sdk)
    about = "Clients read whole blobs of 64 MiB; the SDK as bytes (readall) and into a reused buffer (readinto)."
    shapes = [Shape(1, WHOLE), Shape(4, WHOLE)]
    return Scenario("whole-read", "Whole blobs of 64 MiB", about, "gib_per_s", [Heat(paths, shapes, _HOST)])


def _latency() -> Scenario:
    polling_off = [READ_PATHS["channel"].on("host-polling-off", "polling-off")]
    ours, peers = _reads("limit", "limit-blocking", "channel", "channel-inplace"), _reads("http-raw", "http-obstore")
    hosts = _HOST | {"host-polling-off": HostPlan(environment={"PVBLOB_POLLING": "false"})}
    about = "One client reads 4 KiB, one request at a time; with a core to spare for spinning, and without spinning."
    heat = Heat([*ours, *polling_off, *peers], [Shape(1, SMALL)], hosts)
    return Scenario("latency", "Latency of 4 KiB", about, "p50_us", [heat])


def _iops() -> Scenario:
    paths = _reads("limit", "limit-blocking", "channel", "http-raw", "http-obstore")
    shapes = [Shape(clients, SMALL, in_flight) for clients in (1, 8, 100) for in_flight in (1, 16)]
    about = "Clients read 4 KiB, with 1 and with 16 requests in flight each."
    return Scenario("iops", "Requests of 4 KiB", about, "requests_per_s", [Heat(paths, shapes, _HOST)])


def _upload() -> Scenario:
    paths = _writes("channel", "channel-sdk", "front-obstore", "http-raw", "http-obstore", "file")
    in_memory = Heat(
        paths,
        [Shape(1, WHOLE), Shape(4, WHOLE), Shape(1, SMALL), Shape(4, SMALL)],
        _MEMORY_HOST,
        parent=TMPFS,
        corpus=False,
        bytes_wanted=6 * GIB,
    )
    safe = [path.on("host-fsync", "fsync") for path in _writes("channel", "front-obstore")]
    on_disk = Heat(
        [*safe, *_writes("file-fsync")],
        [Shape(1, WHOLE), Shape(4, WHOLE), Shape(1, SMALL)],
        {"host-fsync": HostPlan()},
        corpus=False,
        bytes_wanted=4 * GIB,
    )
    about = (
        "Clients overwrite blobs of their own: everything on tmpfs and no fsync on any side; "
        "then on disk, acknowledged only when it would survive a power cut."
    )
    return Scenario("upload", "Uploads", about, "gib_per_s", [in_memory, on_disk])


def _sdk_small() -> Scenario:
    names = "channel-sdk", "http-sdk", "sdk-floor"
    paths = _reads(*names, *(f"{name}:properties" for name in names))
    about = "azure-storage-blob downloads 4 KiB, and asks for a blob's properties, one at a time."
    shapes = [Shape(1, SMALL), Shape(8, SMALL)]
    return Scenario("sdk-small", "Small calls of the SDK", about, "p50_us", [Heat(paths, shapes, _HOST)])


def _scale() -> Scenario:
    shapes = [Shape(1, RANGE), Shape(10, RANGE), Shape(100, RANGE), Shape(1000, RANGE)]
    about = "1 to 1000 clients are connected; up to 100 of them read 4 MiB ranges. What does an idle one cost the host?"
    return Scenario("scale", "Connected clients", about, "gib_per_s", [Heat(_reads("channel"), shapes, _HOST)])


def _cold() -> Scenario:
    paths = _reads("limit", "channel", "channel-inplace", "http-raw", "http-obstore", "http-sdk")
    about = "Every 4 MiB range is read once after its pages were dropped from the page cache."
    heat = Heat(paths, [Shape(1, RANGE), Shape(4, RANGE)], _HOST, once=True)
    return Scenario("cold", "Cold reads", about, "gib_per_s", [heat])


def _upstream(name: str, title: str, about: str) -> Scenario:
    paths = _reads("tls-sdk", "tls-obstore", "channel-sdk", "channel", "channel-inplace")
    return Scenario(name, title, about, "gib_per_s", [Heat(paths, [Shape(100, RANGE)], {})])


_DISTINCT = _upstream(
    "upstream-distinct",
    "An account elsewhere, distinct blobs",
    "The account lies 5 ms away each way, behind TLS. 100 processes read blobs of their own in ranges of 4 MiB, each "
    "over its own connections, or all as guests of one host that has at most 10.",
)
_SHARED = _upstream(
    "upstream-shared",
    "An account elsewhere, one blob",
    "The same, but every process reads the same blob from its beginning to its end; who is too slow is stopped after a "
    "fixed time, and its throughput is that of the bytes it had by then. "
    "The host keeps what it reads in a cache that is empty at the start.",
)

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        _fleet_read(),
        _whole_read(),
        _latency(),
        _iops(),
        _upload(),
        _sdk_small(),
        _scale(),
        _cold(),
        _DISTINCT,
        _SHARED,
    )
}
# What a name on the command line stands for, beside the scenarios' own.
GROUPS = {"all": list(SCENARIOS), "upstream": [_DISTINCT.name, _SHARED.name]}
