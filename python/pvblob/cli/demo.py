"""`pvblob demo`: the main job, shown and measured in one go."""

from __future__ import annotations

import json
import sys
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
    from rich.console import Console

    from pvblob.cli.fleet import contest, machine, report
    from pvblob.cli.fleet.narrator import narrator

    contest.exit_cleanly_on_sigterm()
    with narrator() as narrate:
        outcome = contest.run(contest.ContestSettings(clients, gib, rounds, directory), narrate)
    about, versions = machine.machine(), machine.versions()
    table = report.table(outcome, about, versions)
    Console(width=None if sys.stdout.isatty() else 128).print(table, highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_json(outcome, about, versions), indent=2) + "\n", "utf-8")
