"""The socket at which a host says how it is: whoever connects gets one JSON object and the end.

It lies in the device's own directory, `NAME.d/status.sock` beside the control socket `NAME.sock`, so that several hosts
on one machine never meet. The directory is the host's alone (0700), and the peer must be the host's user or root. A
client that does not read costs a connection for a few seconds and nothing else; there are few of them at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pvblob.errors import SettingsError
from pvblob.vmbus import socket_path

log = logging.getLogger("pvblob.vsp")

CONNECTIONS_MAX = 8
READING_TIMEOUT_S = 5.0
_CREDENTIALS = struct.Struct("3i")


def device_directory(control_socket: Path) -> Path:
    """Return the directory of the device whose control socket this is."""
    return control_socket.absolute().with_suffix(".d")


def status_path(control_socket: Path) -> Path:
    """Return where the host with this control socket tells its state."""
    return device_directory(control_socket) / "status.sock"


class StatusSocket:
    """Serves what *snapshot* returns. The caller holds the control socket, so whatever lies here is a dead host's."""

    def __init__(self, path: Path, snapshot: Callable[[], dict[str, Any]]) -> None:
        self._path = path
        self._snapshot = snapshot
        self._server: asyncio.Server | None = None
        self._serving = 0

    async def start(self) -> None:
        """Listen. Raises SettingsError when the path cannot be used."""
        socket_path.check_length(self._path)
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            self._path.parent.chmod(0o700)
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._answer, self._path)
            self._path.chmod(0o600)
        except OSError as error:
            raise SettingsError(f"status socket {self._path}: {error.strerror or error}") from error

    async def stop(self) -> None:
        """Stop listening and remove the socket and its directory. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            self._path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._path.parent.rmdir()

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving += 1
        try:
            if self._serving <= CONNECTIONS_MAX and _is_ours(writer):
                writer.write(json.dumps(self._snapshot()).encode() + b"\n")
                async with asyncio.timeout(READING_TIMEOUT_S):
                    await writer.drain()
        except (OSError, TimeoutError):
            writer.transport.abort()
        except Exception:
            log.exception("the status could not be told")
        finally:
            self._serving -= 1
            writer.close()


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(peer)
    return uid in (os.geteuid(), 0)
