"""`pvblob stat`: the properties of a blob or a container."""

from __future__ import annotations

from typing import Annotated

import typer

from pvblob.cli import options, output
from pvblob.cli.locator import Locator

HELP = """Show the properties of a blob or a container.

Examples:

  pvblob stat models/v3/model.bin

  pvblob stat models --json
"""


def run(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="CONTAINER or CONTAINER/BLOB.")],
    as_json: options.Json = False,
    socket: options.Socket = None,
    account: options.Account = options.ACCOUNT,
    timeout_s: options.TimeoutS = options.TIMEOUT_S,
) -> None:
    """Print what is known, one property per line."""
    where = Locator.parse(place)
    with options.connect(socket, account, timeout_s, where) as client:
        known = client.stat(where.container, where.blob) if where.blob else client.stat_container(where.container)
    shown = output.record(known)
    if as_json:
        output.json_line(shown)
        return
    width = max(map(len, shown))
    for name, value in shown.items():
        output.text_line(f"{name:{width}}  {value.hex() if isinstance(value, bytes) else value}")
