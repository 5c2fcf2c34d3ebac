"""What goes on in the host, as plain values: the snapshot behind `pvblob status` and its text form of pending requests.

`snapshot(host)` reads counters and tables on the host's loop, in bounded time and size, and changes nothing. The
columns of a request are those of the driver's debugfs file (spec/azure-blob-device.md §5); its buffers are given as
guest addresses, the numbers that the guest itself uses for them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pvblob.vsp.dispatch import InFlight

if TYPE_CHECKING:
    from pvblob.vsp.guest import GuestConnection
    from pvblob.vsp.host import Host

FORMAT = 1
REQUESTS_SHOWN_MAX = 1000
PENDING_COLUMNS = (
    "UUID",
    "request_len",
    "response_len",
    "data_len",
    "data_valid",
    "request_buffer",
    "response_buffer",
    "data_buffer",
)


def snapshot(host: Host, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of *host* as a JSON object; *about* says what only its caller knows (store, front, …)."""
    requests = list(host.dispatcher.in_flight())
    queued, shown = host.engine.waiting(max(0, REQUESTS_SHOWN_MAX - len(requests)))
    requests += (InFlight(request, request.age_s, "queued") for request in shown)
    hidden = queued - len(shown)
    reading, shown = host.engine.reading(max(0, REQUESTS_SHOWN_MAX - len(requests)))
    requests += (InFlight(request, request.age_s, "reading") for request in shown)
    hidden += reading - len(shown)
    pids = {channel: guest.pid for guest in host.connections for channel in guest.channels.values()}
    return {
        "format": FORMAT,
        "pid": os.getpid(),
        "device": str(host.instance_id),
        "uptime_s": round(time.monotonic() - host.started_s, 3),
        **about,
        "sockets": [str(path) for path in host.sockets],
        "policy": host.guard.policy.source,
        "guests": [_guest(host, guest) for guest in host.connections],
        "requests_in_flight": len(requests) + hidden,
        "requests": [_request(one, pids.get(one.request.channel)) for one in requests[:REQUESTS_SHOWN_MAX]],
        "counters": counters(host),
        "offload": host.engine.offload_counters(),
    }


def counters(host: Host) -> dict[str, int]:
    """Return what has happened since the host began, and what it holds at this moment, by name."""
    spent = host.dispatcher.spent
    in_vain, muted = host.engine.doorbells()
    return {
        **asdict(host.dispatcher.counters),
        "doorbells_in_vain": in_vain,
        "doorbells_muted": muted,
        "guests_refused": host.refused,
        "denied": host.guard.audit.denied,
        "log_lines_left_out": host.peer_log.suppressed + host.guard.audit.suppressed,
        "lent_bytes": sum(guest.lent_bytes for guest in host.connections),
        "kept_answers": spent.kept.count,
        "kept_bytes": spent.kept.size_bytes,
        "uploads": spent.uploads.count,
        "spooled_bytes": spent.uploads.size_bytes,
    }


def _guest(host: Host, guest: GuestConnection) -> dict[str, Any]:
    who, entry = guest.backend.guest, guest.backend.entry
    hits, hit_bytes = guest.count_hits()
    return {
        "pid": who.pid,
        "uid": who.uid,
        "groups": sorted(who.groups),
        "cgroup": who.cgroup,
        "socket": who.socket,
        "identity": guest.identity,
        "entry": entry.name if entry else None,
        "mode": entry.mode if entry else None,
        "lent_bytes": guest.lent_bytes,
        "offload_hits": hits,
        "offload_bytes": hit_bytes,
        "lent_bytes_max": guest.limits.lent_bytes_max,
        "requests_in_flight_max": guest.limits.requests_in_flight_max,
        "channels": [_channel(host, relid, key) for relid, key in guest.channels.items()],
    }


def _channel(host: Host, relid: int, key: int) -> dict[str, Any]:
    activity: dict[str, Any] = dict(host.dispatcher.activity(key))
    rings = host.engine.ring_usage(key)
    if rings is not None:
        names = ("size", "used")
        activity["from_guest"] = dict(zip(names, rings[:2], strict=True))
        activity["to_guest"] = dict(zip(names, rings[2:], strict=True))
    return {"relid": relid, "key": key, **activity}


def _request(one: InFlight, pid: int | None) -> dict[str, Any]:
    request = one.request
    request_gpa, response_gpa, data_gpa = request.addresses
    values = (
        uuid_text(request.guid),
        request.request_length,
        request.response_capacity,
        request.data_length,
        request.data_valid,
        f"{request_gpa:x}",
        f"{response_gpa:x}",
        f"{data_gpa:x}",
    )
    about = {"state": one.state, "pid": pid, "age_s": round(one.age_s, 3)}
    return {**dict(zip(PENDING_COLUMNS, values, strict=True)), **about}


def uuid_text(guid: bytes) -> str:
    """Return the 16 bytes in stored order, as the driver prints them: not the text form of a GUID."""
    text = guid.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def pending_text(state: Mapping[str, Any]) -> str:
    """Return a snapshot's requests as the driver's debugfs file `pending_requests` shows them, and where each is.

    The driver's columns come first and as they are; the last one, `state`, is ours.
    """
    columns = (*PENDING_COLUMNS, "state")
    lines = ["List of pending requests", " ".join(columns)]
    lines += [" ".join(str(request[column]) for column in columns) for request in state["requests"]]
    return "\n".join(lines) + "\n"
