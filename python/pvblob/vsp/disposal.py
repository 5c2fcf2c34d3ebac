"""Closing what a guest chose: descriptors it sent, and the socket in whose queue more of them may lie.

The last close of an open file takes as long as whoever made it likes: a TCP socket with SO_LINGER waits for its peer, a
file of a user's own file system for that user's program. On the host's loop it would stop every guest (design rule 1).
So the loop closes only memory, which cannot wait; the rest is closed by threads nobody waits for. They are bounded:
when all of them are stuck, what is left to close stays open, and `waiting` says how much that is. Memory is unmapped by
a disposal of its own, whose one thread nobody can stop.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable

from pvblob.vmbus.bus import Bus

THREADS_MAX = 16
IDLE_S = 1.0  # for so long a thread that has nothing to do waits for more: starting one takes as long as a close


class Disposal:
    """At most *threads_max* threads and what they have still to close. Any thread may call."""

    def __init__(self, threads_max: int = THREADS_MAX) -> None:
        self._threads_max = threads_max
        lock = threading.Lock()
        self._came, self._done = threading.Condition(lock), threading.Condition(lock)
        self._queue: deque[Callable[[], None]] = deque()
        self._threads = self._idle = 0
        self._finishing = False

    @property
    def waiting(self) -> int:
        """How many closes have not ended."""
        with self._done:
            return self._under_way()

    def _under_way(self) -> int:
        return len(self._queue) + self._threads - self._idle

    def descriptors(self, descriptors: Iterable[int]) -> None:
        """Close descriptors that came from a guest."""
        for descriptor in descriptors:
            if _is_memory(descriptor):
                os.close(descriptor)
            else:
                self.later(lambda descriptor=descriptor: os.close(descriptor))  # type: ignore[misc]

    def bus(self, bus: Bus) -> None:
        """End a guest's connection now, and close our end of it, whatever lies unread in it."""
        bus.shut_down()
        self.later(bus.close)

    def finish(self, timeout_s: float) -> None:
        """Wait until everything is closed, but not longer than *timeout_s*; threads end when they are idle then."""
        with self._done:
            self._finishing = True
            self._came.notify_all()
            self._done.wait_for(lambda: not self._under_way(), timeout_s)

    def later(self, close: Callable[[], None]) -> None:
        """Call *close* in a thread that may wait for it; what it raises as OSError is nobody's concern."""
        with self._came:
            self._queue.append(close)
            if self._idle >= len(self._queue):
                self._came.notify()
                return
            if self._threads >= self._threads_max:
                return
            self._threads += 1
        # A daemon: a close that is stuck must not keep the host from exiting, where the kernel waits for nobody.
        threading.Thread(target=self._run, name="pvblob-close", daemon=True).start()

    def _run(self) -> None:
        while (close := self._next()) is not None:
            with contextlib.suppress(OSError):
                close()
            del close

    def _next(self) -> Callable[[], None] | None:
        """Return what is to be closed next, waiting a while for it; None: this thread is not needed any more."""
        with self._came:
            if not self._queue:
                self._idle += 1
                self._done.notify_all()
                self._came.wait_for(lambda: self._queue or self._finishing, IDLE_S)
                self._idle -= 1
            if self._queue:
                return self._queue.popleft()
            self._threads -= 1
            return None


def _is_memory(descriptor: int) -> bool:
    """Whether this is shared memory of the kernel's own: only that has seals to ask for."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True
