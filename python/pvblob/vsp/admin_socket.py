"""The socket at which a running host is told to do something: one JSON line in, JSON lines out, then the end.

A request is `{"command": NAME, ...}`; each line of the answer is an event of the command, and the last one is
`{"done": true}` or `{"error": TEXT}`. Whoever hangs up ends the command.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from pvblob.errors import PvblobError
from pvblob.vsp.private_socket import PrivateSocket, device_directory

REQUEST_BYTES_MAX = 64 << 10
TIMEOUT_S = 5.0

Command = Callable[[Mapping[str, Any]], AsyncGenerator[dict[str, Any], None]]


def admin_path(control_socket: Path) -> Path:
    """Return where the host with this control socket takes commands."""
    return device_directory(control_socket) / "admin.sock"


class AdminSocket(PrivateSocket):
    """Runs *commands*, by name. What they raise as PvblobError is the command's answer."""

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        super().__init__(path, self._run, what="admin")
        self._commands = commands

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            request = _parsed(await reader.readline())
        running = asyncio.ensure_future(self._tell(request, writer))
        hung_up = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({running, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (running, hung_up):
                if not task.done():
                    task.cancel()
            await asyncio.wait({running, hung_up})
        if not running.cancelled():
            running.result()

    async def _tell(self, request: Mapping[str, Any] | None, writer: asyncio.StreamWriter) -> None:
        command = None if request is None else self._commands.get(str(request.get("command")))
        last: dict[str, Any] = {"done": True}
        if request is None or command is None:
            last = {"error": "this host does not know that command: is it of another version?"}
        else:
            try:
                async with aclosing(command(request)) as events:
                    async for event in events:
                        await _write(writer, event)
            except PvblobError as error:
                last = {"error": str(error)}
        await _write(writer, last)


async def _write(writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
    writer.write(json.dumps(event).encode() + b"\n")
    async with asyncio.timeout(TIMEOUT_S):
        await writer.drain()


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        request = json.loads(line) if len(line) <= REQUEST_BYTES_MAX else None
    except ValueError:
        return None
    return request if isinstance(request, dict) else None
