"""docs/performance.md: what a run found, in Markdown, with a plot for each scenario beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pvblob.cli.scenarios.catalogue import SCENARIOS
from pvblob.cli.scenarios.plots import plot
from pvblob.cli.scenarios.results import Result
from pvblob.cli.scenarios.rows import Row
from pvblob.cli.scenarios.tables import Table, stage_table, stages, verdict_table

_HOW_TO_READ = """\
Cells are `median [least–most]` over the rounds. A path's processes are started once and stand by; paths take turns, in
an order that changes from round to round. The clock runs from the start line to the last byte of the slowest client.
CPU is counted over the same time, without start and imports: *clients* and *server* by their processes' own clocks,
*machine* is all that was busy, for loopback's work in soft interrupts is charged to no process (and on a machine that
does something else, that too). Bytes are compared with the checksums of what was generated, outside the clock.

Paths: `limit` is a program that does nothing but share memory and `pread` (crates/limit); `channel` is pvblob.Client,
its bytes copied out or used in place; `channel-sdk` is azure-storage-blob over our transport; `http-*` are a bare
socket, obstore and azure-storage-blob over nginx; `front-*` are over our own HTTP front; `tls-*` speak TLS with a
service elsewhere themselves; `sdk-floor` is azure-storage-blob over a transport that answers from memory. `-tuned` runs
with `MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_` at 2 GiB, so that freed memory stays in the process.

The account elsewhere of the `upstream-*` scenarios is `pvblob serve` with a certificate, behind a program that delays
every byte 5 ms each way, and a connection's first by the handshake's round trip too (crates/limit, pvblob-network).
Both run on this machine and take of its cores: *elsewhere* and *network* CPU are theirs. Every section has fresh
clients and a fresh host; each client reads one range before the clock starts, so connections are made. *upstream* and
*connections* count from the path's start to its clients' last byte, that range included. *First byte*: a fresh process
alone reads 4 KiB (one before it, not counted, waits out the end of the clients); from the making of its client
(imports done) and, *with imports*, from the start of the process, to the bytes in its hands. The run's CA is one more
in the bundle that requests has by default, which each `tls-*` process and the host read, for that is what programs do.
Bytes are compared in a section of their own after the clock."""


def write_page(result: Result, path: Path) -> None:
    """Write the page to *path*, its plots into a directory beside it that has the page's name."""
    plots = path.with_suffix("")
    plots.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(page(result, plots.name)), "utf-8")
    for name, rows in by_scenario(result.rows).items():
        (plots / f"{name}.svg").write_text(plot(SCENARIOS[name].title, rows), "utf-8")


def by_scenario(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group rows by scenario, in the catalogue's order."""
    groups = {name: [row for row in rows if row.scenario == name] for name in SCENARIOS}
    return {name: group for name, group in groups.items() if group}


def page(result: Result, plots: str) -> Iterator[str]:
    """Yield the page's lines. plots: the directory of the SVG files, relative to the page."""
    yield "# Performance"
    yield ""
    yield f"Measured {result.started} by `{result.command}`. Written by `make bench`; do not edit."
    if result.quick:
        yield ""
        yield "**A quick run**: few and short rounds, fit to try the benchmark and not to compare anything."
    yield ""
    yield f"- machine: {machine_text(result)}"
    yield f"- versions: {versions_text(result)}"
    yield ""
    yield _HOW_TO_READ
    if result.verdicts:
        yield from ["", "## To reach", "", *_markdown(verdict_table(result.verdicts))]
    for name, rows in by_scenario(result.rows).items():
        yield from _scenario(name, rows, plots)
    yield ""


def machine_text(result: Result) -> str:
    """Return the machine in a line."""
    about = result.machine
    memory = int(str(about["memory_bytes"])) / (1 << 30)
    return f"{about['processor']}, {about['cores']} cores, {memory:.0f} GiB, Linux {about['kernel']}"


def versions_text(result: Result) -> str:
    """Return the versions in a line."""
    return ", ".join(f"{name} {version}" for name, version in result.versions.items())


def _scenario(name: str, rows: Sequence[Row], plots: str) -> Iterator[str]:
    scenario = SCENARIOS[name]
    yield from ["", f"## {name}: {scenario.title}", "", scenario.about, ""]
    yield f"![{scenario.title}]({plots}/{name}.svg)"
    for stage in stages(rows):
        yield from ["", f"### {stage.title}", "", *_markdown(stage_table(stage))]
    yield from ["", *settings_lines(rows)]


def settings_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each path: its client's settings and its server."""
    seen = {(row.path, row.operation): row for row in rows if row.absent is None}
    for row in seen.values():
        operation = "" if row.operation in ("read", "write") else f" {row.operation}"
        yield f"- `{row.path}`{operation}: {row.title}; {row.settings}; server: {row.server}"
    for path, why in {(row.path, row.absent): None for row in rows if row.failed}:
        yield f"- `{path}` {why}"


def _markdown(table: Table) -> Iterator[str]:
    yield "| " + " | ".join(table.headings) + " |"
    yield "|---" + "|--:" * (len(table.headings) - 1) + "|"
    for line in table.lines:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
