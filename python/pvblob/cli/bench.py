"""`pvblob bench`: measures scenarios side by side with the peers and the physical limits."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pvblob.errors import SettingsError

if TYPE_CHECKING:
    from pvblob.cli.scenarios.catalogue import Scenario
    from pvblob.cli.scenarios.results import Result
    from pvblob.cli.scenarios.runner import Options

HELP = """Measure scenarios on this machine, side by side with HTTP peers and with the physical limit.

Each scenario starts servers of its own on a temporary store; paths stand by together and take turns, every byte is
checked outside the clock, and nothing is left behind. What is to be reached is judged at the end. Scenarios:

  fleet-read          4 MiB ranges, 1/4/100 clients
  whole-read          64 MiB blobs
  latency             4 KiB, one at a time
  iops                4 KiB, 1/8/100 clients, 1 and 16 in flight
  upload              64 MiB and 4 KiB
  sdk-small           small calls of the SDK
  scale               1 to 1000 connected clients
  cold                page cache dropped
  upstream-distinct   an account elsewhere, a blob for each client
  upstream-shared     an account elsewhere, one blob for all
  upstream            these two
  all                 everything (about 25 minutes)

Examples:

  pvblob bench all --json bench.json --report performance.md

  pvblob bench fleet-read --quick --clients 1 --paths limit,channel,http-raw
"""


def run(
    scenario: Annotated[str, typer.Argument(help="What to measure: a scenario's name, or all.")],
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results here.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Under a minute for each scenario; rough figures.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Write a page here, its plots in a directory beside it.")
    ] = None,
    paths: Annotated[str | None, typer.Option(metavar="PATH,…", help="Only these paths.")] = None,
    clients: Annotated[str | None, typer.Option(metavar="N,…", help="Only the stages with so many clients.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How often every path is measured.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.01, help="Length of a timed section.")] = None,
    gib: Annotated[float | None, typer.Option(min=0.05, help="GiB of blobs to read.")] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", exists=True, file_okay=False, help="For the temporary store.")
    ] = None,
) -> None:
    """Run the scenarios, print their tables, write what was asked for. Exit code 1 when a path failed."""
    from rich.console import Console

    from pvblob.cli.scenarios.catalogue import FULL, QUICK
    from pvblob.cli.scenarios.page import write_page
    from pvblob.cli.scenarios.runner import Options
    from pvblob.cli.scenarios.terminal import rendered

    effort = (QUICK if quick else FULL).adjusted(rounds, seconds, gib)
    options = Options(effort, paths.split(",") if paths else (), _numbers(clients), directory)
    result = _measure(_chosen(scenario), options, json_file, quick=quick)
    if report is not None:
        write_page(result, report)
    console = Console(width=None if sys.stdout.isatty() else 150)
    for part in rendered(result):
        console.print(part, highlight=False)
    failures = {f"{row.scenario}, {row.path}: {row.absent}" for row in result.rows if row.failed}
    if failures:
        typer.echo("\n".join(f"pvblob: {text}" for text in sorted(failures)), err=True)
        raise typer.Exit(1)


def _chosen(scenario: str) -> list[Scenario]:
    from pvblob.cli.scenarios.catalogue import GROUPS, SCENARIOS

    names = GROUPS.get(scenario, [scenario])
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise SettingsError(f"there is no scenario {unknown[0]!r}: {', '.join([*SCENARIOS, *GROUPS])}")
    return [SCENARIOS[name] for name in names]


def _numbers(text: str | None) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise SettingsError(f"--clients {text}: numbers with commas between them, e.g. 1,100") from None


def _measure(scenarios: list[Scenario], options: Options, json_file: Path | None, *, quick: bool) -> Result:
    """Run the scenarios; the file is written after each, so that what was measured is kept whatever comes."""
    from pvblob.cli.fleet.contest import exit_cleanly_on_sigterm
    from pvblob.cli.fleet.machine import machine, versions
    from pvblob.cli.fleet.narrator import narrator
    from pvblob.cli.scenarios.results import Result
    from pvblob.cli.scenarios.runner import check, run

    check(scenarios, options)
    exit_cleanly_on_sigterm()
    started = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    command = shlex.join(["pvblob", *sys.argv[1:]])
    result = Result(started, command, quick, machine(), versions(), [])
    with narrator() as narrate:
        for scenario in scenarios:
            result.rows.extend(run(scenario, options, narrate))
            if json_file is not None:
                result.write(json_file)
    return result
