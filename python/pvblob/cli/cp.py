"""`pvblob cp`: copies blobs inside an account; the bytes never leave the service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, NamedTuple

import typer

from pvblob import BlobProperties, Client, NotFound
from pvblob.cli import options, output
from pvblob.cli.locator import Locator
from pvblob.errors import SettingsError

HELP = """Copy blobs inside an account: content, settings and metadata. The bytes do not come here.

A TARGET that is a container or ends with "/" takes the source's name; with -r the names of what lies below it.

Examples:

  pvblob cp models/v3/model.bin models/latest/model.bin

  pvblob cp -r tables/2026/ archive/tables-2026/ --create

  pvblob cp pvblob://contoso/models/v3/model.bin pvblob://contoso/backups/
"""


class Copy(NamedTuple):
    """One blob to copy."""

    source: Locator
    target: Locator


def run(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="CONTAINER/BLOB, or with -r a prefix.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="CONTAINER/BLOB, or a prefix that ends with /.")],
    recursive: options.Recursive = False,
    create: Annotated[bool, typer.Option("--create", help="Create the container if it does not exist.")] = False,
    no_overwrite: Annotated[bool, typer.Option("--no-overwrite", help="Fail if a blob exists already.")] = False,
    as_json: options.Json = False,
    socket: options.Socket = None,
    account: options.Account = options.ACCOUNT,
    timeout_s: options.TimeoutS = options.TIMEOUT_S,
) -> None:
    """Copy every blob, stopping at the first that fails."""
    there, place = Locator.parse(source), Locator.parse(target)
    if there.is_prefix and not recursive:
        raise SettingsError(f"{there} names no single blob: use -r to copy everything below it")
    with options.connect(socket, account, timeout_s, there, place) as client:
        if create:
            client.create_container(place.container, exist_ok=True)
        for copy in plan(client, there, place, recursive=recursive):
            _copy(client, copy, overwrite=not no_overwrite)
            if as_json:
                output.json_line({"source": str(copy.source), "target": str(copy.target)})


def plan(client: Client, source: Locator, target: Locator, *, recursive: bool) -> Iterator[Copy]:
    """Yield what is to be copied where. Raises SettingsError when what is copied would be listed, and copied, again."""
    if not recursive:
        into = target.child(PurePosixPath(source.blob).name) if target.is_prefix else target
        yield Copy(source, into)
        return
    prefix = source.prefix()
    if target.container == source.container and target.prefix().startswith(prefix):
        raise SettingsError(f"{target} lies in {source}, and would be copied into itself")
    for entry in client.list(source.container, prefix):
        if isinstance(entry, BlobProperties):
            name = entry.name[len(prefix) :]
            yield Copy(source.child(name), target.child(name))


def _copy(client: Client, copy: Copy, *, overwrite: bool) -> None:
    source, target = copy
    try:
        client.copy(source.container, source.blob, target.container, target.blob, overwrite=overwrite)
    except NotFound as missing:
        if missing.code != "ContainerNotFound":
            raise
        raise SettingsError(f"container {target.container!r} does not exist: --create makes it") from None
