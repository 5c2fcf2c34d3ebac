"""Closing what a guest chose: descriptors it sent, and the socket in whose queue more of them may lie.

The last close of an open file takes as long as whoever made it likes: a TCP socket with SO_LINGER waits for its peer, a
file of a user's own file system for that user's program. On the host's loop it would stop every guest (design rule 1).
So the loop closes only memory, which cannot wait; the rest is closed by threads nobody waits for. They are bounded:
when all of them are stuck, what is left to close stays open, and `waiting` says how much that is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from pvblob.vmbus.bus import Bus

THREADS_MAX = 16


class Disposal:
    """The threads and what they have still to close. Any thread may call."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._queue: deque[Callable[[], None]] = deque()
        self._threads = 0

    @property
    def waiting(self) -> int:
        """How many closes have not ended."""
        with self._condition:
            return len(self._queue) + self._threads

    def descriptors(self, descriptors: Iterable[int]) -> None:
        """Close descriptors that came from a guest."""
        for descriptor in descriptors:
            if _is_memory(descriptor):
                os.close(descriptor)
            else:
                self._later(lambda descriptor=descriptor: os.close(descriptor))  # type: ignore[misc]

    def bus(self, bus: Bus) -> None:
        """End a guest's connection now, and close our end of it, whatever lies unread in it."""
        bus.shut_down()
        self._later(bus.close)

    def finish(self, timeout_s: float) -> None:
        """Wait until everything is closed, but not longer than *timeout_s*."""
        deadline = time.monotonic() + timeout_s
        with self._condition:
            while self._threads and (left := deadline - time.monotonic()) > 0:
                self._condition.wait(left)

    def _later(self, close: Callable[[], None]) -> None:
        with self._condition:
            self._queue.append(close)
            if self._threads >= THREADS_MAX:
                return
            self._threads += 1
        # A daemon: a close that is stuck must not keep the host from exiting, where the kernel waits for nobody.
        threading.Thread(target=self._run, name="pvblob-close", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._queue:
                    self._threads -= 1
                    self._condition.notify_all()
                    return
                close = self._queue.popleft()
            with contextlib.suppress(OSError):
                close()
            del close


def _is_memory(descriptor: int) -> bool:
    """Whether this is shared memory of the kernel's own: only that has seals to ask for."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True
