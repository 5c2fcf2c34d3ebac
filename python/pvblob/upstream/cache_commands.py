"""What a person may have a running host's cache do: the commands behind `pvblob cache warm` and `pvblob cache drop`.

Each takes a request as a mapping and yields its events as mappings; what it refuses is a PvblobError.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from pvblob.errors import PvblobError, SettingsError
from pvblob.upstream.accounts import Accounts
from pvblob.upstream.block_files import Label
from pvblob.upstream.blocks import BlockStore
from pvblob.upstream.cache import CachedAccount
from pvblob.upstream.warming import Warming

PARALLEL_MAX = 64


class CacheCommands:
    """Commands on the cache of *accounts*."""

    def __init__(self, accounts: Accounts | None) -> None:
        self._accounts = accounts

    async def warm(self, request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Fetch blobs: account (None: the only one), container, prefix, parallel; events as of `Warming.run`."""
        account = self._account(request.get("account"))
        container, prefix = str(request["container"]), str(request.get("prefix") or "")
        _check_cached(account, container, prefix)
        parallel = min(PARALLEL_MAX, max(1, int(request.get("parallel") or 4)))
        async with aclosing(Warming(account, container, prefix, parallel).run()) as events:
            async for event in events:
                yield event

    async def drop(self, request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Delete blocks: all, or account, container, prefix, or blob for one alone; one event: blocks, size_bytes."""
        cache = self._cache()
        if request.get("all"):
            for one in self._cached().values():
                one.states.forget(lambda _container, _blob: True)
            blocks, size_bytes = cache.drop()
        else:
            blocks, size_bytes = self._drop_of(cache, request)
        yield {"blocks": blocks, "size_bytes": size_bytes}

    def _drop_of(self, cache: BlockStore, request: Mapping[str, Any]) -> tuple[int, int]:
        account = self._account(request.get("account"))
        container, prefix = str(request["container"]), str(request.get("prefix") or "").encode()
        exact = bool(request.get("exact"))
        if (account.account, container) not in cache.holdings():
            _check_cached(account, container, prefix.decode())

        def concerns(whose: str, blob: bytes) -> bool:
            return whose == container and (blob == prefix if exact else blob.startswith(prefix))

        def labelled(label: Label) -> bool:
            return label.account == account.account and concerns(label.container, label.blob)

        account.states.forget(concerns)
        return cache.drop(labelled)

    def _cache(self) -> BlockStore:
        if self._accounts is None or self._accounts.cache is None:
            raise SettingsError("this host has no cache: set cache_dir, and [[upstream.cache]] of an account")
        return self._accounts.cache

    def _cached(self) -> dict[str, CachedAccount]:
        self._cache()
        assert self._accounts is not None
        return self._accounts.cached

    def _account(self, name: str | None) -> CachedAccount:
        cached = self._cached()
        if not cached:
            raise SettingsError("nothing is cached on this host: no account has an [[upstream.cache]] table")
        if name is None:
            if len(cached) > 1:
                raise SettingsError(f"say which account (--account): {', '.join(sorted(cached))}")
            return next(iter(cached.values()))
        if name not in cached:
            raise SettingsError(f"account {name} is not cached on this host; cached: {', '.join(sorted(cached))}")
        return cached[name]


def _check_cached(account: CachedAccount, container: str, prefix: str) -> None:
    """Raise unless a rule may be about a blob whose name begins with *prefix*."""
    wanted = prefix.encode()
    for rule in account.rules:
        if rule.container not in ("*", container):
            continue
        if rule.mode != "off" and (rule.prefix.startswith(wanted) or wanted.startswith(rule.prefix)):
            return
    rules = [f"{rule.container}/{rule.prefix.decode(errors='replace')}" for rule in account.rules if rule.mode != "off"]
    raise PvblobError(
        f"{container}/{prefix} of account {account.account} is not cached; cached: {', '.join(rules) or 'nothing'}"
    )
