"""Fills the cache on a person's behalf: blobs of a container are listed, and what of them is not here is fetched.

What comes is charged to nobody until a guest reads it. At most so many blocks are fetched at once, and no more bytes
than the cache can hold: beyond that a block would push out what was fetched before it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import quote

from pvblob.errors import PvblobError
from pvblob.http import Fields, Request
from pvblob.upstream.cache import CachedAccount
from pvblob.upstream.failures import GivenUp
from pvblob.upstream.fetching import Reading
from pvblob.upstream.listing import ListedBlob, list_blobs
from pvblob.upstream.versions import Version

_EVENTS_MAX = 256


class Warming:
    """One run over the blobs of *container* whose names begin with *prefix*. parallel: blocks, and blobs, at once."""

    def __init__(self, account: CachedAccount, container: str, prefix: str, parallel: int) -> None:
        self._account = account
        self._container = container
        self._prefix = prefix
        self._blobs = asyncio.Semaphore(parallel)
        self._blocks = asyncio.Semaphore(parallel)
        self._taken_bytes = 0
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_EVENTS_MAX)

    async def run(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield {"fetched_bytes"} for each block, and for each blob {"blob", "size_bytes", "had_bytes", "skipped"}.

        skipped: why not all of the blob is here, or None. Raises PvblobError when the container cannot be listed.
        """
        work = asyncio.ensure_future(self._work())
        try:
            while not (work.done() and self._events.empty()):
                getting = asyncio.ensure_future(self._events.get())
                await asyncio.wait({getting, work}, return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    yield getting.result()
                else:
                    getting.cancel()
            await work
        finally:
            work.cancel()
            await asyncio.wait([work])

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            refused = await self._list(group)
        if refused is not None:
            raise PvblobError(refused)

    async def _list(self, group: asyncio.TaskGroup) -> str | None:
        """Begin with each blob; return why the listing ended early, or None."""
        try:
            async for blob in list_blobs(self._account.backend, self._request(""), self._container, self._prefix):
                await self._blobs.acquire()
                task = group.create_task(self._blob(blob))
                task.add_done_callback(lambda _task: self._blobs.release())
        except GivenUp as given_up:
            why = _refusal(given_up)
            return f"account {self._account.account} does not list container {self._container}: {why}"
        except ValueError as error:
            return str(error)
        return None

    def _request(self, blob: str) -> Request:
        target = f"/{self._container}/{quote(blob, safe='/')}"
        return Request("GET", "https", f"{self._account.account}.blob.core.windows.net", target, Fields())

    async def _blob(self, blob: ListedBlob) -> None:
        told: dict[str, Any] = {"blob": blob.name, "size_bytes": blob.size_bytes, "had_bytes": 0, "skipped": None}
        try:
            told["skipped"] = await self._fill(blob, told)
        except GivenUp as given_up:
            told["skipped"] = _refusal(given_up)
        await self._events.put(told)

    async def _fill(self, blob: ListedBlob, told: dict[str, Any]) -> str | None:
        """Fetch what is missing of a blob; return why not all of it is here, or None."""
        account, name = self._account, blob.name.encode()
        rule = account.rule_of(self._container, name)
        if rule is None:
            return "no [[upstream.cache]] table is about it"
        if not blob.size_bytes:
            return "it is empty"
        # By the listing's size and before anything is waited for: who finds room is decided in the order of names.
        if self._taken_bytes + blob.size_bytes > account.store.bytes_max:
            return "cache_size has no room for it beside what was fetched before it"
        self._taken_bytes += blob.size_bytes
        request = self._request(blob.name)
        head = await account.head(account.states.of(self._container, name), request, rule)
        if head is None:
            return "it is gone, or cannot be read"
        told["size_bytes"] = head.size_bytes
        version = Version(account.label(self._container, name), head)
        missing = [number for number in range(version.blocks) if version.key(number) not in account.store]
        told["had_bytes"] = head.size_bytes - sum(version.length(number) for number in missing)
        kept = await asyncio.gather(*(self._block(request, version, number) for number in missing))
        return None if all(kept) else "it changed meanwhile, or the disk of cache_dir has no room for it"

    async def _block(self, request: Request, version: Version, number: int) -> bool:
        length = version.length(number)
        async with self._blocks:
            fd = await self._account.fetcher.block(request, version, number, Reading(0, 0))
        if fd is None:
            return False
        os.close(fd)
        await self._events.put({"fetched_bytes": length})
        return True


def _refusal(given_up: GivenUp) -> str:
    response = given_up.response
    return f"{response.status} {response.fields.get('x-ms-error-code') or ''}".strip()
