"""Puts files out of the page cache, so that the next read comes from the disk."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from pvblob.cli.fleet.corpus import PAGE_BYTES
from pvblob.cli.fleet.failure import ContestFailure

# Mapped by who checks bytes, or in use by the catalog: they may stay, for no blob is read from them.
KEPT = ("checksums", "catalog.sqlite")

# Pages that sendfile lent to the network stay until it lets go of them, and with one the whole folio. So a few may be
# found, which flatters the peer that used sendfile and nobody else; many are waited for, then the file is on no disk.
LOOKS = 64
FOUND_MAX = LOOKS // 8
LENT_PAGES_TIMEOUT_S = 2.0


def drop_page_cache(directory: Path) -> None:
    """Drop every file below *directory* from the page cache. Raises ContestFailure where that cannot be done."""
    for path in sorted(directory.rglob("*")):
        if stat.S_ISREG(path.lstat().st_mode):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _drop(fd, path)
            finally:
                os.close(fd)


def _drop(fd: int, path: Path) -> None:
    os.fsync(fd)  # only clean pages can be dropped
    give_up_at = time.monotonic() + LENT_PAGES_TIMEOUT_S
    while True:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if path.name.startswith(KEPT) or _is_cold(fd, path):
            return
        if time.monotonic() > give_up_at:
            raise ContestFailure(f"{path} stays in the page cache: is it on a disk? Choose another --dir")
        time.sleep(0.01)


def _is_cold(fd: int, path: Path) -> bool:
    size_bytes = os.fstat(fd).st_size
    if size_bytes < 64 * PAGE_BYTES:
        return True  # a pid file, a database's shared memory: nobody's blobs
    # A look starts to read what it does not find, and more ahead: of a page that another look may ask for later.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    step_bytes = size_bytes // LOOKS // PAGE_BYTES * PAGE_BYTES
    return sum(_is_cached(fd, path, look * step_bytes) for look in range(LOOKS)) <= FOUND_MAX


def _is_cached(fd: int, path: Path, offset: int) -> bool:
    try:
        return os.preadv(fd, [bytearray(PAGE_BYTES)], offset, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    except OSError as error:
        raise ContestFailure(f"{path} is on no disk ({error}): choose another --dir") from None
