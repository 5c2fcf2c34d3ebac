"""What is to be reached: ratios between rows of one run, and a few absolute figures (issue 3, «To reach»)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from pvblob.cli.fleet.corpus import KIB, MIB
from pvblob.cli.scenarios.rows import Row

REACHED, SHORT, UNKNOWN = "reached", "short of", "not measured"


class Pick(NamedTuple):
    """One figure of one row. paths: several mean the largest of theirs.  connected: for `scale`."""

    paths: tuple[str, ...]
    clients: int
    block_bytes: int
    figure: str
    operation: str = "read"
    in_flight: int = 1
    connected: int | None = None

    def of(self, rows: Sequence[Row], scenario: str) -> float | None:
        """Return the figure, None when it was not measured."""
        found = [row.value(self.figure) for row in rows if row.scenario == scenario and self._fits(row)]
        return max((value for value in found if value is not None), default=None)

    def _fits(self, row: Row) -> bool:
        return (
            row.path in self.paths
            and (row.clients, row.block_bytes, row.in_flight) == (self.clients, self.block_bytes, self.in_flight)
            and row.operation == self.operation
            and row.connected == self.connected
        )


@dataclass(frozen=True)
class Goal:
    """A figure, or its ratio to another, and the bound it has to keep. unit: "×" for ratios."""

    scenario: str
    text: str
    figure: Pick
    over: Pick | None
    bound: float
    at_least: bool
    unit: str

    def judge(self, rows: Sequence[Row]) -> Verdict:
        """Compare with the rows of a run."""
        value = self.figure.of(rows, self.scenario)
        if value is not None and self.over is not None:
            below = self.over.of(rows, self.scenario)
            value = value / below if below else None
        if value is None:
            verdict = UNKNOWN
        else:
            verdict = REACHED if (value >= self.bound if self.at_least else value <= self.bound) else SHORT
        return Verdict(self.scenario, self.text, "≥" if self.at_least else "≤", self.bound, self.unit, value, verdict)


@dataclass(frozen=True)
class Verdict:
    """A goal and what was found."""

    scenario: str
    goal: str
    sense: str
    bound: float
    unit: str
    value: float | None
    verdict: str

    def as_json(self) -> dict[str, Any]:
        """Return it as an object."""
        return asdict(self)


def _ratio(scenario: str, text: str, figure: Pick, over: Pick, bound: float, *, at_most: bool = False) -> Goal:
    return Goal(scenario, text, figure, over, bound, not at_most, "×")


def _who(clients: int) -> str:
    return f"{clients} client{'s' if clients > 1 else ''}"


def _fleet_read() -> list[Goal]:
    def pick(path: str, clients: int, figure: str = "gib_per_s") -> Pick:
        return Pick((path,), clients, 4 * MIB, figure)

    wanted = [
        (100, "channel-inplace", "limit-inplace", 0.85),
        (100, "channel-inplace", "http-raw", 2.3),
        (100, "channel-inplace", "http-obstore", 5),
        (100, "channel-inplace", "http-sdk", 10),
        (100, "channel", "http-raw", 1.7),
        (1, "channel-inplace", "http-raw", 3),
        (1, "channel", "limit", 0.85),
        (1, "channel-sdk", "http-sdk-tuned", 2.2),
        (1, "channel-sdk-tuned", "http-sdk-tuned", 2.2),
        (100, "channel-sdk", "http-sdk-tuned", 3),
        (100, "channel-sdk-tuned", "http-sdk-tuned", 3),
    ]
    goals = [
        _ratio("fleet-read", f"{_who(clients)}: {path} / {other}", pick(path, clients), pick(other, clients), bound)
        for clients, path, other, bound in wanted
    ]
    for path, other, bound in (
        ("channel-inplace", "http-raw", 0.5),
        ("channel", "http-raw", 0.75),
        ("channel", "http-sdk", 0.12),
    ):
        text = f"100 clients, CPU per GiB of clients + host: {path} / {other}"
        ours, theirs = pick(path, 100, "cpu_s_per_gib"), pick(other, 100, "cpu_s_per_gib")
        goals.append(_ratio("fleet-read", text, ours, theirs, bound, at_most=True))
    return goals


def _whole_read() -> list[Goal]:
    def pick(path: str) -> Pick:
        return Pick((path,), 1, 64 * MIB, "gib_per_s", operation="readinto")

    return [
        _ratio("whole-read", f"readinto: channel-sdk{tuned} / sdk-floor{tuned}", pick(ours), pick(floor), 0.65)
        for tuned in ("", "-tuned")
        for ours, floor in [(f"channel-sdk{tuned}", f"sdk-floor{tuned}")]
    ]


def _small_reads() -> list[Goal]:
    def latency(path: str) -> Pick:
        return Pick((path,), 1, 4 * KIB, "p50_us")

    def rate(in_flight: int) -> Pick:
        return Pick(("channel",), 8, 4 * KIB, "requests_per_s", in_flight=in_flight)

    obstore, ours = latency("http-obstore"), latency("channel")
    off = latency("channel-polling-off")
    return [
        Goal("latency", "p50 of channel", ours, None, 6, at_least=False, unit="µs"),
        _ratio("latency", "p50: http-obstore / channel", obstore, ours, 25),
        Goal("latency", "p50 of channel, polling off", off, None, 60, at_least=False, unit="µs"),
        Goal("iops", "8 clients, 1 in flight: channel", rate(1), None, 100_000, at_least=True, unit="requests/s"),
        Goal("iops", "8 clients, 16 in flight: channel", rate(16), None, 250_000, at_least=True, unit="requests/s"),
    ]


def _upload() -> list[Goal]:
    def pick(clients: int, *paths: str) -> Pick:
        return Pick(paths, clients, 64 * MIB, "gib_per_s", operation="write")

    goals = []
    for clients in (1, 4):
        who = f"{_who(clients)}, 64 MiB"
        ours, front = pick(clients, "channel"), pick(clients, "front-obstore")
        webdav = pick(clients, "http-raw", "http-obstore")
        goals.append(_ratio("upload", f"{who}: channel / obstore over HTTP to the same store", ours, front, 1.5))
        goals.append(_ratio("upload", f"{who}: channel / the faster client of nginx WebDAV", ours, webdav, 1))
    return goals


def _scale() -> list[Goal]:
    def pick(connected: int, figure: str) -> Pick:
        return Pick(("channel",), 100, 4 * MIB, figure, connected=connected)

    text = "throughput of 100 active clients: 1000 connected / 100 connected"
    private = pick(1000, "host_private_bytes_per_client")
    return [
        Goal("scale", "host memory per idle client of 1000", private, None, 64 * KIB, at_least=False, unit="bytes"),
        _ratio("scale", text, pick(1000, "gib_per_s"), pick(100, "gib_per_s"), 0.9),
    ]


def _upstream() -> list[Goal]:
    def pick(path: str, figure: str) -> Pick:
        return Pick((path,), 100, 4 * MIB, figure)

    wanted = [
        ("upstream-distinct", "GiB/s", "gib_per_s", 3.0, False),
        ("upstream-distinct", "CPU in the clients", "client_cpu_s_per_gib", 0.25, True),
        ("upstream-distinct", "TCP connections", "connections", 0.1, True),
        ("upstream-shared", "GiB/s", "gib_per_s", 20.0, False),
    ]
    goals = [
        _ratio(
            scenario,
            f"{scenario}, {what}: {path} / {other}",
            pick(path, figure),
            pick(other, figure),
            bound,
            at_most=at_most,
        )
        for scenario, what, figure, bound, at_most in wanted
        for path, other in (("channel-sdk", "tls-sdk"), ("channel", "tls-obstore"))
    ]
    # The issue's own words: processes with azure-storage-blob over TLS, against guests, whatever these read with.
    for scenario, bound in (("upstream-distinct", 3.0), ("upstream-shared", 20.0)):
        for path in ("channel", "channel-inplace"):
            ours, theirs = pick(path, "gib_per_s"), pick("tls-sdk", "gib_per_s")
            goals.append(_ratio(scenario, f"{scenario}, GiB/s: {path} / tls-sdk", ours, theirs, bound))
    for what, figure in (("first byte", "first_byte_ms"), ("first byte with imports", "first_byte_from_start_ms")):
        for other, path in (("tls-sdk", "channel-sdk"), ("tls-obstore", "channel"), ("tls-sdk", "channel")):
            text = f"upstream-distinct, {what} of a fresh process: {other} / {path}"
            goals.append(_ratio("upstream-distinct", text, pick(other, figure), pick(path, figure), 5))
    for path in ("channel-sdk", "channel"):
        share = pick(path, "upstream_bytes_per_blob_byte")
        text = f"upstream-shared, bytes from the account / size of the blob: {path}"
        goals.append(Goal("upstream-shared", text, share, None, 1.05, at_least=False, unit="×"))
    return goals


GOALS = [*_fleet_read(), *_whole_read(), *_small_reads(), *_upload(), *_scale(), *_upstream()]


def judge(rows: Sequence[Row]) -> list[Verdict]:
    """Judge the goals of every scenario that has rows."""
    measured = {row.scenario for row in rows}
    return [goal.judge(rows) for goal in GOALS if goal.scenario in measured]
