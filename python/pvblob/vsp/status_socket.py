"""The socket at which a host says how it is: whoever connects gets one JSON object and the end.

A client that does not read costs a connection for a few seconds and nothing else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pvblob.vsp.private_socket import PrivateSocket, device_directory

READING_TIMEOUT_S = 5.0


def status_path(control_socket: Path) -> Path:
    """Return where the host with this control socket tells its state."""
    return device_directory(control_socket) / "status.sock"


class StatusSocket(PrivateSocket):
    """Serves what *snapshot* returns."""

    def __init__(self, path: Path, snapshot: Callable[[], dict[str, Any]]) -> None:
        super().__init__(path, self._tell, what="status")
        self._snapshot = snapshot

    async def _tell(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(self._snapshot()).encode() + b"\n")
        async with asyncio.timeout(READING_TIMEOUT_S):
            await writer.drain()
