"""A host in this process whose data plane may answer reads of an account elsewhere, from a small cache."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from pvblob import Client
from pvblob.http import Backend, Body, Request, Response
from pvblob.upstream.accounts import Accounts, AccountSettings
from pvblob.upstream.blocks import BlockStore
from pvblob.upstream.versions import CacheRule
from tests.conftest import LiveHost
from tests.faults.guest import RawGuest
from tests.offload.guests import open_guest
from tests.upstream.world import ACCOUNT

GUEST_HOST = f"{ACCOUNT}.blob.core.windows.net"
CACHE_BYTES = 32 << 20


class _Opened:
    """A backend that is there once the host's loop runs."""

    inner: Backend

    async def execute(self, request: Request, body: Body) -> Response:
        return await self.inner.execute(request, body)


class Stage:
    """A host whose data plane may answer reads of container `con` of the account elsewhere."""

    def __init__(self, settings: AccountSettings, directory: Path, **host: object) -> None:
        opened = _Opened()
        self.host = LiveHost(opened, directory / "bus.sock", **host)
        self.store = BlockStore(directory / "blocks", CACHE_BYTES)
        self.accounts = self.run(self._open(settings))
        opened.inner = self.accounts.backends[ACCOUNT]
        self._guests: list[RawGuest] = []
        self._is_closed = False
        self.client = Client.connect(self.host.socket_path, account=ACCOUNT, timeout_s=30)
        self.client.create_container("con", exist_ok=True)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the host's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.host.loop).result(30)

    async def _open(self, settings: AccountSettings) -> Accounts:
        accounts = Accounts([settings], cache=self.store)
        await accounts.open()
        self.host.host.dispatcher.on_detached = accounts.forget_reader
        return accounts

    def close(self) -> None:
        """End the host; what is cached stays. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        for guest in self._guests:
            guest.close()
        self.client.close()
        self.run(self.accounts.close())
        self.host.stop()
        assert not len(self.store.lending), "the host has stopped and still holds blocks"
        assert not self.store.lending._versions

    def counters(self) -> dict[str, int]:
        return self.host.host.engine.offload_counters()

    def entries(self) -> set[str]:
        return {target for _, _, _, target, _, _ in self.host.host.engine.offload_entries()}

    def evict(self, number: int) -> None:
        """Have one block of every blob go, as eviction does."""
        names = self.store.lending.names()
        blocks = {name: self.store.lending._blocks[name][1] for name in names}
        for name in names:
            if blocks[name] == number:
                self.store._forget(name)

    def guest(self, *, offloaded: bool) -> RawGuest:
        self._guests.append(open_guest(self.host, offloaded=offloaded))
        return self._guests[-1]

    def warm(self, blob: str) -> None:
        """Read a blob whole, then a byte until an entry answers."""
        self.client.get("con", blob)
        before = self.counters()["hits"]
        for _ in range(6):
            self.client.get("con", blob, offset=0, length=1)
            if self.counters()["hits"] > before:
                return
        raise AssertionError(f"no entry was installed for {blob}: {self.counters()}")


MakeStage = Callable[..., Stage]

IMMUTABLE = CacheRule("con", mode="immutable")
