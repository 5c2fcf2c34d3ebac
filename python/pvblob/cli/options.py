"""The options that several commands share, and the client they ask for."""

from __future__ import annotations

from typing import Annotated

import typer

from pvblob import Client
from pvblob.cli.locator import Locator
from pvblob.client.operations import DEVELOPMENT_ACCOUNT
from pvblob.errors import SettingsError

Socket = Annotated[
    str | None,
    typer.Option("--socket", metavar="PATH", help="The host's socket; default: $PVBLOB_SOCKET, then the usual place."),
]
Account = Annotated[str, typer.Option("--account", envvar="PVBLOB_ACCOUNT", help="The storage account.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Take everything below.")]
TimeoutS = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="Deadline of each request.")]

ACCOUNT = DEVELOPMENT_ACCOUNT
TIMEOUT_S = 60.0


def connect(socket: str | None, account: str, timeout_s: float, *places: Locator) -> Client:
    """Connect for *places*, whose URLs may name the account. Raises HostUnavailable; SettingsError for two accounts."""
    named = {place.account for place in places if place.account}
    if len(named) > 1:
        raise SettingsError(f"one command works in one account, not in {', '.join(sorted(named))}")
    return Client.connect(socket, account=named.pop() if named else account, timeout_s=timeout_s)
