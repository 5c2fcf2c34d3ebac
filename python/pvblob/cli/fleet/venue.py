"""Where a contest takes place: a temporary directory, the servers that run in it, the blobs that lie in them.

`open_venue(plan, narrate)` yields a `Venue`; whatever ends it, every process and file it made is gone afterwards.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from pvblob.cli.fleet import servers
from pvblob.cli.fleet.corpus import GIB, MIB, Corpus
from pvblob.cli.fleet.fill import fill
from pvblob.cli.fleet.servers import Server
from pvblob.cli.fleet.workers.contract import Address
from pvblob.errors import SettingsError

BLOB_BYTES = 64 * MIB
SEED = 20211005
Narrate = Callable[[str, int, int], None]
"""Told (what happens, steps done, steps in all); never called inside a timed section."""


class HostPlan(NamedTuple):
    """A host to run. environment: its PVBLOB_* settings."""

    durability: str = "fsync"
    environment: Mapping[str, str] = {}


class VenuePlan(NamedTuple):
    """What a venue has.

    hosts: by name.  nginx: whether it is wanted.  blobs: of 64 MiB each; 0 when clients only write.  directory: where
    the temporary directory goes; None is the system's place for temporary files.  bytes_wanted: free space that must
    be there beyond the corpus.
    """

    hosts: Mapping[str, HostPlan]
    nginx: bool
    blobs: int
    directory: Path | None = None
    bytes_wanted: int = GIB // 4


class Venue(NamedTuple):
    """Running servers and what they serve.

    servers: by name; "files" is none, its directory is read and written by the clients themselves.  absent: servers
    that were wanted, and why they are not there.  files: directory of the corpus as plain files.
    """

    servers: dict[str, Server]
    absent: dict[str, str]
    corpus: Corpus
    directory: Path
    files: Path


@contextmanager
def open_venue(plan: VenuePlan, narrate: Narrate) -> Iterator[Venue]:
    """Start everything and write the corpus. Raises SettingsError, ServerFailure, FillFailure."""
    with ExitStack() as stack:
        wanted = plan.blobs * BLOB_BYTES * (len(plan.hosts) + 1) + plan.bytes_wanted
        directory = stack.enter_context(temporary_directory(wanted, plan.directory))
        corpus = Corpus(SEED, plan.blobs, BLOB_BYTES, str(directory / "checksums"))
        files = directory / "www"
        files.mkdir()
        running = {"files": Server(0, {"files": Address("files", directory=str(files))}, _of_files(directory))}
        venue = Venue(running, {}, corpus, directory, files)
        for name, host in plan.hosts.items():
            narrate(f"starting {name}", 0, 1)
            running[name] = stack.enter_context(servers.host(directory, name, host.durability, host.environment))
        program = servers.nginx_program()
        if plan.nginx and program is None:
            venue.absent["nginx"] = "not installed"
        elif plan.nginx and program is not None:
            running["nginx"] = stack.enter_context(servers.nginx(directory, program, writes=not plan.blobs))
        if plan.blobs:
            _fill(venue, list(plan.hosts), narrate)
        yield venue


def _fill(venue: Venue, hosts: list[str], narrate: Narrate) -> None:
    total = venue.corpus.blob_count
    what = f"writing {total} blobs of {venue.corpus.blob_bytes >> 20} MiB through the channel"
    narrate(what, 0, total)
    sockets = [venue.servers[name].addresses["channel"].socket for name in hosts]
    fill(venue.corpus, sockets, venue.files, lambda done: narrate(what, done, total))


def _of_files(directory: Path) -> str:
    return f"none, files on {servers.file_system(directory)}"


@contextmanager
def temporary_directory(bytes_wanted: int, parent: Path | None) -> Iterator[Path]:
    """Yield a directory that is gone afterwards. Raises SettingsError when the disk has less than *bytes_wanted*."""
    parent = parent or Path(tempfile.gettempdir())
    free = shutil.disk_usage(parent).free
    if free < bytes_wanted:
        needed = f"{bytes_wanted / GIB:.1f} are needed"
        raise SettingsError(f"{parent} has {free / GIB:.1f} GiB free, {needed}: choose another --dir or less --gib")
    with tempfile.TemporaryDirectory(prefix="pvblob-", dir=parent) as directory:
        yield Path(directory)
