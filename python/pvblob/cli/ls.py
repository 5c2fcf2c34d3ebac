"""`pvblob ls`: containers, or the blobs of one."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from pvblob import BlobPrefix, BlobProperties
from pvblob.cli import options, output
from pvblob.cli.locator import Locator

HELP = """List containers or blobs.

Without PLACE, or with pvblob://ACCOUNT: the account's containers. Names are rolled up at "/" unless -r is given.
Columns: size, time (UTC), name.

Examples:

  pvblob ls

  pvblob ls pvblob://contoso

  pvblob ls models/v3/

  pvblob ls -r models --json | jq .size_bytes
"""


def run(
    place: Annotated[
        str | None, typer.Argument(metavar="[PLACE]", help="CONTAINER, CONTAINER/PREFIX or an account.")
    ] = None,
    recursive: options.Recursive = False,
    start_from: Annotated[str | None, typer.Option(help="The first name that may appear.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many entries.")] = None,
    as_json: options.Json = False,
    socket: options.Socket = None,
    account: options.Account = options.ACCOUNT,
    timeout_s: options.TimeoutS = options.TIMEOUT_S,
) -> None:
    """Print one entry per line, as pages arrive."""
    where = Locator.parse(place, whole_account=True) if place else None
    with options.connect(socket, account, timeout_s, *([where] if where else [])) as client:
        if where is None or not where.container:
            for container in islice(client.list_containers(), limit):
                if as_json:
                    output.json_line(output.record(container))
                else:
                    output.text_line(container.name)
            return
        delimiter = None if recursive else "/"
        for entry in islice(client.list(where.container, where.blob, delimiter, start_from), limit):
            if as_json:
                output.json_line(output.record(entry))
            else:
                output.text_line(_line(entry))


def _line(entry: BlobProperties | BlobPrefix) -> str:
    if isinstance(entry, BlobPrefix):
        return f"{'-':>10}  {'':19}  {entry.name}"
    time = f"{entry.last_modified:%Y-%m-%d %H:%M:%S}" if entry.last_modified else ""
    return f"{output.size_text(entry.size_bytes):>10}  {time:19}  {entry.name}"
