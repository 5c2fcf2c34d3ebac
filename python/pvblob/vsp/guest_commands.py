"""What a person may have a running host do to its guests: the command behind `pvblob rescind`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from pvblob.errors import PvblobError
from pvblob.vsp.guest import GuestConnection
from pvblob.vsp.host import Host


class GuestCommands:
    """Commands on the guests of *host*."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def rescind(self, request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Withdraw the device: `all`, or `pid` for every connection of a process, with `channel` (its relid) for one.

        One event for each connection: pid, uid, channels (relids withdrawn). Raises PvblobError when there is none.
        """
        channel = request.get("channel")
        guests = self._named(None if request.get("all") else request.get("pid"), channel)
        for guest in guests:
            channels = list(guest.channels) if channel is None else [int(channel)]
            if channel is None:
                guest.rescind()
            else:
                guest.rescind_channel(int(channel))
            yield {"pid": guest.pid, "uid": guest.backend.guest.uid, "channels": channels}

    def _named(self, pid: Any, channel: Any) -> list[GuestConnection]:
        guests = [guest for guest in self._host.connections if pid is None or guest.pid == pid]
        if pid is not None and not guests:
            raise PvblobError(f"no guest has pid {pid}: `pvblob status` lists those that are connected")
        if channel is None:
            return guests
        holders = [guest for guest in guests if channel in guest.channels]
        if not holders:
            open_ones = sorted({relid for guest in guests for relid in guest.channels})
            raise PvblobError(
                f"the guest with pid {pid} has no channel {channel}; open: {', '.join(map(str, open_ones)) or 'none'}"
            )
        return holders
