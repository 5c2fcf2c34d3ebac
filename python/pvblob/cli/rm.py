"""`pvblob rm`: deletes blobs one by one, everything below a prefix, or a container."""

from __future__ import annotations

from typing import Annotated

import typer

from pvblob import BlobProperties, Client
from pvblob.cli import options, output
from pvblob.cli.locator import Locator
from pvblob.errors import SettingsError

HELP = """Delete blobs or a container.

Examples:

  pvblob rm models/v1/model.bin

  pvblob rm -r tables/2025/

  pvblob rm --container scratch
"""


def run(
    places: Annotated[list[str], typer.Argument(metavar="PLACE...", help="CONTAINER/BLOB, or with -r a prefix.")],
    recursive: options.Recursive = False,
    container: Annotated[bool, typer.Option("--container", help="Delete whole containers, with their blobs.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Do not fail on what does not exist.")] = False,
    as_json: options.Json = False,
    socket: options.Socket = None,
    account: options.Account = options.ACCOUNT,
    timeout_s: options.TimeoutS = options.TIMEOUT_S,
) -> None:
    """Delete every place, stopping at the first that fails."""
    wheres = [Locator.parse(place) for place in places]
    for where in wheres:
        _check(where, recursive=recursive, container=container)
    with options.connect(socket, account, timeout_s, *wheres) as client:
        for where in wheres:
            if container:
                deleted = int(client.delete_container(where.container, missing_ok=force))
            elif recursive:
                deleted = _delete_below(client, where)
            else:
                deleted = int(client.delete(where.container, where.blob, missing_ok=force))
            if as_json:
                output.json_line({"place": str(where), "deleted": deleted})


def _check(where: Locator, *, recursive: bool, container: bool) -> None:
    if container and where.blob:
        raise SettingsError(f"--container deletes whole containers, and {where} names something in one")
    if not container and not recursive and where.is_prefix:
        raise SettingsError(f"{where} names no single blob: -r deletes everything below it, --container the container")


def _delete_below(client: Client, where: Locator) -> int:
    """Delete what a prefix holds, and the blob of that very name; return how many blobs went."""
    names = [entry.name for entry in client.list(where.container, where.prefix()) if isinstance(entry, BlobProperties)]
    failed = client.delete_many(where.container, names)
    for error in failed.values():
        raise error
    alone = 0 if where.is_prefix else int(client.delete(where.container, where.blob, missing_ok=True))
    return len(names) + alone
