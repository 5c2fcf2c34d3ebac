"""What the front allows and what it counts: plain numbers, read by the metrics and set by the settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FrontLimits:
    """Bounds on what one client, and all of them, may hold.

    connections_max: open at once.  target_bytes_max, field_bytes_max, fields_max: of one request head.
    idle_timeout_s: between requests.  stall_timeout_s: without progress within one.
    unread_bytes_max: of a body nobody wanted, read and dropped to keep the connection.
    mapped_files_max: store files kept mapped; a mapping takes address space, and its page tables 1/512 of what is read.
    """

    connections_max: int = 1024
    # A 1,024-character name can take 12 KiB percent-encoded; a SAS and other parameters come on top.
    target_bytes_max: int = 32 * 1024
    field_bytes_max: int = 16 * 1024
    fields_max: int = 256
    idle_timeout_s: float = 300.0
    stall_timeout_s: float = 60.0
    unread_bytes_max: int = 1024 * 1024
    mapped_files_max: int = 64


@dataclass(slots=True)
class FrontCounters:
    """What happened so far.

    received: request heads read.  refused: answered by the front itself (unreadable, unauthenticated, no length).
    disconnected: clients that went away or stalled before their answer was complete.
    failed: faults of the backend, answered with 500.  turned_away: connections above `connections_max`.
    """

    received: int = 0
    refused: int = 0
    disconnected: int = 0
    failed: int = 0
    turned_away: int = 0
