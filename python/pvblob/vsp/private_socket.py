"""A socket in the device's own directory that only the host's user and root may use.

It lies in `NAME.d/` beside the control socket `NAME.sock`, so that several hosts on one machine never meet. The
directory is the host's alone (0700), and the peer must be the host's user or root. There are few connections at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from pvblob.errors import SettingsError
from pvblob.vmbus import socket_path

log = logging.getLogger("pvblob.vsp")

CONNECTIONS_MAX = 8
_CREDENTIALS = struct.Struct("3i")

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def device_directory(control_socket: Path) -> Path:
    """Return the directory of the device whose control socket this is."""
    return control_socket.absolute().with_suffix(".d")


class PrivateSocket:
    """Has *answer* serve each connection. The caller holds the control socket: whatever lies here is a dead host's."""

    def __init__(self, path: Path, answer: Answer, *, what: str) -> None:
        self._path = path
        self._answer = answer
        self._what = what
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises SettingsError when the path cannot be used."""
        socket_path.check_length(self._path)
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            self._path.parent.chmod(0o700)
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._accept, self._path)
            self._path.chmod(0o600)
        except OSError as error:
            raise SettingsError(f"{self._what} socket {self._path}: {error.strerror or error}") from error

    async def stop(self) -> None:
        """Stop listening, end what is served, remove the socket and its directory. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        self._path.unlink(missing_ok=True)
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)
        with contextlib.suppress(OSError):
            self._path.parent.rmdir()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if len(self._serving) <= CONNECTIONS_MAX and _is_ours(writer):
                await self._answer(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            writer.transport.abort()
        except Exception:
            log.exception("the %s socket could not answer", self._what)
        finally:
            writer.close()


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(peer)
    return uid in (os.geteuid(), 0)
