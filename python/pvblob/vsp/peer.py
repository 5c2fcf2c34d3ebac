"""Who is at the other end of a bus: what the kernel says of the process that connected, as policy wants to know it.

Everything but the cgroup was recorded by the kernel when the connection was made. The cgroup is read from /proc by
pid and counts only if the same process was still alive afterwards, so that a pid that was given to another cannot lend
its cgroup. A process that hands its connected socket to another speaks for it: as with every Unix socket.
"""

from __future__ import annotations

import os
import select
from pathlib import Path

from pvblob.vmbus.bus import Bus, BusClosed
from pvblob.vsp.policy import Guest


def guest_of(bus: Bus, socket: Path) -> Guest:
    """Return who is connected to *bus*, which came by the host's socket *socket*."""
    peer = bus.peer
    groups = frozenset((peer.gid, *bus.peer_groups()))
    return Guest(peer.pid, peer.uid, groups, _cgroup(bus), str(socket))


def _cgroup(bus: Bus) -> str | None:
    """Return the path of the peer's cgroup in the v2 tree, None where it cannot be known for certain."""
    try:
        pidfd = bus.open_peer_pidfd()
    except BusClosed:
        return None
    if pidfd is None:
        return None
    try:
        path = cgroup_of(bus.peer.pid)
        alive = select.poll()
        alive.register(pidfd, select.POLLIN)
        return None if alive.poll(0) else path
    finally:
        os.close(pidfd)


def cgroup_of(pid: int) -> str | None:
    """Return the path of a process's cgroup in the v2 tree, None when there is no such process or no such tree."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
