"""Blocks of blobs on the local disk: written whole or not at all, checked before the first byte is used.

A block is one file: its bytes, then a trailer with their length, their CRC-64/NVME and the name they were stored
under. It is written under another name and renamed when complete. What an earlier process left is checked when it is
first asked for, and so is a file that changed since; a block that fails is deleted and counts as absent. So neither a
host that was killed, nor a disk, nor a hand can make a wrong byte be served. A block that is evicted stays readable
for whoever holds its descriptor.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from pvblob import _native
from pvblob.errors import SettingsError
from pvblob.upstream.s3fifo import S3Fifo

log = logging.getLogger("pvblob.upstream")

BLOCK_BYTES = 4 << 20
_MAGIC = b"pvblobC1"
_TRAILER = struct.Struct("<8sQQ32s")  # magic, length, crc, digest of the name
_PART = ".part"
_CHECK_STEP_BYTES = 1 << 20


@dataclass(slots=True)
class BlockCounters:
    """hits, misses: blocks asked for.  stored, evicted, damaged: blocks.  full: those the disk had no room for."""

    hits: int = 0
    misses: int = 0
    stored: int = 0
    evicted: int = 0
    damaged: int = 0
    full: int = 0


def block_name(*parts: str | bytes | int) -> str:
    """Return the file name of the block that *parts* identify together."""
    digest = hashlib.sha256(repr(parts).encode())
    return digest.hexdigest()


class BlockStore:
    """At most *bytes_max* bytes of blocks in *directory*, which belongs to this process alone."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory = directory
        self._order = S3Fifo(bytes_max)
        self._checked: dict[str, tuple[int, int]] = {}  # name → (mtime in ns, size) when its CRC was right
        self.counters = BlockCounters()
        self._lock_fd = -1

    @property
    def size_bytes(self) -> int:
        """Bytes held."""
        return self._order.size_bytes

    def __len__(self) -> int:
        return len(self._order)

    def open(self) -> None:
        """Take possession of the directory and of what an earlier process left there. Raises SettingsError."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock_fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            entries = sorted(self._directory.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        except OSError as error:
            reason = "another host uses it" if error.errno == errno.EWOULDBLOCK else error.strerror
            raise SettingsError(f"cache_dir {self._directory}: {reason}") from None
        for path in entries:
            if path.suffix == _PART:
                path.unlink()
            elif len(path.name) == 64:
                self._evict(self._order.add(path.name, path.stat().st_size))

    def close(self) -> None:
        """Let go of the directory. Idempotent."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def drop(self) -> int:
        """Delete every block; return how many."""
        names = [path.name for path in self._directory.iterdir() if path.name in self._order]
        for name in names:
            self._forget(name)
        return len(names)

    async def get(self, name: str, length: int) -> int | None:
        """Return a descriptor of the block's file, the caller's to close; its first *length* bytes are right."""
        fd = await self._open_checked(name, length) if name in self._order else None
        if fd is None:
            self.counters.misses += 1
            return None
        self.counters.hits += 1
        self._order.use(name)
        return fd

    async def put(self, name: str, length: int, fill: Callable[[int], Awaitable[None]]) -> bool:
        """Have *fill* write *length* bytes to a descriptor, then keep them as *name*. False: the disk has no room."""
        part = self._directory / f"{name}{_PART}"
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # Asked for first, so that a full disk is known before a byte is fetched.
            os.posix_fallocate(fd, 0, length + _TRAILER.size)
            await fill(fd)
            await asyncio.get_running_loop().run_in_executor(None, _seal, fd, name, length)
            part.rename(self._directory / name)
            stat = os.fstat(fd)
        except BaseException as error:
            with contextlib.suppress(OSError):
                part.unlink()
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
                self.counters.full += 1
                return False
            raise
        finally:
            os.close(fd)
        self.counters.stored += 1
        self._checked[name] = (stat.st_mtime_ns, stat.st_size)
        self._evict(self._order.add(name, stat.st_size))
        return True

    async def _open_checked(self, name: str, length: int) -> int | None:
        try:
            fd = os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._forget(name)
            return None
        try:
            stat = os.fstat(fd)
            identity = (stat.st_mtime_ns, stat.st_size)
            if self._checked.get(name) != identity:
                right = await asyncio.get_running_loop().run_in_executor(None, _is_right, fd, name, length)
                if not right:
                    self.counters.damaged += 1
                    log.warning("a cached block was damaged and is fetched again: %s", name)
                    self._forget(name)
                    os.close(fd)
                    return None
                self._checked[name] = identity
            return fd
        except BaseException:
            os.close(fd)
            raise

    def _evict(self, names: list[str]) -> None:
        for name in names:
            self.counters.evicted += 1
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._order.remove(name)
        self._checked.pop(name, None)
        with contextlib.suppress(OSError):
            (self._directory / name).unlink()


def _crc(fd: int, length: int) -> int | None:
    crc, offset = 0, 0
    while offset < length:
        data = os.pread(fd, min(_CHECK_STEP_BYTES, length - offset), offset)
        if not data:
            return None
        crc = _native.crc64(data, crc)
        offset += len(data)
    return crc


def _seal(fd: int, name: str, length: int) -> None:
    crc = _crc(fd, length)
    if crc is None:
        raise OSError(errno.EIO, "a block is shorter than what was written to it")
    os.pwrite(fd, _TRAILER.pack(_MAGIC, length, crc, bytes.fromhex(name)), length)


def _is_right(fd: int, name: str, length: int) -> bool:
    try:
        trailer = os.pread(fd, _TRAILER.size + 1, length)
        if len(trailer) != _TRAILER.size:
            return False
        return _TRAILER.unpack(trailer) == (_MAGIC, length, _crc(fd, length), bytes.fromhex(name))
    except OSError:
        return False
