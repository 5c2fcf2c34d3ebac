"""One event loop's eyes on one link: the doorbell and the control socket, watched once for all ports of the loop.

A loop has one place for the reader of a descriptor, and several ports of it may watch at a time (each batch of reads
has a port of its own): the first to watch registers the readers, the last to stop takes them away. Belongs to the
loop's thread.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pvblob.vsc.link import Link


class WatchingPort(Protocol):
    """Who watches."""

    def rung(self) -> None:
        """The doorbell rang; it has been cleared."""
        ...

    def controlled(self) -> None:
        """Control messages were handled."""
        ...


class LoopWatch:
    """See the module; made by `watch_of`."""

    def __init__(self, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        self._link = link
        self._loop = loop
        self._ports: dict[WatchingPort, None] = {}

    def add(self, port: WatchingPort) -> None:
        """Watch for *port* from now on. Does nothing when it watches already."""
        if not self._ports:
            self._loop.add_reader(self._link.channel.fileno(), self._rung)
            self._loop.add_reader(self._link.channel.control_fileno(), self._control)
        self._ports[port] = None

    def remove(self, port: WatchingPort) -> None:
        """Stop watching for *port*. Does nothing when it does not watch."""
        if self._ports.pop(port, self) is not self and not self._ports:
            self._loop.remove_reader(self._link.channel.fileno())
            self._loop.remove_reader(self._link.channel.control_fileno())

    def _rung(self) -> None:
        self._link.channel.clear_doorbell()
        for port in list(self._ports):
            port.rung()

    def _control(self) -> None:
        self._link.pump()
        for port in list(self._ports):
            port.controlled()


def watch_of(link: Link, loop: asyncio.AbstractEventLoop) -> LoopWatch:
    """Return the watch of *loop* on *link*, the same for all who ask."""
    watch = link.watches.get(loop)
    if watch is None:
        watch = link.watches[loop] = LoopWatch(link, loop)
    return watch
