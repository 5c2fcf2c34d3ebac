"""`pvblob rescind`: withdraw the device from a guest, for an operator who wants it to begin anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pvblob.cli import options, output
from pvblob.errors import SettingsError
from pvblob.settings import default_socket_path

HELP = """Withdraw the device from guests: their channels are closed and their memory is unmapped at once.

A GUEST is a pid as `pvblob status` shows it, or PID/CHANNEL for one of its channels. A guest whom policy still names
connects again at its next call, and its program sees a pause: reads are repeated, writes are executed once. To keep a
guest out, change the policy (docs/operations.md) and send the host SIGHUP. Only the host's own user and root may ask.

Examples:

  pvblob rescind 4711

  pvblob rescind 4711/3 --socket /run/pvblob/bus.sock

  pvblob rescind --all --json
"""

Guests = Annotated[list[str] | None, typer.Argument(metavar="GUEST...", help="PID or PID/CHANNEL.")]


def run(
    guests: Guests = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every guest.")] = False,
    socket: options.Socket = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per connection.")] = False,
) -> None:
    """Have the host do it and print what was withdrawn."""
    from pvblob.cli.admin import command

    if bool(guests) == everyone:
        raise SettingsError("name the guests (pvblob rescind PID), or --all: one of the two")
    requests = [{"all": True}] if everyone else [_request(guest) for guest in guests or ()]
    control_socket = Path(socket) if socket else default_socket_path()
    withdrawn = 0
    for request in requests:
        for event in command(control_socket, {"command": "rescind", **request}):
            withdrawn += 1
            if as_json:
                output.json_line(event)
            else:
                channels = ", ".join(map(str, event["channels"])) or "none"
                output.text_line(f"withdrawn from pid {event['pid']} (uid {event['uid']}); channels: {channels}")
    if not withdrawn and not as_json:
        output.text_line("no guest is connected")


def _request(guest: str) -> dict[str, Any]:
    pid, slash, channel = guest.partition("/")
    numbers = [pid, channel] if slash else [pid]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise SettingsError(f"{guest!r} is no guest: write PID, or PID/CHANNEL, as `pvblob status` shows them")
    return {"pid": int(pid), "channel": int(channel)} if slash else {"pid": int(pid)}
