"""Values between the processes of the harness: one JSON value in one packet of a SOCK_SEQPACKET socket."""

from __future__ import annotations

import json
import socket
from typing import Any

PACKET_BYTES_MAX = 128 << 10


def send(to: socket.socket, value: object) -> None:
    """Send one value. Raises ValueError if it is too large for a packet, OSError when the other side is gone."""
    packet = json.dumps(value).encode("utf-8")
    if len(packet) > PACKET_BYTES_MAX:
        raise ValueError(f"{len(packet)} bytes do not fit in a packet of {PACKET_BYTES_MAX}")
    to.send(packet)


def receive(source: socket.socket) -> Any:
    """Return the next value, None when the other side has gone."""
    try:
        packet = source.recv(PACKET_BYTES_MAX)
    except ConnectionError:
        return None
    return json.loads(packet) if packet else None
