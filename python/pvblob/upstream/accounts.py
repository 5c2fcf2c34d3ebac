"""Makes backends of settings: one account each, with its connections, its credential and its share of the machine.

`Accounts.open` → a backend per account; `close` ends every connection. A certificate file or a secret that changes is
seen without a restart: `look_again` (SIGHUP) and every account's own clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pvblob import _native
from pvblob.errors import SettingsError
from pvblob.http import Backend
from pvblob.upstream.attempts import Attempts, Location
from pvblob.upstream.azure import AzureUpstream
from pvblob.upstream.blocks import BlockStore
from pvblob.upstream.budget import Budget
from pvblob.upstream.cache import CachedAccount
from pvblob.upstream.credentials import Anonymous, Credential, PassThrough, SharedAccessSignature, SharedKey
from pvblob.upstream.downloads import Cutting
from pvblob.upstream.endpoint import EndpointUrl
from pvblob.upstream.proxies import NO_PROXY, proxy_to
from pvblob.upstream.router import AccountRouter
from pvblob.upstream.secrets import Secret, SecretFile, SecretVariable
from pvblob.upstream.transport import Transport, TransportFailure
from pvblob.upstream.uploads import Spool
from pvblob.upstream.versions import CacheRule

log = logging.getLogger("pvblob.upstream")

WARM_EVERY_S = 30.0
LOOK_AT_LENT_EVERY_S = 1.0

Authorization = Literal["key", "sas", "identity", "guest", "none"]
Identity = Literal["default", "managed", "workload", "cli", "environment"]


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """One account elsewhere.

    account: as guests write it.  endpoint, secondary_endpoint: URLs; None: Azure's public cloud, no secondary.
    authorization: what the host adds. "key" and "sas": secret_file or secret_variable holds it; "identity": a token of
    azure-identity, client_id saying whose where there are several; "guest": what the guest sent; "none": nothing.
    ca_file: PEM; None: the system's.  proxy: URL of the HTTP proxy that connects in our place; None: the one the
    environment names, "none": no one.  proxy_secret_file, proxy_secret_variable: hold USER:PASSWORD for it.
    connections_max: at once.  connections_warm: kept ready.
    addresses: IP addresses that `endpoint` is at; none: its name is looked up for every connection.
    requests_per_s, bytes_per_s: None for no limit.  part_size_bytes, parallel, put_block_bytes: see `Cutting`.
    hedge_after_s: a read that has no answer after so long is asked a second time; None: never.
    stall_timeout_s: content that stops coming for so long is asked for again.  cache: what is kept on the local disk.
    read_ahead: whether cached blobs that are read in order are fetched before they are asked for.
    """

    account: str
    authorization: Authorization
    endpoint: str | None = None
    secondary_endpoint: str | None = None
    secret_file: Path | None = None
    secret_variable: str | None = None
    identity: Identity = "default"
    client_id: str | None = None
    addresses: tuple[str, ...] = ()
    ca_file: Path | None = None
    proxy: str | None = None
    proxy_secret_file: Path | None = None
    proxy_secret_variable: str | None = None
    connections_max: int = 64
    connections_warm: int = 2
    requests_per_s: float | None = None
    bytes_per_s: float | None = None
    part_size_bytes: int = 8 << 20
    parallel: int = 4
    put_block_bytes: int | None = None
    hedge_after_s: float | None = None
    stall_timeout_s: float = 15.0
    cache: tuple[CacheRule, ...] = ()
    read_ahead: bool = True


class Accounts:
    """Every account elsewhere that this host serves, on the running loop.

    connections_max: of all accounts together.  cache: where blocks are kept; None: what is to be cached is not.
    """

    def __init__(
        self, settings: Sequence[AccountSettings], *, connections_max: int = 256, cache: BlockStore | None = None
    ) -> None:
        self._settings = settings
        self._cache = cache
        self._machine = Budget(connections_max)
        self._tasks: list[asyncio.Task[None]] = []
        self._secrets: list[Secret] = []
        self._closing = contextlib.AsyncExitStack()
        self.backends: dict[str, AzureUpstream | CachedAccount] = {}

    async def open(self) -> None:
        """Check every account's settings and credential, and begin to keep connections. Raises SettingsError."""
        self._transport = Transport()
        self._closing.callback(self._transport.close)
        if self._cache is not None:
            self._cache.open()
            self._closing.callback(self._cache.close)
            self._tasks.append(asyncio.get_running_loop().create_task(_look_at_lent(self._cache)))
        spool = Spool()
        for settings in self._settings:
            attempts = await self._attempts(settings)
            cutting = Cutting(settings.part_size_bytes, settings.parallel, settings.put_block_bytes)
            backend = AzureUpstream(attempts, spool, cutting)
            cached = self._cache is not None and settings.cache
            self.backends[settings.account] = self._behind_cache(backend, settings) if cached else backend
            if settings.connections_warm:
                keeping = self._keep_warm(attempts, settings.connections_warm)
                self._tasks.append(asyncio.get_running_loop().create_task(keeping))

    async def close(self) -> None:
        """End every connection. Idempotent."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()
        await self._closing.aclose()

    def router(self, others: Backend) -> AccountRouter:
        """Return the backend that serves these accounts, and leaves every other one to *others*."""
        return AccountRouter(self.backends, others)

    def look_again(self) -> None:
        """Read every secret again at its next use."""
        for secret in self._secrets:
            secret.look_again()

    def forget_reader(self, reader: int) -> None:
        """The program whose requests had this number (`Request.reader`) is gone."""
        for cached in self.cached.values():
            cached.forget_reader(reader)

    @property
    def cache(self) -> BlockStore | None:
        """Where blocks are kept."""
        return self._cache

    @property
    def cached(self) -> dict[str, CachedAccount]:
        """The accounts of which blobs are cached, by name."""
        return {name: one for name, one in self.backends.items() if isinstance(one, CachedAccount)}

    def _behind_cache(self, backend: AzureUpstream, settings: AccountSettings) -> CachedAccount:
        if settings.authorization == "guest":
            # What one guest may read, another may not: only the account can tell, for each request.
            raise SettingsError(f"account {settings.account}: with authorization = 'guest' nothing can be cached")
        assert self._cache is not None
        cached = CachedAccount(backend, self._cache, settings.cache, read_ahead=settings.read_ahead)
        self._closing.push_async_callback(cached.close)
        return cached

    async def _attempts(self, settings: AccountSettings) -> Attempts:
        secret = self._proxy_secret(settings)
        primary = _location(settings.endpoint or f"https://{settings.account}.blob.core.windows.net", settings, secret)
        primary.connections.resolve_to(list(settings.addresses))
        secondary = _location(settings.secondary_endpoint, settings, secret) if settings.secondary_endpoint else None
        credential = self._credential(settings)
        if settings.authorization in ("key", "sas"):
            await credential.prepare()
        return Attempts(
            settings.account,
            self._transport,
            primary,
            secondary,
            credential,
            Budget(
                settings.connections_max,
                requests_per_s=settings.requests_per_s,
                bytes_per_s=settings.bytes_per_s,
                machine=self._machine,
            ),
            hedge_after_s=settings.hedge_after_s,
        )

    def _proxy_secret(self, settings: AccountSettings) -> Secret | None:
        secret: Secret | None = None
        if settings.proxy_secret_file is not None:
            secret = SecretFile(settings.proxy_secret_file)
        elif settings.proxy_secret_variable is not None:
            secret = SecretVariable(settings.proxy_secret_variable)
        if secret is not None:
            self._secrets.append(secret)
        return secret

    def _credential(self, settings: AccountSettings) -> Credential:
        if settings.authorization == "guest":
            return PassThrough()
        if settings.authorization == "none":
            return Anonymous()
        if settings.authorization == "identity":
            from pvblob.upstream.identity import IdentityToken, credential_of

            token = IdentityToken(credential_of(settings.identity, settings.client_id))
            self._closing.push_async_callback(token.close)
            return token
        secret = secret_of(settings)
        self._secrets.append(secret)
        return SharedKey(settings.account, secret) if settings.authorization == "key" else SharedAccessSignature(secret)

    async def _keep_warm(self, attempts: Attempts, count: int) -> None:
        while True:
            try:
                await self._transport.warm(attempts.primary.connections, count)
            except TransportFailure as failure:
                log.warning("account %s: %s", attempts.account, failure)
            await asyncio.sleep(WARM_EVERY_S)


async def _look_at_lent(cache: BlockStore) -> None:
    while True:
        await asyncio.sleep(LOOK_AT_LENT_EVERY_S)
        cache.look_at_lent()


def secret_of(settings: AccountSettings) -> Secret:
    """Return where the account's secret lies."""
    if settings.secret_file is not None:
        return SecretFile(settings.secret_file)
    assert settings.secret_variable is not None
    return SecretVariable(settings.secret_variable)


def _location(endpoint: str, settings: AccountSettings, proxy_secret: Secret | None) -> Location:
    url = EndpointUrl.parse(endpoint)
    connections = connections_to(url, settings)
    # Who says at which addresses the endpoint is has a way there of their own.
    named = settings.proxy or (NO_PROXY if settings.addresses else None)
    try:
        proxy = proxy_to(url, named, proxy_secret)
        if proxy is not None:
            proxy.lead(connections)
            log.info("account %s: %s is reached through %r", settings.account, url, proxy)
    except SettingsError as error:
        raise SettingsError(f"account {settings.account}: {error}") from None
    return Location(url, connections, proxy)


def connections_to(url: EndpointUrl, settings: AccountSettings) -> _native.UpstreamEndpoint:
    """Return the connections to *url*. Raises SettingsError."""
    authorities = _authorities(settings.ca_file) if url.scheme == "https" else None
    try:
        return _native.UpstreamEndpoint(
            url.host,
            url.port,
            authorities,
            connect_timeout_s=10.0,
            stall_timeout_s=settings.stall_timeout_s,
            # Azure's load balancers drop what is silent for four minutes.
            idle_timeout_s=200.0,
            # A change of DNS is followed within this time.
            age_s_max=600.0,
            idle_max=settings.connections_max,
        )
    except ValueError as error:
        raise SettingsError(f"account {settings.account}: {error} ({settings.ca_file or 'system'})") from None


def _authorities(ca_file: Path | None) -> bytes:
    if ca_file is None:
        found = ssl.get_default_verify_paths().cafile
        if found is None:
            raise SettingsError("no CA certificates of the system are found: install ca-certificates, or set ca_file")
        ca_file = Path(found)
    try:
        return ca_file.read_bytes()
    except OSError as error:
        raise SettingsError(f"ca_file {ca_file}: {error.strerror}") from None
