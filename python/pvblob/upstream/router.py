"""Which backend serves an account: several upstream ones, and the embedded service for every other."""

from __future__ import annotations

from collections.abc import Mapping

from pvblob.http import Backend, Body, Request, Response
from pvblob.upstream.endpoint import account_of


class AccountRouter:
    """A backend made of backends: *accounts* by name, and *others* for every name that is not among them."""

    def __init__(self, accounts: Mapping[str, Backend], others: Backend) -> None:
        self._accounts = dict(accounts)
        self._others = others

    async def execute(self, request: Request, body: Body) -> Response:
        """Execute *request* where its account lives."""
        account = account_of(request.authority, request.target)
        return await self._accounts.get(account, self._others).execute(request, body)
