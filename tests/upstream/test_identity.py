"""Tokens of Entra ID: azure-identity's own credential against a real token endpoint (App Service's protocol)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from aiohttp import web

from pvblob.http import Fields, Request
from pvblob.upstream.identity import IdentityToken, credential_of

SECRET_HEADER = "header-of-the-machine"


@dataclass
class TokenEndpoint:
    url: str = ""
    asked: int = 0
    lifetime_s: float = 86400
    fails: bool = False

    async def answer(self, request: web.Request) -> web.Response:
        assert request.headers["X-IDENTITY-HEADER"] == SECRET_HEADER
        self.asked += 1
        await asyncio.sleep(0.05)
        if self.fails:
            return web.Response(status=500, text="no")
        token = {
            "access_token": f"token-{self.asked}",
            "expires_on": str(int(time.time() + self.lifetime_s)),
            "resource": request.query["resource"],
            "token_type": "Bearer",
        }
        return web.Response(text=json.dumps(token), content_type="application/json")


@pytest.fixture
async def endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TokenEndpoint]:
    made = TokenEndpoint()
    application = web.Application()
    application.router.add_get("/token", made.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    monkeypatch.setenv("IDENTITY_ENDPOINT", made.url)
    monkeypatch.setenv("IDENTITY_HEADER", SECRET_HEADER)
    yield made
    await runner.cleanup()


def authorized(token: IdentityToken) -> str | None:
    request = Request("GET", "https", "a.blob.core.windows.net", "/c/b", Fields())
    token.authorize(request)
    return request.fields.get("authorization")


async def test_one_token_is_fetched_for_all_guests(endpoint: TokenEndpoint) -> None:
    """Issue 5: one token for all guests, single-flight (60 processes → IMDS 429 otherwise)."""
    token = IdentityToken(credential_of("managed", None))
    try:
        await asyncio.gather(*(token.prepare() for _ in range(100)))
        assert endpoint.asked == 1
        assert authorized(token) == "Bearer token-1"
    finally:
        await token.close()


async def test_a_token_is_refreshed_early_while_the_old_one_serves(endpoint: TokenEndpoint) -> None:
    # azure-identity keeps a token itself and asks for none within 30 s of the last: another of its credentials does.
    first, second = credential_of("managed", None), credential_of("managed", None)
    token = IdentityToken(first)
    try:
        await token.prepare()
        token._refresh_at_s, token._source = 0.0, second  # as if most of its life were over
        await token.prepare()
        assert authorized(token) == "Bearer token-1", "nobody waits for the new one"
        assert token._refreshing is not None
        await token._refreshing
        assert authorized(token) == "Bearer token-2"
    finally:
        await token.close()
        await first.close()


async def test_a_token_that_cannot_be_had_is_said_without_the_header(endpoint: TokenEndpoint) -> None:
    endpoint.fails = True
    token = IdentityToken(credential_of("managed", None))
    try:
        with pytest.raises(ConnectionError, match="no token") as failed:
            await token.prepare()
        assert SECRET_HEADER not in str(failed.value)
    finally:
        await token.close()
