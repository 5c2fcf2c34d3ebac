"""A cache that all guests share: blocks of blobs on the local disk, one upstream request for whoever wants one.

It stands before one account's backend and serves reads of blobs in the containers and prefixes it was told of; every
other request goes through. A read is answered from blocks of one version (ETag): "immutable" asks for the version once,
"revalidate" again (If-None-Match) when it is older than `max_age_s`. Invariant: after a guest's write has been answered
no read that begins later is answered from what was known before it (the state's `changes`); bytes of two versions
never mix, because a block's name holds the ETag. It must not know channels; hits are files, and so offload entries.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from pvblob.blobs.target import InvalidTarget, Target, parse_target
from pvblob.http import Body, ByteRange, Content, FileContent, Observed, Request, Response
from pvblob.upstream.attempts import Attempts
from pvblob.upstream.azure import AzureUpstream, with_range
from pvblob.upstream.block_files import BLOCK_BYTES, Label
from pvblob.upstream.blocks import BlockStore
from pvblob.upstream.cached import CachedContent
from pvblob.upstream.downloads import RemoteContent
from pvblob.upstream.failures import GivenUp
from pvblob.upstream.fetching import BlockFetcher, Reading
from pvblob.upstream.forward import answered_fields
from pvblob.upstream.heads import BlobHead, asked_range, bare
from pvblob.upstream.offers import Offers
from pvblob.upstream.readahead import ReadAhead
from pvblob.upstream.transport import NO_BODY
from pvblob.upstream.versions import BlobState, BlobStates, CacheRule, Version

# A read of more blocks is not answered from files at once: it would hold a descriptor for each.
BLOCKS_PER_ANSWER_MAX = 16

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


class CachedAccount:
    """*backend* behind a cache. rules: the first that fits a blob counts.  read_ahead: whether readers are led."""

    def __init__(
        self, backend: AzureUpstream, store: BlockStore, rules: Sequence[CacheRule], *, read_ahead: bool = True
    ) -> None:
        self.backend = backend
        self.store = store
        self.rules = tuple(rules)
        self.states = BlobStates()
        self.fetcher = BlockFetcher(backend.attempts, store)
        self._offers = Offers(backend, store)
        self._ahead = ReadAhead(self.fetcher, store, backend.attempts.budget) if read_ahead else None

    @property
    def account(self) -> str:
        """The account's name, as guests write it."""
        return self.backend.account

    @property
    def attempts(self) -> Attempts:
        """The account's attempts, for its counters."""
        return self.backend.attempts

    async def execute(self, request: Request, body: Body) -> Response:
        """Answer from blocks if *request* is a plain read of a cached blob, else pass it on; see `http.Backend`."""
        try:
            target = parse_target(request.authority, request.target)
        except InvalidTarget:
            return await self.backend.execute(request, body)
        if request.method not in ("GET", "HEAD"):
            return await self._write(request, body, target)
        rule = self._rule_for(target)
        if (
            rule is None
            or request.method != "GET"
            or target.query
            or any(name in request.fields for name in _PASSED_ON)
            or not _echoes(request.fields.get("x-ms-version"))
        ):
            return await self.backend.execute(request, body)
        try:
            response = await self._read(request, target, rule)
        except GivenUp as given_up:
            return given_up.response
        return response if response is not None else await self.backend.execute(request, body)

    def forget_reader(self, reader: int) -> None:
        """Call off what was fetched ahead for *reader* (`Request.reader`), which is gone."""
        if self._ahead is not None:
            self._ahead.forget(reader)

    async def close(self) -> None:
        """End what runs beside requests."""
        await self.fetcher.close()

    def label(self, container: str, blob: bytes) -> Label:
        """Return the label of a blob's blocks."""
        return Label(self.account, container, blob)

    def rule_of(self, container: str, blob: bytes) -> CacheRule | None:
        """Return the rule by which a blob is cached; None: it is not."""
        for rule in self.rules:
            if rule.fits(container, blob):
                return None if rule.mode == "off" else rule
        return None

    def _rule_for(self, target: Target) -> CacheRule | None:
        if target.container is None or target.blob is None:
            return None
        return self.rule_of(target.container, target.blob)

    # ---- writes

    async def _write(self, request: Request, body: Body, target: Target) -> Response:
        states = self._touched_by(target)
        for state in states:
            state.begin_change()
        try:
            return await self.backend.execute(request, body)
        finally:
            for state in states:
                state.end_change()

    def _touched_by(self, target: Target) -> list[BlobState]:
        """Return the states a write to *target* may make old."""
        if target.blob is not None and target.container is not None:
            # Known or not: a read that is under way makes it known.
            return [self.states.of(target.container, target.blob)] if self._rule_for(target) else []
        return self.states.touched_by(target)

    # ---- reads

    async def _read(self, request: Request, target: Target, rule: CacheRule) -> Response | None:
        """Return the answer, or None when the account must be asked. Raises GivenUp."""
        assert target.container is not None
        assert target.blob is not None
        state = self.states.of(target.container, target.blob)
        observed = Observed(state.generation, state.generation.value)
        asked = asked_range(request)
        if state.writing or asked is False:
            return None
        head = await self.head(state, request, rule)
        if head is None or request.fields.get("if-match") not in (None, head.etag):
            return None
        span = None if asked is None else asked.resolve(head.size_bytes)
        if asked is not None and span is None:
            return None
        offset, length = span or (0, head.size_bytes)
        if not length:
            return None
        version = Version(self.label(target.container, target.blob), head)
        content = await self._content(request, version, offset, length)
        if content is None:
            return None
        response = Response(200 if span is None else 206, head.answer_fields(request, span), content)
        if request.wants_offload:
            response.offer = await self._offers.make(request, state, rule, version, observed)
        return response

    async def head(self, state: BlobState, request: Request, rule: CacheRule) -> BlobHead | None:
        """Return the version there is, asking for it when it is not known well enough; None: there is none."""
        if state.is_current(rule):
            return state.head
        async with state.asking:
            if state.is_current(rule):
                return state.head
            changes, known = state.changes, state.head
            asked_at_s = time.monotonic()
            head = await self._ask(request, known)
            if head is not None and state.changes == changes and not state.writing:
                state.learn(head, asked_at_s)
            return head

    async def _ask(self, request: Request, known: BlobHead | None) -> BlobHead | None:
        """Ask the account which version there is; a byte comes along, for only an answer with content tells all."""
        asking = with_range(bare(request), ByteRange(0, 0))
        if known is not None:
            asking.fields.set("if-none-match", known.etag)
        answer = await self.backend.attempts.perform(asking, NO_BODY, inline_max=BLOCK_BYTES)
        answer.drop()
        if known is not None and answer.status == 304:
            return known
        return BlobHead.of(answered_fields(answer.fields)) if answer.status == 206 else None

    async def _content(self, request: Request, version: Version, offset: int, length: int) -> Content | None:
        if length <= (BLOCKS_PER_ANSWER_MAX - 1) * BLOCK_BYTES:
            files = await self.fetcher.files(request, version, self._reading(request, version, offset, length))
            return None if files is None else FileContent(*files)

        async def block(number: int, reading: Reading) -> int | None:
            return await self.fetcher.block(request, version, number, reading)

        async def remote(first: int, size_bytes: int) -> RemoteContent:
            return await self.fetcher.remote(request, version, first, size_bytes)

        def reading(first: int, size_bytes: int) -> Reading:
            return self._reading(request, version, first, size_bytes)

        return CachedContent(offset, length, block, remote, reading)

    def _reading(self, request: Request, version: Version, first: int, size_bytes: int) -> Reading:
        if self._ahead is None:
            return Reading(first, size_bytes)
        return self._ahead.note(request, version, first, size_bytes)


def _echoes(version: str | None) -> bool:
    """Say whether the data plane would answer this x-ms-version too; a strange one is the account's to refuse."""
    return version is None or (version != "" and version.isascii() and version.isprintable())
