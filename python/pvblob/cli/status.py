"""`pvblob status`: what the host is doing, as tables for people, as JSON for programs, as the driver's debugfs text."""

from __future__ import annotations

import json
import socket as sockets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvblob.cli import options, output
from pvblob.errors import HostUnavailable
from pvblob.settings import default_socket_path

if TYPE_CHECKING:
    from rich.table import Table

HELP = """Show what the host is doing: guests, channels, requests in flight, counters, the offload table.

Only the host's own user and root may ask. --json prints everything as one object; --pending prints the requests in
flight in the text form of the Linux driver's debugfs file `pending_requests`.

Examples:

  pvblob status

  pvblob status --socket /run/pvblob/bus.sock --json | jq '.guests[] | {pid, entry, lent_bytes}'

  pvblob status --pending
"""
TIMEOUT_S = 10.0
TEXTS = frozenset(("entry", "mode", "cgroup", "UUID", "name", "state"))


def run(
    socket: options.Socket = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    pending: Annotated[bool, typer.Option("--pending", help="Print the requests in flight as debugfs would.")] = False,
) -> None:
    """Ask the host and print its answer."""
    from pvblob.vsp.status import pending_text

    state = ask(Path(socket) if socket else default_socket_path())
    if as_json:
        output.json_line(state)
    elif pending:
        output.text_line(pending_text(state).removesuffix("\n"))
    else:
        _print(state)


def ask(control_socket: Path) -> dict[str, Any]:
    """Return the state of the host that has this control socket. Raises HostUnavailable."""
    from pvblob.vsp.status_socket import status_path

    path = status_path(control_socket)
    try:
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(path))
            with connection.makefile("rb") as answer:
                state: dict[str, Any] = json.loads(answer.read())
    except PermissionError:
        raise HostUnavailable(f"{path}: only the host's own user and root may ask for its status") from None
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise HostUnavailable(f"no host listens on {control_socket}: start one with `pvblob serve`") from None
    except (OSError, ValueError) as error:
        raise HostUnavailable(f"the host on {control_socket} does not say how it is: {error}") from None
    return state


def _print(state: dict[str, Any]) -> None:
    from rich.columns import Columns

    about = (
        f"host pid {state['pid']}, up {state['uptime_s']:.0f} s, device {state['device']}\n"
        f"sockets {', '.join(state['sockets'])}; http {state.get('http') or 'off'}; "
        f"metrics {state.get('metrics') or 'off'}\n"
        f"store {state.get('store', '-')} (durability: {state.get('durability', '-')}); policy: {state['policy']}"
    )
    tables = [_guests(state)]
    if any(guest["channels"] for guest in state["guests"]):
        tables.append(_channels(state))
    if state["requests"]:
        tables.append(_requests(state))
    if state.get("upstream"):
        tables.append(_upstream(state["upstream"]))
    counters = [("Counters", state["counters"]), ("HTTP front", state.get("front")), ("Offload", state["offload"])]
    beside = Columns([_counters(title, values) for title, values in counters if values], padding=(0, 4))
    output.show(about, *tables, beside)


def _table(title: str, *columns: str) -> Table:
    return output.table(title, dict(zip(columns, columns, strict=True)), TEXTS)


def _guests(state: dict[str, Any]) -> Table:
    columns = ("pid", "uid", "entry", "mode", "cgroup", "lent", "hits", "channels")
    table = _table(f"Guests: {len(state['guests'])}", *columns)
    for guest in state["guests"]:
        who = [guest["pid"], guest["uid"], guest["entry"], guest["mode"], guest["cgroup"] or "-"]
        lent, hits = output.size_text(guest["lent_bytes"]), f"{guest['offload_hits']:,}"
        table.add_row(*(_cell(value) for value in (*who, lent, hits, len(guest["channels"]))))
    return table


def _channels(state: dict[str, Any]) -> Table:
    """A row for each channel, named as `pvblob rescind` takes it; ring: bytes that lie in it, of how many."""
    rows = [(guest["pid"], channel) for guest in state["guests"] for channel in guest["channels"]]
    columns = ("channel", "in flight", "queued", "ring in", "ring out", "kept", "uploads")
    table = _table(f"Channels: {len(rows)}", *columns)
    for pid, channel in rows:
        activity = [channel[name] for name in ("in_flight", "queued")]
        rings = [_ring(channel[ring]) for ring in ("from_guest", "to_guest")]
        rest = [channel[name] for name in ("kept_answers", "uploads")]
        table.add_row(*(_cell(value) for value in (f"{pid}/{channel['relid']}", *activity, *rings, *rest)))
    return table


def _ring(ring: dict[str, int] | None) -> str:
    return "-" if ring is None else f"{ring['used']}/{ring['size']}"


def _requests(state: dict[str, Any]) -> Table:
    """Where the buffers lie is for debuggers: --pending and --json have it."""
    first = ("pid", "age_s", "state")
    rest = (name for name in state["requests"][0] if name not in first and not name.endswith("_buffer"))
    columns = (*first, *rest)
    table = _table(f"Requests in flight: {state['requests_in_flight']}", *columns)
    for request in state["requests"]:
        table.add_row(*(_cell(request[column]) for column in columns))
    return table


def _upstream(accounts: list[dict[str, Any]]) -> Table:
    """A column for each account: there are few, and their counters many."""
    table = _table("Accounts elsewhere", "name", *(account["account"] for account in accounts))
    for name in accounts[0]:
        if name != "account":
            values = (account.get(name, "-") for account in accounts)
            table.add_row(name, *(f"{value:,}" if isinstance(value, int) else _cell(value) for value in values))
    return table


def _counters(title: str, counters: dict[str, int]) -> Table:
    table = _table(title, "name", "value")
    for name, value in counters.items():
        table.add_row(name, f"{value:,}")
    return table


def _cell(value: object) -> str:
    from rich.markup import escape

    return escape(str(value))
