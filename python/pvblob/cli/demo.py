"""`pvblob demo`: the main job, shown and measured in one go."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

HELP = """Read real blobs from 100 processes, over HTTP and over the channel; check every byte; print both.

Starts a host of its own on a temporary store, writes seeded random blobs through the channel, then lets the clients
read them in 4 MiB ranges: azure-storage-blob and obstore over the host's HTTP front, obstore over nginx (where it is
installed), pvblob.Client and azure-storage-blob over the channel. Paths take turns; nothing is left behind.

Examples:

  pvblob demo

  pvblob demo --clients 8 --rounds 5 --json result.json
"""


def run(
    clients: Annotated[int, typer.Option(min=1, help="How many client processes.")] = 100,
    gib: Annotated[float, typer.Option(min=0.01, help="GiB of blobs, and what every path reads in a round.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often every path is measured.")] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here.")] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", exists=True, file_okay=False, help="For the temporary store.")
    ] = None,
) -> None:
    """Run the contest over every path and print the table."""
    from pvblob.cli.fleet.contest import ContestSettings
    from pvblob.cli.fleet.readers import DEMO_PATHS

    settings = ContestSettings(DEMO_PATHS, clients, gib, rounds, directory=directory)
    show(settings, json_file)


@contextmanager
def _narrator() -> Iterator[Callable[[str, int, int], None]]:
    """Yield what shows (what, done, total): a bar on a terminal, else a line whenever *what* is new."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:55}"), BarColumn(), MofNCompleteColumn())
    # Drawn only when told: a display that refreshes by itself would run inside the timed sections.
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        shown = ""

        def narrate(what: str, done: int, total: int) -> None:
            nonlocal shown
            if what != shown and not console.is_terminal:
                console.print(what, highlight=False)
            shown = what
            bar.update(task, description=what, completed=done, total=total, refresh=True)

        yield narrate


def show(settings: object, json_file: Path | None) -> None:
    """Run the contest of *settings* (ContestSettings), print its table, write its figures to *json_file*."""
    from rich.console import Console

    from pvblob.cli.fleet import contest, report

    assert isinstance(settings, contest.ContestSettings)
    contest.exit_cleanly_on_sigterm()
    with _narrator() as narrate:
        outcome = contest.run(settings, narrate)
    machine = contest.machine()
    Console(width=None if sys.stdout.isatty() else 128).print(report.table(outcome, machine), highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_json(outcome, machine), indent=2) + "\n", "utf-8")
