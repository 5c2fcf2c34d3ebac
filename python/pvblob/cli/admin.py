"""Has a running host do something, and gives the events of its answer as they come."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pvblob.errors import HostUnavailable, PvblobError

CONNECT_TIMEOUT_S = 10.0


def command(control_socket: Path, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of *request* (see `vsp.admin_socket`); whoever stops early ends it.

    Raises HostUnavailable, and PvblobError with the host's reason when it refuses.
    """
    from pvblob.vsp.admin_socket import admin_path

    path = admin_path(control_socket)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(CONNECT_TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            connection.settimeout(None)  # a block from far away takes as long as it takes
            with connection.makefile("rb") as lines:
                yield from _events(lines, control_socket)
    except PermissionError:
        raise HostUnavailable(f"{path}: only the host's own user and root may tell it what to do") from None
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise HostUnavailable(f"no host listens on {control_socket}: start one with `pvblob serve`") from None


def _events(lines: Iterator[bytes], control_socket: Path) -> Iterator[dict[str, Any]]:
    for line in lines:
        event: dict[str, Any] = json.loads(line)
        if "error" in event:
            raise PvblobError(event["error"])
        if event.get("done"):
            return
        yield event
    raise HostUnavailable(f"the host on {control_socket} ended before it was done")
