"""Tokens of Microsoft Entra ID: one for all guests, refreshed early, by one request at a time.

A token that cannot be refreshed stays in use until it expires; meanwhile refreshing is tried again now and then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from pvblob.errors import SettingsError
from pvblob.http import Request

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

log = logging.getLogger("pvblob.upstream")

SCOPE = "https://storage.azure.com/.default"
REFRESH_BEFORE_S_MAX = 600.0
TRY_AGAIN_AFTER_S = 30.0


def credential_of(identity: str, client_id: str | None) -> AsyncTokenCredential:
    """Return azure-identity's credential for *identity*. Raises SettingsError when azure-identity is not installed."""
    try:
        from azure.identity import aio
    except ImportError:
        raise SettingsError("authorization = 'identity' needs azure-identity: pip install 'pvblob[identity]'") from None
    given: dict[str, Any] = {"client_id": client_id} if client_id else {}
    if identity == "managed":
        return aio.ManagedIdentityCredential(**given)
    if identity == "workload":
        return aio.WorkloadIdentityCredential(**given)
    if identity == "cli":
        return aio.AzureCliCredential()
    if identity == "environment":
        return aio.EnvironmentCredential()
    if client_id:
        given = {"managed_identity_client_id": client_id, "workload_identity_client_id": client_id}
    return aio.DefaultAzureCredential(**given)


class IdentityToken:
    """A bearer token as a `credentials.Credential`."""

    guests_own = False

    def __init__(self, source: AsyncTokenCredential) -> None:
        self._source = source
        self._token = ""
        self._refresh_at_s = float("-inf")
        self._expires_at_s = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None
        self.fetched = 0

    async def prepare(self) -> None:
        """Have a token that is valid; whoever needs none new does not wait for one."""
        now_s = time.time()
        if now_s < self._refresh_at_s:
            return
        if self._refreshing is None:
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())
            self._refreshing.add_done_callback(self._refreshed)
        if now_s >= self._expires_at_s:
            await asyncio.shield(self._refreshing)

    def authorize(self, request: Request) -> None:
        """Put the token into *request*."""
        request.fields.set("authorization", f"Bearer {self._token}")

    def refused(self) -> bool:
        """Throw the token away: another is fetched."""
        self._expires_at_s = self._refresh_at_s = float("-inf")
        return True

    async def close(self) -> None:
        """Stop refreshing and close the source."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        await self._source.close()

    async def _refresh(self) -> None:
        try:
            token = await self._source.get_token(SCOPE)
        except Exception as error:
            # azure-identity's errors are many; their first line says why, and holds no secret.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._refresh_at_s = time.time() + TRY_AGAIN_AFTER_S
            if time.time() < self._expires_at_s:
                log.warning("the token could not be refreshed; it stays valid for a while: %s", reason)
                return
            self._refresh_at_s = float("-inf")
            raise ConnectionError(f"no token: {reason}") from None
        now_s = time.time()
        self.fetched += 1
        self._token = token.token
        self._expires_at_s = float(token.expires_on) - 30.0
        lifetime_s = max(0.0, self._expires_at_s - now_s)
        self._refresh_at_s = self._expires_at_s - min(REFRESH_BEFORE_S_MAX, lifetime_s / 4)

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # seen here if nobody waits for it
