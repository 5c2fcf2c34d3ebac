"""`pvblob put`: files, directories or standard input become blobs."""

from __future__ import annotations

import mimetypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from pvblob import Client, NotFound, Written
from pvblob.cli import options, output
from pvblob.cli.locator import Locator
from pvblob.errors import SettingsError

if TYPE_CHECKING:
    from rich.progress import Progress

HELP = """Store files, directories or standard input as blobs.

A TARGET that is a container or ends with "/" takes the sources' names; with -r the names of a directory's
files below it.

Examples:

  pvblob put model.bin models/v3/model.bin

  pvblob put *.parquet tables/2026/ --create

  pvblob put -r results/ backups/results

  tar c . | pvblob put - backups/now.tar
"""


class Upload(NamedTuple):
    """One file to store. source: None is standard input."""

    source: Path | None
    target: Locator


def run(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help='Files, directories or "-" (stdin).')],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="CONTAINER/BLOB, or a prefix that ends with /.")],
    recursive: options.Recursive = False,
    create: Annotated[bool, typer.Option("--create", help="Create the container if it does not exist.")] = False,
    no_overwrite: Annotated[bool, typer.Option("--no-overwrite", help="Fail if a blob exists already.")] = False,
    content_type: Annotated[str | None, typer.Option(help="Default: guessed from the name.")] = None,
    metadata: Annotated[list[str] | None, typer.Option("--metadata", "-m", metavar="NAME=VALUE")] = None,
    as_json: options.Json = False,
    socket: options.Socket = None,
    account: options.Account = options.ACCOUNT,
    timeout_s: options.TimeoutS = options.TIMEOUT_S,
) -> None:
    """Store every source, with progress on a terminal."""
    place = Locator.parse(target)
    uploads = list(plan(sources, place, recursive=recursive))
    labels = _metadata(metadata or [])
    with options.connect(socket, account, timeout_s, place) as client, output.progress_bar() as progress:
        if create:
            client.create_container(place.container, exist_ok=True)
        for upload in uploads:
            kind = content_type or mimetypes.guess_type(upload.target.blob)[0]
            written = store(client, upload, progress, overwrite=not no_overwrite, metadata=labels, content_type=kind)
            if as_json:
                output.json_line({"target": str(upload.target), **output.record(written)})


def plan(sources: list[str], target: Locator, *, recursive: bool) -> Iterator[Upload]:
    """Yield what is to be stored where. Raises SettingsError for a directory without -r, or a name that is missing."""
    several = len(sources) > 1 or target.is_prefix
    for source in sources:
        path = Path(source)
        if source == "-":
            if several:
                raise SettingsError("standard input has no name: give the blob's, e.g. CONTAINER/BLOB")
            yield Upload(None, target)
        elif path.is_dir():
            if not recursive:
                raise SettingsError(f"{source} is a directory: use -r to store what is in it")
            yield from (Upload(file, target.child(file.relative_to(path).as_posix())) for file in _files(path))
        else:
            yield Upload(path, target.child(path.name) if several else target)


def store(client: Client, upload: Upload, progress: Progress, **how: object) -> Written:
    """Store one file, showing its progress."""
    label = str(upload.source or "standard input")
    target = upload.target
    try:
        if upload.source is None:
            return client.put(target.container, target.blob, sys.stdin.buffer, **how)  # type: ignore[arg-type]
        size_bytes = upload.source.stat().st_size
        with progress.open(upload.source, "rb", total=size_bytes, description=label) as file:
            return client.put(target.container, target.blob, file, **how)  # type: ignore[arg-type]
    except NotFound as error:
        if error.code != "ContainerNotFound":
            raise
        raise SettingsError(f"container {target.container!r} does not exist: --create makes it") from None


def _files(directory: Path) -> Iterator[Path]:
    """Yield the regular files below *directory*, in order; symbolic links to directories are not followed."""
    for folder, folders, names in os.walk(directory):
        folders.sort()
        yield from (path for name in sorted(names) if (path := Path(folder, name)).is_file())


def _metadata(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise SettingsError(f"--metadata {pair!r}: write NAME=VALUE")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
