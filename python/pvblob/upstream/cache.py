"""A cache that all guests share: blocks of blobs on the local disk, one upstream request for whoever wants one.

It stands before one account's backend and serves reads of blobs in the containers and prefixes it was told of; every
other request goes through. A read is answered from blocks of one version (ETag): "immutable" asks for the version once,
"revalidate" again (If-None-Match) when it is older than `max_age_s`. Invariant: after a guest's write has been answered
no read that begins later is answered from what was known before it (the state's `changes`); bytes of two versions
never mix, because a block's name holds the ETag. It must not know channels; hits are files, and so offload entries.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Literal

from pvblob import _native
from pvblob.blobs.answers import Refusal, refuse
from pvblob.blobs.target import InvalidTarget, Target, parse_target
from pvblob.http import (
    Body,
    ByteRange,
    BytesBody,
    Content,
    ContentLost,
    Extent,
    FileContent,
    Observed,
    Offer,
    Request,
    Response,
    discard,
)
from pvblob.upstream.azure import AzureUpstream, with_range
from pvblob.upstream.blocks import BLOCK_BYTES, BlockStore, block_name
from pvblob.upstream.cached import CachedContent
from pvblob.upstream.downloads import Cutting, RemoteContent, pinned_range
from pvblob.upstream.failures import GivenUp
from pvblob.upstream.forward import answered_fields
from pvblob.upstream.heads import BlobHead, asked_range, bare, head_of, own_pairs
from pvblob.upstream.transport import NO_BODY

# A read of more blocks is not answered from files at once: it would hold a descriptor for each.
BLOCKS_PER_ANSWER_MAX = 16
BLOBS_KNOWN_MAX = 65536

# With any of these a read is not the plain one that a cache may answer.
_PASSED_ON = (
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "x-ms-if-tags",
    "x-ms-lease-id",
    "x-ms-encryption-key",
    "x-ms-range-get-content-md5",
    "x-ms-range-get-content-crc64",
    "x-ms-structured-body",
)


@dataclass(frozen=True, slots=True)
class CacheRule:
    """What is cached: blobs of *container* whose names begin with *prefix*. max_age_s: only of mode "revalidate"."""

    container: str
    prefix: bytes = b""
    mode: Literal["immutable", "revalidate", "off"] = "revalidate"
    max_age_s: float = 0.0


@dataclass(slots=True)
class _State:
    """What is known of one blob. changes: how often a write of ours began or ended; writing: how many run."""

    head: BlobHead | None = None
    asked_at_s: float = 0.0
    changes: int = 0
    writing: int = 0
    generation: _native.Generation = field(default_factory=_native.Generation)
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def begin_change(self) -> None:
        self.head = None
        self.changes += 1
        self.writing += 1
        if self.writing == 1:
            self.generation.begin()

    def end_change(self) -> None:
        self.head = None
        self.changes += 1
        self.writing -= 1
        if self.writing == 0:
            self.generation.end()


Key = tuple[str, bytes]


class CachedAccount:
    """*backend* behind a cache. rules: the first that fits a blob counts."""

    def __init__(self, backend: AzureUpstream, store: BlockStore, rules: Sequence[CacheRule]) -> None:
        self._backend = backend
        self._store = store
        self._rules = tuple(rules)
        self._states: OrderedDict[Key, _State] = OrderedDict()
        self._fetching: dict[str, asyncio.Task[bool]] = {}

    @property
    def attempts(self) -> object:
        """The account's attempts, for its counters."""
        return self._backend.attempts

    async def execute(self, request: Request, body: Body) -> Response:
        """Answer from blocks if *request* is a plain read of a cached blob, else pass it on; see `http.Backend`."""
        try:
            target = parse_target(request.authority, request.target)
        except InvalidTarget:
            return await self._backend.execute(request, body)
        if request.method not in ("GET", "HEAD"):
            return await self._write(request, body, target)
        rule = self._rule_for(target)
        if (
            rule is None
            or request.method != "GET"
            or target.query
            or any(name in request.fields for name in _PASSED_ON)
        ):
            return await self._backend.execute(request, body)
        try:
            response = await self._read(request, target, rule)
        except GivenUp as given_up:
            return given_up.response
        return response if response is not None else await self._backend.execute(request, body)

    def drop(self) -> None:
        """Know nothing any more: every blob's version is asked for again."""
        for state in self._states.values():
            state.begin_change()
            state.end_change()

    def _rule_for(self, target: Target) -> CacheRule | None:
        if target.container is None or target.blob is None:
            return None
        for rule in self._rules:
            if rule.container in ("*", target.container) and target.blob.startswith(rule.prefix):
                return None if rule.mode == "off" else rule
        return None

    def _state(self, key: Key) -> _State:
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = _State()
            while len(self._states) > BLOBS_KNOWN_MAX:
                oldest = next(iter(self._states))
                if self._states[oldest].writing or self._states[oldest].asking.locked():
                    break
                forgotten = self._states.pop(oldest)
                forgotten.begin_change()
                forgotten.end_change()
        return state

    # ---- writes

    async def _write(self, request: Request, body: Body, target: Target) -> Response:
        states = self._touched_by(target)
        for state in states:
            state.begin_change()
        try:
            return await self._backend.execute(request, body)
        finally:
            for state in states:
                state.end_change()

    def _touched_by(self, target: Target) -> list[_State]:
        """Return the states a write to *target* may make old; a container's or a batch's: all that it may name."""
        if target.blob is not None and target.container is not None:
            # Known or not: a read that is under way makes it known.
            return [self._state((target.container, target.blob))] if self._rule_for(target) else []
        inside = target.container
        return [state for (container, _), state in self._states.items() if inside is None or container == inside]

    # ---- reads

    async def _read(self, request: Request, target: Target, rule: CacheRule) -> Response | None:
        """Return the answer, or None when the account must be asked. Raises GivenUp."""
        assert target.container is not None
        assert target.blob is not None
        state = self._state((target.container, target.blob))
        observed = Observed(state.generation, state.generation.value)
        asked = asked_range(request)
        if state.writing or asked is False:
            return None
        head = await self._head(state, request, rule)
        if head is None or request.fields.get("if-match") not in (None, head.etag):
            return None
        span = None if asked is None else asked.resolve(head.size_bytes)
        if asked is not None and span is None:
            return None
        offset, length = span or (0, head.size_bytes)
        if not length:
            return None
        content = await self._content(request, head, target, offset, length)
        if content is None:
            return None
        response = Response(200 if span is None else 206, head.answer_fields(request, span), content)
        if request.wants_offload and not observed.value & 1:
            response.offer = await self._offer(request, state, rule, head, target, observed)
        return response

    async def _head(self, state: _State, request: Request, rule: CacheRule) -> BlobHead | None:
        if self._is_current(state, rule):
            return state.head
        async with state.asking:
            if self._is_current(state, rule):
                return state.head
            changes, known = state.changes, state.head
            asked_at_s = time.monotonic()
            head = await self._ask(request, known)
            if head is not None and state.changes == changes and not state.writing:
                if known is not None and known != head:
                    # What was offered of the version before must not answer any more.
                    state.generation.begin()
                    state.generation.end()
                state.head, state.asked_at_s = head, asked_at_s
            return head

    @staticmethod
    def _is_current(state: _State, rule: CacheRule) -> bool:
        if state.head is None:
            return False
        return rule.mode == "immutable" or time.monotonic() - state.asked_at_s < rule.max_age_s

    async def _ask(self, request: Request, known: BlobHead | None) -> BlobHead | None:
        """Ask the account which version there is; a byte comes along, for only an answer with content tells all."""
        asking = with_range(bare(request), ByteRange(0, 0))
        if known is not None:
            asking.fields.set("if-none-match", known.etag)
        answer = await self._backend.attempts.perform(asking, NO_BODY, inline_max=BLOCK_BYTES)
        answer.drop()
        if known is not None and answer.status == 304:
            return known
        return BlobHead.of(answered_fields(answer.fields)) if answer.status == 206 else None

    # ---- blocks

    async def _content(
        self, request: Request, head: BlobHead, target: Target, offset: int, length: int
    ) -> Content | None:
        if length > (BLOCKS_PER_ANSWER_MAX - 1) * BLOCK_BYTES:

            async def block(number: int) -> int | None:
                return await self._block(request, head, target, number)

            async def remote(first: int, size_bytes: int) -> RemoteContent:
                return await self._remote(request, head, first, size_bytes)

            return CachedContent(offset, length, block, remote)
        files = await self._files(request, head, target, offset, length)
        return None if files is None else FileContent(*files)

    async def _files(
        self, request: Request, head: BlobHead, target: Target, offset: int, length: int
    ) -> tuple[tuple[Extent, ...], Callable[[], None]] | None:
        """Return where the bytes lie and what lets go of them; None when they are too many or cannot be kept here."""
        first, last = offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES
        if not length or last - first >= BLOCKS_PER_ANSWER_MAX:
            return None
        with ExitStack() as stack:
            numbers = range(first, last + 1)
            fds = await asyncio.gather(
                *(self._block(request, head, target, n) for n in numbers), return_exceptions=True
            )
            for fd in fds:
                if isinstance(fd, int):
                    stack.callback(os.close, fd)
            for fd in fds:
                if isinstance(fd, BaseException):
                    raise fd
            if None in fds:
                return None
            extents = []
            for number, fd in zip(numbers, fds, strict=True):
                assert isinstance(fd, int)
                begin = max(offset, number * BLOCK_BYTES)
                end = min(offset + length, (number + 1) * BLOCK_BYTES)
                extents.append(Extent(fd, begin - number * BLOCK_BYTES, end - begin))
            return tuple(extents), stack.pop_all().close

    async def _block(self, request: Request, head: BlobHead, target: Target, number: int) -> int | None:
        name = block_name(self._backend.account, target.container or "", target.blob or b"", head.etag, number)
        size_bytes = min(BLOCK_BYTES, head.size_bytes - number * BLOCK_BYTES)
        fd = await self._store.get(name, size_bytes)
        if fd is not None:
            return fd
        task = self._fetching.get(name)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fetch(request, head, name, number, size_bytes))
            self._fetching[name] = task
            task.add_done_callback(lambda done: self._fetched(name, done))
        try:
            kept = await asyncio.shield(task)
        except ContentLost as lost:
            raise GivenUp(lost.response) from None
        return await self._store.get(name, size_bytes) if kept else None

    def _fetched(self, name: str, task: asyncio.Task[bool]) -> None:
        del self._fetching[name]
        if not task.cancelled():
            task.exception()  # seen here if everybody who waited is gone

    async def _fetch(self, request: Request, head: BlobHead, name: str, number: int, size_bytes: int) -> bool:
        """Fetch one block, for everybody who waits for it. False: it cannot be kept, or its version is gone."""

        async def fill(fd: int) -> None:
            content = await self._remote(request, head, number * BLOCK_BYTES, size_bytes)
            try:
                await content.place(fd, 0, size_bytes)
            finally:
                content.release()

        try:
            return await self._store.put(name, size_bytes, fill)
        except ContentLost as lost:
            if lost.response.status == 412:
                return False
            raise

    async def _remote(self, request: Request, head: BlobHead, first: int, size_bytes: int) -> RemoteContent:
        """Return bytes of the version from the account. Raises GivenUp, and ContentLost (412) when it is gone."""
        attempts = self._backend.attempts
        # Others may wait for it too, longer than the guest that asked first.
        own = replace(bare(request), deadline_s=None)
        sent = pinned_range(own, first, first + size_bytes, head.etag)
        answer = await attempts.perform(sent, NO_BODY, inline_max=0)
        if answer.status != 206 or answer.size_bytes != size_bytes or answer.fields.get("etag") != head.etag:
            answer.drop()
            raise ContentLost(refuse(request, Refusal("ConditionNotMet")))
        cutting = Cutting(BLOCK_BYTES, 1)
        return RemoteContent(attempts, sent, answer, size_bytes, first=first, etag=head.etag, cutting=cutting)

    async def _offer(
        self, request: Request, state: _State, rule: CacheRule, head: BlobHead, target: Target, observed: Observed
    ) -> Offer | None:
        """Offer the blob to the data plane if all of it is here: until it changes or its version must be asked for."""
        age_left_s = rule.max_age_s - (time.monotonic() - state.asked_at_s)
        if state.head is not head or (rule.mode == "revalidate" and age_left_s <= 0):
            return None
        properties = await self._backend.execute(head_of(request, head), BytesBody())
        discard(properties.content)
        if properties.status != 200 or properties.fields.get("etag") != head.etag:
            return None
        files = await self._files(request, head, target, 0, head.size_bytes)
        if files is None:
            return None
        if rule.mode == "revalidate":
            asyncio.get_running_loop().call_later(age_left_s, _expire, state)
        return Offer(
            etag=head.etag.strip('"'),
            version=head.version,
            whole=head.ready(200, head.pairs),
            part=head.ready(206, head.pairs, part=True),
            head=head.ready(200, own_pairs(properties.fields)),
            not_modified=None,
            generations=(observed,),
            content=FileContent(*files),
        )


def _expire(state: _State) -> None:
    if not state.writing:
        state.generation.begin()
        state.generation.end()
