"""What the demo's contest found, as a table for people and as JSON for programs."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from pvblob.cli.fleet.contest import RANGE_BYTES, Outcome, Series
from pvblob.cli.fleet.paths import READ_PATHS

if TYPE_CHECKING:
    from rich.console import RenderableType

CPU_FIELDS = ("client_cpu_s", "server_cpu_s", "machine_cpu_s")


def as_json(outcome: Outcome, machine: dict[str, object], versions: dict[str, str]) -> dict[str, Any]:
    """Return the outcome: medians for each path, with every round's figures beside them."""
    best = best_http(outcome)
    return {
        "clients": outcome.settings.clients,
        "bytes": next(iter(outcome.series.values())).size_bytes,
        "paths": {path: _path(series, best) for path, series in outcome.series.items()},
        "verified": outcome.verified,
        "rounds": outcome.settings.rounds,
        "range_bytes": RANGE_BYTES,
        "best_http": best.path if best else None,
        "servers": outcome.servers,
        "machine": machine,
        "versions": versions,
    }


def best_http(outcome: Outcome) -> Series | None:
    """Return the fastest path over HTTP: what the others are compared with."""
    over_http = [series for path, series in outcome.series.items() if path.startswith(("http", "front"))]
    return max(over_http, key=lambda series: median(series.gib_per_s()), default=None)


def ratio(series: Series, best: Series | None) -> float | None:
    """Return how many times the throughput of the best HTTP path this is."""
    return median(series.gib_per_s()) / median(best.gib_per_s()) if best else None


def _path(series: Series, best: Series | None) -> dict[str, Any]:
    return {
        "seconds": series.seconds(),
        "gib_per_s": median(series.gib_per_s()),
        "client_cpu_s_per_gib": series.per_gib("client_cpu_s"),
        "host_cpu_s_per_gib": series.per_gib("server_cpu_s"),
        "machine_cpu_s_per_gib": series.per_gib("machine_cpu_s"),
        "ratio_to_best_http": ratio(series, best),
        "server": READ_PATHS[series.path].server,
        "rounds": [one._asdict() for one in series.measurements],
    }


def table(outcome: Outcome, machine: dict[str, object], versions: dict[str, str]) -> RenderableType:
    """Return the table: a row for each path, the best HTTP path as 1.00×, and below it what was measured."""
    from rich.console import Group
    from rich.table import Table

    best = best_http(outcome)
    rows = Table(title=_title(outcome), title_justify="left")
    for heading in ("path", "seconds", "GiB/s", "client CPU", "server CPU", "machine CPU", "× best HTTP"):
        rows.add_column(heading, justify="left" if heading == "path" else "right", no_wrap=heading != "path")
    for path, series in outcome.series.items():
        speeds = series.gib_per_s()
        against = ratio(series, best)
        rows.add_row(
            READ_PATHS[path].title,
            f"{series.seconds():.2f}",
            f"{median(speeds):.2f} ({min(speeds):.2f}–{max(speeds):.2f})",
            *(f"{series.per_gib(field):.2f}" for field in CPU_FIELDS),
            f"{against:.2f}×" if against else "–",
        )
    return Group(rows, *_notes(outcome, machine, versions))


def _title(outcome: Outcome) -> str:
    settings = outcome.settings
    size_gib = next(iter(outcome.series.values())).size_bytes / (1 << 30)
    return (
        f"{settings.clients} processes read {size_gib:.2f} GiB in ranges of {RANGE_BYTES >> 10} KiB; "
        f"median (least–most) of {settings.rounds} rounds"
    )


def _notes(outcome: Outcome, machine: dict[str, object], versions: dict[str, str]) -> list[str]:
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [f"{name}: {settings}" for name, settings in outcome.servers.items()]
    lines.append(f"clients: {packages}")
    lines.append(f"machine: {machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}")
    lines.append(
        "CPU in seconds per GiB from start line to last byte; machine: all that ran, TCP's work in interrupts too"
    )
    lines.append("every byte on every path was compared with the checksums of what was written, outside the clock")
    return lines
