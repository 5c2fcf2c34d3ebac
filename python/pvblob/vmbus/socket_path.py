"""The path a host's control socket has in the file system: may it be used, and does a living host hold it.

`bus.listen` and `bus.connect` ask here first. A path is taken over from a host that died, never from one that lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat

from pvblob.errors import ChannelError, SettingsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATH_BYTES_MAX = 107


def identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of what *path* names now, or None: is it still the socket that we bound?"""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def check_length(path: str | Path) -> None:
    """Raise SettingsError when *path* is longer than a Unix socket's path can be."""
    length = len(os.fsencode(path))
    if length > PATH_BYTES_MAX:
        text = f"the socket path {path} has {length} bytes; a Unix socket's may have {PATH_BYTES_MAX}"
        raise SettingsError(f"{text}: set $PVBLOB_SOCKET to a shorter one")


def make_directory(directory: Path, mode: int, group: int | None) -> None:
    """Make the directory of a socket of this *mode* and *group* unless it exists: only they may pass through it."""
    if directory.exists():
        return
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    passage = (0o010 if mode & 0o060 else 0) | (0o001 if mode & 0o006 else 0)
    if passage:
        if group is not None:
            os.chown(directory, -1, group)
        directory.chmod(0o700 | passage)


def check_directory(directory: str | Path) -> None:
    """Refuse a directory that somebody else may have put into /tmp, or its like, before us.

    Its owner could listen there in the host's place.  Raises SettingsError saying whose it is.
    """
    # Every guest comes here, and most never import pathlib.
    above = os.stat(os.path.dirname(directory)).st_mode  # noqa: PTH116, PTH120
    if not (above & stat.S_ISVTX and above & stat.S_IWOTH):
        return
    found = os.lstat(directory)
    ours = found.st_uid in (os.geteuid(), 0)
    if not stat.S_ISDIR(found.st_mode) or not ours or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        text = f"{directory} may belong to somebody else (owner uid {found.st_uid}, mode {found.st_mode & 0o7777:o})"
        raise SettingsError(f"{text}: remove it, or set $PVBLOB_SOCKET to a path in a directory of yours")


@contextlib.contextmanager
def only_one_starts(directory: Path) -> Iterator[None]:
    """Hold a lock on *directory*, so that of two hosts that find a stale socket one does not remove the other's."""
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ChannelError(f"another host is starting in {directory}; try again") from error
        yield
    finally:
        os.close(held)


def remove_stale(path: Path) -> None:
    """Remove a socket nobody listens on. Raises ChannelError when a host does, SettingsError when it is no socket."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise SettingsError(f"{path} exists and is no socket: it is left alone; set $PVBLOB_SOCKET to another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.setblocking(False)
        refused = probe.connect_ex(os.fspath(path)) == errno.ECONNREFUSED
    if not refused:
        raise ChannelError(f"a host is already listening on {path}")
    path.unlink()
