"""`pvblob get`: blobs become files. A file appears under its name only when it is complete."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from pvblob import BlobProperties, Client
from pvblob.cli import options, output
from pvblob.cli.locator import Locator
from pvblob.errors import SettingsError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

HELP = """Fetch blobs into files, a directory or standard output.

Without TARGET a blob goes into the working directory under its own last name. A file is complete or absent:
bytes gather in a temporary file beside it.

Examples:

  pvblob get models/v3/model.bin

  pvblob get -r tables/2026/ ./tables

  pvblob get backups/now.tar - | tar x
"""


class Download(NamedTuple):
    """One blob to fetch. target: None is standard output."""

    source: Locator
    target: Path | None


def run(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="CONTAINER/BLOB, or with -r a prefix.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help='A file or directory; "-": standard output.')] = ".",
    recursive: options.Recursive = False,
    as_json: options.Json = False,
    socket: options.Socket = None,
    account: options.Account = options.ACCOUNT,
    timeout_s: options.TimeoutS = options.TIMEOUT_S,
) -> None:
    """Fetch every blob, with progress on a terminal."""
    place = Locator.parse(source)
    if as_json and target == "-":
        raise SettingsError("--json and the blob's bytes cannot both go to standard output")
    with options.connect(socket, account, timeout_s, place) as client, output.progress_bar() as progress:
        for download in plan(client, place, target, recursive=recursive):
            size_bytes = fetch(client, download, progress)
            if as_json:
                shown = {"source": str(download.source), "target": str(download.target), "size_bytes": size_bytes}
                output.json_line(shown)


def plan(client: Client, place: Locator, target: str, *, recursive: bool) -> Iterator[Download]:
    """Yield what is to be fetched where. Raises SettingsError when one blob is wanted and none is named."""
    directory = Path(target)
    if recursive:
        prefix = place.prefix()
        for entry in client.list(place.container, prefix):
            if isinstance(entry, BlobProperties) and not entry.name.endswith("/"):
                yield Download(place.child(entry.name[len(prefix) :]), _below(directory, entry.name[len(prefix) :]))
    elif place.is_prefix:
        raise SettingsError(f"{place} names no single blob: use -r to fetch everything below it")
    elif target == "-":
        yield Download(place, None)
    elif directory.is_dir() or target.endswith("/"):
        yield Download(place, _below(directory, PurePosixPath(place.blob).name))
    else:
        yield Download(place, directory)


def fetch(client: Client, download: Download, progress: Progress) -> int:
    """Fetch one blob and return its size in bytes."""
    source = download.source
    total = None if progress.disable else client.stat(source.container, source.blob).size_bytes
    task = progress.add_task(str(download.target or source), total=total)
    pieces = client.stream(source.container, source.blob)
    if download.target is None:
        fd = sys.stdout.fileno()
        return sum(_write_all(fd, piece, progress, task) for piece in pieces)
    # Nothing is made for a blob that is not there.
    first = next(pieces, memoryview(b""))
    download.target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=download.target.parent, prefix=".pvblob-", delete=False) as file:
        try:
            size_bytes = _write_all(file.fileno(), first, progress, task)
            del first  # its memory is lent
            size_bytes += sum(_write_all(file.fileno(), piece, progress, task) for piece in pieces)
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            Path(file.name).replace(download.target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return size_bytes


def _write_all(fd: int, piece: memoryview, progress: Progress, task: TaskID) -> int:
    """Write *piece* from where the host placed it, without a copy of ours."""
    written = 0
    while written < len(piece):
        written += os.write(fd, piece[written:])
    progress.advance(task, written)
    return written


def _below(directory: Path, name: str) -> Path:
    """Return *name* below *directory*. Blob names may hold "..", which must not lead out of it."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise SettingsError(f"blob name {name!r} would leave {directory}: fetch it alone, under a name you choose")
    return directory.joinpath(*parts)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
