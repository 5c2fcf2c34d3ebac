"""`pvblob bench`: measures a scenario; so far there is one, reads by a fleet of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pvblob.errors import SettingsError

HELP = """Measure a scenario on this machine.

One scenario exists so far:

  fleet-read   N processes read ranges of blobs that lie in the page cache, over the paths of `pvblob demo` and over
               channel-view (bytes used in place). Not measured yet: latency of single small reads, uploads, listings,
               cold reads, upstream accounts.

Examples:

  pvblob bench fleet-read --clients 4 --range-kib 256

  pvblob bench fleet-read --paths channel,channel-view,http-nginx-obstore --rounds 7 --json result.json
"""
SCENARIOS = ("fleet-read",)


def run(
    scenario: Annotated[str, typer.Argument(help="What to measure: fleet-read.")] = "fleet-read",
    clients: Annotated[int, typer.Option(min=1, help="How many client processes.")] = 100,
    gib: Annotated[float, typer.Option(min=0.01, help="GiB of blobs, and what every path reads in a round.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often every path is measured.")] = 5,
    range_kib: Annotated[int, typer.Option(min=4, help="Size of one read in KiB; divides 65536.")] = 4096,
    paths: Annotated[str | None, typer.Option(metavar="PATH,…", help="Which paths; default: all.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here.")] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", exists=True, file_okay=False, help="For the temporary store.")
    ] = None,
) -> None:
    """Run the scenario and print its table."""
    from pvblob.cli.demo import show
    from pvblob.cli.fleet.contest import ContestSettings
    from pvblob.cli.fleet.readers import PATHS

    if scenario not in SCENARIOS:
        raise SettingsError(f"there is no scenario {scenario!r}: {', '.join(SCENARIOS)}")
    chosen = paths.split(",") if paths else list(PATHS)
    if unknown := [path for path in chosen if path not in PATHS]:
        raise SettingsError(f"there is no path {', '.join(unknown)}: {', '.join(PATHS)}")
    show(ContestSettings(chosen, clients, gib, rounds, range_kib << 10, directory), json_file)
