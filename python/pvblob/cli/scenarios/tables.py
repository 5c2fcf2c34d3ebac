"""Rows as tables of text, for the terminal and for Markdown alike: a table for each stage of a scenario."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pvblob.cli.fleet.corpus import GIB, KIB, MIB
from pvblob.cli.scenarios.goals import Verdict
from pvblob.cli.scenarios.rows import Row


class Table(NamedTuple):
    """A table: the first column is text, the others are figures."""

    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]


class StageRows(NamedTuple):
    """The rows of one stage, in the order they were measured."""

    title: str
    measure: str
    rows: Sequence[Row]


def stages(rows: Sequence[Row]) -> list[StageRows]:
    """Group the rows of one scenario by stage."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        safe = row.path.endswith("-fsync")
        key = row.block_bytes, row.clients, row.in_flight, row.operation == "properties", safe, row.connected is None
        groups.setdefault(key, []).append(row)
    return [StageRows(_title(group[0]), group[0].measure, group) for group in groups.values()]


def _title(row: Row) -> str:
    if row.connected is not None:
        return f"{size_text(row.block_bytes)}, up to 100 clients at work"
    what = "properties" if row.operation == "properties" else size_text(row.block_bytes)
    parts = [what, f"{row.clients} client{'s' if row.clients > 1 else ''}"]
    if row.measure == "requests_per_s":
        parts.append(f"{row.in_flight} in flight")
    if row.path.endswith("-fsync"):
        parts.append("with fsync")
    return ", ".join(parts)


def size_text(size_bytes: int) -> str:
    """Return a block's size for people."""
    return f"{size_bytes >> 20} MiB" if size_bytes >= 1 << 20 else f"{size_bytes >> 10} KiB"


def path_text(row: Row) -> str:
    """Return the path's name with its operation where it has several."""
    return row.path if row.operation in ("read", "write") else f"{row.path} {row.operation}"


Column = tuple[str, Callable[[Row], str]]


def _figure(name: str, digits: int, factor: float = 1.0) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = row.value(name)
        return "–" if value is None else f"{value * factor:,.{digits}f}"

    return text


def _spread(digits: int) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        if row.min is None or row.max is None:
            return absent_text(row)
        value = row.value(row.measure)
        return f"{value:,.{digits}f} [{row.min:,.{digits}f}–{row.max:,.{digits}f}]"

    return text


def absent_text(row: Row) -> str:
    """Return a short word for why there is no figure; the whole text stands below the tables."""
    return "failed" if row.failed else row.absent or "not measured"


def _per_request(name: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = row.value(name)
        return "–" if value is None else f"{value * row.block_bytes / GIB * 1e6:,.1f}"

    return text


_CPU = ("client_cpu_s_per_gib", "host_cpu_s_per_gib", "machine_cpu_s_per_gib")
_CPU_PER_GIB: list[Column] = [
    (f"{who} CPU s/GiB", _figure(name, 2)) for who, name in zip(("clients", "server", "machine"), _CPU, strict=True)
]
_CPU_PER_REQUEST: list[Column] = [
    (f"{who} CPU µs", _per_request(name)) for who, name in zip(("clients", "server", "machine"), _CPU, strict=True)
]
_LATENCIES: list[Column] = [("p50 µs", _figure("p50_us", 1)), ("p99 µs", _figure("p99_us", 1))]
_COLUMNS: dict[str, list[Column]] = {
    "gib_per_s": [("GiB/s", _spread(2)), *_CPU_PER_GIB],
    "requests_per_s": [("requests/s", _spread(0)), *_LATENCIES, *_CPU_PER_REQUEST],
    "p50_us": [
        ("p50 µs", _spread(1)),
        ("p99 µs", _figure("p99_us", 1)),
        ("requests/s", _figure("requests_per_s", 0)),
        *_CPU_PER_REQUEST,
    ],
}
_MEMORY: list[Column] = [
    ("connected", lambda row: f"{row.connected:,}"),
    ("host KiB per client", _figure("host_private_bytes_per_client", 1, 1 / KIB)),
    ("lent KiB per client", _figure("lent_bytes_per_client", 1, 1 / KIB)),
]
_ELSEWHERE: list[Column] = [
    ("elsewhere CPU s/GiB", _figure("elsewhere_cpu_s_per_gib", 2)),
    ("network CPU s/GiB", _figure("network_cpu_s_per_gib", 2)),
    ("upstream MiB", _figure("upstream_bytes", 0, 1 / MIB)),
    ("connections", _figure("connections", 0)),
    ("first byte ms", _figure("first_byte_ms", 1)),
    ("with imports ms", _figure("first_byte_from_start_ms", 0)),
]


def stage_table(stage: StageRows) -> Table:
    """Return the table of a stage."""
    columns = _COLUMNS[stage.measure]
    if stage.rows[0].connected is not None:
        columns = [*_MEMORY, *columns]
    if any(row.connections is not None for row in stage.rows):
        columns = [*columns, *_ELSEWHERE]
    lines = [[path_text(row), *(text(row) for _, text in columns)] for row in stage.rows]
    return Table(stage.title, ["path", *(heading for heading, _ in columns)], lines)


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Return the table of goals."""
    lines = [[one.goal, f"{one.sense} {_amount(one.bound, one.unit)}", _found(one), one.verdict] for one in verdicts]
    return Table("To reach", ["goal", "bound", "found", "verdict"], lines)


def _found(verdict: Verdict) -> str:
    return "–" if verdict.value is None else _amount(verdict.value, verdict.unit)


def _amount(value: float, unit: str) -> str:
    if unit == "×":
        return f"{value:.2f}×"
    if unit == "bytes":
        return f"{value / KIB:.1f} KiB"
    return f"{value:,.1f} {unit}" if value < 1000 else f"{value:,.0f} {unit}"
