"""Blocks of blobs on the local disk: written whole or not at all, checked before the first byte is used.

What an earlier process left is checked when it is first asked for, and so is a file that changed since; a block that
fails is deleted and counts as absent. So neither a host that was killed, nor a disk, nor a hand can make a wrong byte
be served. A block that goes stays readable for whoever holds its descriptor. Blocks may be lent to be read without
`get` (`lending.py`): they are taken back before they go, and what was used meanwhile is spared for another round.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from pvblob.errors import SettingsError
from pvblob.upstream.block_files import BLOCK_BYTES, BlockKey, Label, file_bytes, is_right, read_label, seal
from pvblob.upstream.lending import Lending, Lent
from pvblob.upstream.s3fifo import NOBODY, S3Fifo
from pvblob.upstream.tallies import Tallies
from pvblob.upstream.versions import Version

__all__ = ["BLOCK_BYTES", "BlockStore"]

log = logging.getLogger("pvblob.upstream")

_PART = ".part"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE})


class _Checked(NamedTuple):
    """What a file looked like when its checksum was right."""

    mtime_ns: int
    size_bytes: int

    @classmethod
    def of(cls, stat: os.stat_result) -> _Checked:
        return cls(stat.st_mtime_ns, stat.st_size)


class BlockStore:
    """At most *bytes_max* bytes of blocks in *directory*, which belongs to this process alone.

    guest_bytes_max: what a guest keeps whatever the others read (see `S3Fifo`); None: there is no quota.
    """

    def __init__(self, directory: Path, bytes_max: int, guest_bytes_max: int | None = None) -> None:
        self.directory = directory
        self.lending = Lending()
        self._order = S3Fifo(bytes_max, guest_bytes_max, self.lending.is_used)
        self._labels: dict[str, Label] = {}
        self._checked: dict[str, _Checked] = {}
        self._attempts = itertools.count(1)
        self.tallies = Tallies()
        self._lock_fd = -1

    @property
    def size_bytes(self) -> int:
        """Bytes held."""
        return self._order.size_bytes

    @property
    def guest_bytes_max(self) -> int | None:
        """The quota of one guest."""
        return self._order.owner_bytes_max

    @property
    def bytes_max(self) -> int:
        """Bytes that may be held."""
        return self._order.bytes_max

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, key: BlockKey) -> bool:
        return key.name in self._order

    def open(self) -> None:
        """Take possession of the directory and of what an earlier process left there. Raises SettingsError."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock_fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            entries = sorted(self.directory.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        except OSError as error:
            reason = "another host uses it" if error.errno == errno.EWOULDBLOCK else error.strerror
            raise SettingsError(f"cache_dir {self.directory}: {reason}") from None
        for path in entries:
            if path.suffix == _PART:
                path.unlink()
            elif len(path.name) == 64:
                label = read_label(path)
                if label is None:
                    path.unlink()
                else:
                    self._admit(path.name, label, path.stat().st_size, NOBODY)

    def close(self) -> None:
        """Let go of the directory. Idempotent."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    async def get(self, key: BlockKey, length: int) -> int | None:
        """Return a descriptor of the block's file, the caller's to close; its first *length* bytes are right."""
        fd = await self._open_checked(key, length) if key.name in self._order else None
        if fd is not None and self.lending.wants(key):
            self.lend(key)
        return fd

    def use(self, key: BlockKey, guest: str = NOBODY) -> None:
        """Note that *guest* uses a block, not for the first time."""
        self._order.use(key.name, guest)

    async def put(
        self, key: BlockKey, length: int, fill: Callable[[int], Awaitable[None]], guest: str = NOBODY
    ) -> bool:
        """Have *fill* write *length* bytes to a descriptor, then keep them for *guest*. False: the disk has no room."""
        # A name of its own: an earlier attempt that was called off may not be gone yet.
        part = self.directory / f"{key.name}.{next(self._attempts)}{_PART}"
        try:
            stat = await self._write(key, length, fill, part)
        except BaseException as error:
            with contextlib.suppress(OSError):
                part.unlink()
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                self.tallies.of(key.label).full += 1
                return False
            raise
        self.tallies.of(key.label).admitted += 1
        self._checked[key.name] = _Checked.of(stat)
        self._admit(key.name, key.label, stat.st_size, guest)
        return True

    def drop(self, concerns: Callable[[Label], bool] = lambda _label: True) -> tuple[int, int]:
        """Delete every block whose label *concerns* is true of; return how many, and their bytes."""
        names = [name for name, label in self._labels.items() if concerns(label)]
        size_bytes = sum(self._order.size_of(name) for name in names)
        for name in names:
            self.tallies.of(self._labels[name]).dropped += 1
            self._forget(name)
        return len(names), size_bytes

    def holdings(self) -> dict[tuple[str, str], tuple[int, int, int]]:
        """Return how many blocks, of how many bytes, are held of each (account, container), and how many are lent."""
        sums: dict[tuple[str, str], tuple[int, int, int]] = {}
        for name, label in self._labels.items():
            blocks, size_bytes, lent = sums.get(label[:2], (0, 0, 0))
            sums[label[:2]] = blocks + 1, size_bytes + self._order.size_of(name), lent + (name in self.lending)
        return sums

    def guests(self) -> dict[str, tuple[int, int]]:
        """Return how many blocks, of how many bytes, were taken in for each guest; NOBODY: before the host began."""
        return self._order.owners()

    # ---- lending

    def borrow(self, version: Version) -> Lent:
        """Return what is lent of *version* from now on, as blocks come: at first those here that are known to be right.

        The caller owes `Lent.let_go`.
        """
        lent, is_first = self.lending.borrow((version.label, version.head.etag), version.head.size_bytes)
        for number in range(version.blocks if is_first else 0):
            self.lend(version.key(number))
        return lent

    def lend(self, key: BlockKey, *, untold: bool = False) -> None:
        """Lend a block whose version is borrowed, if it is here and was found right in this process.

        untold: nobody has asked for it yet, and whoever is the first shall ask Python.
        """
        if not self.lending.wants(key) or key.name not in self._order:
            return
        with contextlib.suppress(OSError):  # then Python answers who asks for it
            fd = os.open(self.directory / key.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if self._checked.get(key.name) == _Checked.of(os.fstat(fd)):
                    self.lending.lend(key, fd, untold=untold)
            finally:
                os.close(fd)

    def look_at_lent(self) -> None:
        """Delete lent blocks whose files were changed by somebody else."""
        for name in self.lending.names():
            try:
                same = _Checked.of((self.directory / name).stat()) == self._checked.get(name)
            except OSError:
                same = False
            if not same:
                self._damaged(name)

    # ---- files

    async def _write(
        self, key: BlockKey, length: int, fill: Callable[[int], Awaitable[None]], part: Path
    ) -> os.stat_result:
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # Asked for first, so that a full disk is known before a byte is fetched.
            os.posix_fallocate(fd, 0, file_bytes(key, length))
            await fill(fd)
            await asyncio.get_running_loop().run_in_executor(None, seal, fd, key, length)
            self._publish(part, key.name)
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _publish(self, part: Path, name: str) -> None:
        # Here, not in a thread: what is called off before this leaves nothing behind, what comes after is admitted.
        part.rename(self.directory / name)

    async def _open_checked(self, key: BlockKey, length: int) -> int | None:
        name = key.name
        try:
            fd = os.open(self.directory / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._forget(name)
            return None
        except OSError:
            return None
        try:
            found = _Checked.of(os.fstat(fd))
            if self._checked.get(name) != found:
                if not await asyncio.get_running_loop().run_in_executor(None, is_right, fd, key, length):
                    self._damaged(name)
                    os.close(fd)
                    return None
                if name in self._order:
                    self._checked[name] = found
            return fd
        except BaseException:
            os.close(fd)
            raise

    def _damaged(self, name: str) -> None:
        label = self._labels.get(name)
        if label is not None:
            self.tallies.of(label).damaged += 1
        log.warning("a cached block was damaged and is fetched again: %s", name)
        self._forget(name)

    def _admit(self, name: str, label: Label, size_bytes: int, guest: str) -> None:
        self._labels[name] = label
        for gone in self._order.add(name, size_bytes, guest):
            self.tallies.of(self._labels[gone]).evicted += 1
            self._forget(gone)

    def _forget(self, name: str) -> None:
        self.lending.take_back(name)
        self._order.remove(name)
        self._labels.pop(name, None)
        self._checked.pop(name, None)
        with contextlib.suppress(OSError):
            (self.directory / name).unlink()
