"""Puts files out of the page cache, so that the next read comes from the disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pvblob.cli.fleet.corpus import PAGE_BYTES
from pvblob.cli.fleet.failure import ContestFailure

# Mapped by who checks bytes, or in use by the catalog: they may stay, for no blob is read from them.
KEPT = ("checksums", "catalog.sqlite")


def drop_page_cache(directory: Path) -> None:
    """Drop every file below *directory* from the page cache. Raises ContestFailure where that cannot be done."""
    for path in sorted(directory.rglob("*")):
        if stat.S_ISREG(path.lstat().st_mode):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)  # only clean pages can be dropped
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                if not path.name.startswith(KEPT):
                    _prove_cold(fd, path)
            finally:
                os.close(fd)


def _prove_cold(fd: int, path: Path) -> None:
    size_bytes = os.fstat(fd).st_size
    if size_bytes < 64 * PAGE_BYTES:
        return  # a pid file, a database's shared memory: nobody's blobs
    # A look starts to read what it does not find, and more ahead: of a page that another look may ask for later.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    middle = size_bytes // 2 // PAGE_BYTES * PAGE_BYTES
    try:
        found = os.preadv(fd, [bytearray(PAGE_BYTES)], middle, os.RWF_NOWAIT)
    except BlockingIOError:
        return
    except OSError as error:
        raise ContestFailure(f"{path} is on no disk ({error}): choose another --dir") from None
    if found:
        raise ContestFailure(f"{path} stays in the page cache: is it on a disk? Choose another --dir")
