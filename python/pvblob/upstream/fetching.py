"""Blocks of one account, from the disk or from the account: each is fetched once, however many guests want it.

A block is wanted by readers, who wait for it, or ahead of a reader; what only a reader ahead of itself wanted can be
called off again. It is charged to the guest that asked first.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from pvblob.blobs.answers import Refusal, refuse
from pvblob.frozen import replace
from pvblob.http import ContentLost, Extent, Fields, Request
from pvblob.upstream.attempts import Attempts
from pvblob.upstream.block_files import BLOCK_BYTES
from pvblob.upstream.blocks import BlockStore
from pvblob.upstream.downloads import Cutting, RemoteContent, pinned_range
from pvblob.upstream.failures import GivenUp
from pvblob.upstream.forward import DEFAULT_VERSION
from pvblob.upstream.transport import NO_BODY
from pvblob.upstream.versions import Version

Files = tuple[tuple[Extent, ...], Callable[[], None]]


_AHEAD_KNOWN_MAX = 65536


class Reading(NamedTuple):
    """*size_bytes* bytes from *first* of a version. goes_on: the reader has read what lies before it just now."""

    first: int
    size_bytes: int
    goes_on: bool = False

    def bytes_of(self, number: int) -> int:
        """Return how many of them lie in the block of this number."""
        begin = max(self.first, number * BLOCK_BYTES)
        return max(0, min(self.first + self.size_bytes, (number + 1) * BLOCK_BYTES) - begin)


@dataclass(slots=True)
class _Fetch:
    task: asyncio.Task[bool]
    wanted: bool  # somebody waits, or waited, for it


class BlockFetcher:
    """Gives blocks of the account behind *attempts*, kept in *store*."""

    def __init__(self, attempts: Attempts, store: BlockStore) -> None:
        self._attempts = attempts
        self._store = store
        self._fetching: dict[str, _Fetch] = {}
        self._came_ahead: set[str] = set()

    async def close(self) -> None:
        """End every fetch."""
        tasks = [fetch.task for fetch in self._fetching.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def block(self, request: Request, version: Version, number: int, reading: Reading) -> int | None:
        """Return a descriptor of a block, the caller's to close; None: it cannot be kept here. Raises GivenUp."""
        key, length = version.key(number), version.length(number)
        tally = self._store.tallies.of(version.label)
        fd = None if key.name in self._fetching else await self._store.get(key, length)
        if fd is not None:
            tally.hits += 1
            tally.hit_bytes += reading.bytes_of(number)
            self._note_use(request, version, number, reading)
            return fd
        tally.misses += 1
        fetch = self._fetching.get(key.name)
        joined = fetch is not None
        if fetch is None:
            fetch = self._begin(request, version, number, wanted=True)
        fetch.wanted = True
        try:
            kept = await asyncio.shield(fetch.task)
        except ContentLost as lost:
            raise GivenUp(lost.response) from None
        if joined:
            tally.joined += 1
            self._note_use(request, version, number, reading)
        return await self._store.get(key, length) if kept else None

    def ahead(self, request: Request, version: Version, number: int) -> asyncio.Task[bool] | None:
        """Begin to fetch a block that nobody waits for; None when it is here, or on its way."""
        key = version.key(number)
        if key in self._store or key.name in self._fetching:
            return None
        self._store.tallies.of(version.label).ahead += 1
        if len(self._came_ahead) >= _AHEAD_KNOWN_MAX:
            self._came_ahead.clear()  # only a count is lost
        self._came_ahead.add(key.name)
        return self._begin(request, version, number, wanted=False).task

    def call_off(self, version: Version, number: int) -> None:
        """End a fetch that was begun by `ahead`, unless somebody waits for it by now."""
        name = version.key(number).name
        fetch = self._fetching.get(name)
        if fetch is not None and not fetch.wanted:
            del self._fetching[name]  # nobody may join it any more
            fetch.task.cancel()

    async def files(self, request: Request, version: Version, reading: Reading) -> Files | None:
        """Return where the bytes lie and what lets go of them; None: a block cannot be kept here. Raises GivenUp."""
        offset, length = reading.first, reading.size_bytes
        numbers = range(offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES + 1)
        with ExitStack() as stack:
            fds = await asyncio.gather(
                *(self.block(request, version, number, reading) for number in numbers), return_exceptions=True
            )
            for fd in fds:
                if isinstance(fd, int):
                    stack.callback(os.close, fd)
            for fd in fds:
                if isinstance(fd, BaseException):
                    raise fd
            if None in fds:
                return None
            found = [fd for fd in fds if isinstance(fd, int)]
            extents = []
            for number, fd in zip(numbers, found, strict=True):
                begin = max(offset, number * BLOCK_BYTES)
                end = min(offset + length, (number + 1) * BLOCK_BYTES)
                extents.append(Extent(fd, begin - number * BLOCK_BYTES, end - begin))
            return tuple(extents), stack.pop_all().close

    async def remote(self, request: Request, version: Version, first: int, size_bytes: int) -> RemoteContent:
        """Return bytes of the version from the account. Raises GivenUp, and ContentLost (412) when it is gone."""
        # Others may wait for it too, longer than the guest that asked first, and have sent no field that is refused.
        own = replace(request, fields=Fields.lowered([("x-ms-version", DEFAULT_VERSION)]), deadline_s=None)
        etag = version.head.etag
        sent = pinned_range(own, first, first + size_bytes, etag)
        answer = await self._attempts.perform(sent, NO_BODY, inline_max=0)
        if answer.status != 206 or answer.size_bytes != size_bytes or answer.fields.get("etag") != etag:
            answer.drop()
            raise ContentLost(refuse(request, Refusal("ConditionNotMet")))
        cutting = Cutting(BLOCK_BYTES, 1)
        return RemoteContent(self._attempts, sent, answer, size_bytes, first=first, etag=etag, cutting=cutting)

    def _note_use(self, request: Request, version: Version, number: int, reading: Reading) -> None:
        """Note a use, but not the first one, nor a reader's going on in the block it is in: one pass is one use."""
        key = version.key(number)
        if key.name in self._came_ahead:
            self._came_ahead.discard(key.name)
            self._store.tallies.of(version.label).ahead_used += 1
        elif not (reading.goes_on and number == reading.first // BLOCK_BYTES and reading.first % BLOCK_BYTES):
            self._store.use(key, request.guest)

    def _begin(self, request: Request, version: Version, number: int, *, wanted: bool) -> _Fetch:
        name = version.key(number).name
        task = asyncio.get_running_loop().create_task(self._fetch(request, version, number))
        fetch = self._fetching[name] = _Fetch(task, wanted)
        task.add_done_callback(lambda done: self._ended(name, done))
        return fetch

    def _ended(self, name: str, task: asyncio.Task[bool]) -> None:
        if name in self._fetching and self._fetching[name].task is task:
            del self._fetching[name]
        if task.cancelled() or task.exception() is not None or not task.result():
            self._came_ahead.discard(name)

    async def _fetch(self, request: Request, version: Version, number: int) -> bool:
        """Fetch one block, for everybody who waits for it. False: it cannot be kept, or its version is gone."""
        length = version.length(number)

        async def fill(fd: int) -> None:
            content = await self.remote(request, version, number * BLOCK_BYTES, length)
            try:
                await content.place(fd, 0, length)
            finally:
                content.release()

        key = version.key(number)
        try:
            kept = await self._store.put(key, length, fill, request.guest)
            if kept:
                fetch = self._fetching.get(key.name)
                self._store.lend(key, untold=fetch is not None and not fetch.wanted)
            return kept
        except ContentLost as lost:
            if lost.response.status == 412:
                return False
            raise
