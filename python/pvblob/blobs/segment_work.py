"""Work on segments in a thread: reading runs to their end, and waiting for who writes to a run we own."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from pvblob.http import FileContent

T = TypeVar("T")


async def to_the_end(work: Callable[[], T], stop: threading.Event | None = None) -> T:
    """Run *work* in a thread, wait until it has ended, cancelled or not, and return its value: its runs then go back.

    stop: set when the caller was cancelled, for work that looks at it between its steps.
    """
    future = asyncio.get_running_loop().run_in_executor(None, work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            cancelled = error
            if stop is not None:
                stop.set()
        except Exception:  # the work's own: raised by result() below
            break
    if cancelled is not None:
        future.exception()  # looked at, so that asyncio does not report it as lost
        raise cancelled
    return future.result()


def read_run(fd: int, length: int, offset: int) -> bytes:
    """Read *length* bytes at *offset* of a segment. OSError: the file ends early."""
    taken = os.pread(fd, length, offset)
    while len(taken) < length:
        more = os.pread(fd, length - len(taken), offset + len(taken))
        if not more:
            raise OSError(errno.EIO, "a segment file ends early")
        taken += more
    return taken


def read_content(content: FileContent) -> bytes:
    """Read all of *content*, which stays the caller's to release. OSError as for `read_run`."""
    return b"".join([read_run(extent.fd, extent.length, extent.offset) for extent in content.extents])
