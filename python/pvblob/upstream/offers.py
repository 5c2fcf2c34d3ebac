"""Offers a cached blob to the data plane: from then on reads of it run without Python, as those of local blobs do.

An offer need not wait for the last block: the data plane answers from those that are here, as they come, and leaves
every other read to Python. Invariant: an offer ends when anything it says may be wrong: a write of ours or a newer
version (the state's generation), and the end of `max_age_s`. A block that has to go, or was changed on the disk, is
taken back alone (`lending.py`).
"""

from __future__ import annotations

import asyncio
import time

from pvblob.http import BytesBody, LentContent, Observed, Offer, Request, discard
from pvblob.upstream.azure import AzureUpstream
from pvblob.upstream.blocks import BlockStore
from pvblob.upstream.forward import DEFAULT_VERSION
from pvblob.upstream.heads import head_of, own_pairs
from pvblob.upstream.versions import BlobState, CacheRule, Version

# 4 GiB: descriptors that the host holds for one version.
BLOCKS_PER_OFFER_MAX = 1024


class Offers:
    """Makes offers of blobs of the account behind *backend*, whose blocks are in *store*."""

    def __init__(self, backend: AzureUpstream, store: BlockStore) -> None:
        self._backend = backend
        self._store = store

    async def make(
        self, request: Request, state: BlobState, rule: CacheRule, version: Version, observed: Observed
    ) -> Offer | None:
        """Return the offer of *version*; None when it is too large, or has to be asked for by now."""
        ends_s = None if rule.mode == "immutable" else state.asked_at_s + rule.max_age_s
        if state.head is not version.head or observed.value & 1 or (ends_s is not None and time.monotonic() >= ends_s):
            return None
        if version.blocks > BLOCKS_PER_OFFER_MAX:
            return None
        properties = await self._properties(request, state, version)
        if properties is None:
            return None
        lent = self._store.borrow(version)
        if ends_s is not None:
            # However late that is: an entry of a generation that has moved meanwhile is not installed.
            asyncio.get_running_loop().call_later(max(0.0, ends_s - time.monotonic()), state.expire)
        head = version.head
        return Offer(
            etag=head.etag.strip('"'),
            version=DEFAULT_VERSION,
            whole=head.ready(200, head.pairs),
            part=head.ready(206, head.pairs, part=True),
            head=head.ready(200, properties),
            not_modified=None,
            generations=(observed,),
            content=LentContent(lent.parts, lent.let_go),
        )

    async def _properties(
        self, request: Request, state: BlobState, version: Version
    ) -> tuple[tuple[str, str], ...] | None:
        """Return what HEAD answers of the version; asked for once. None: it does not say, or is being asked for."""
        if state.properties is not None and state.properties[0] == version.head:
            return state.properties[1]
        if state.asks_properties:
            return None
        state.asks_properties = True
        try:
            answer = await self._backend.execute(head_of(request, version.head), BytesBody())
        finally:
            state.asks_properties = False
        discard(answer.content)
        if answer.status != 200 or answer.fields.get("etag") != version.head.etag:
            return None
        state.properties = version.head, own_pairs(answer.fields)
        return state.properties[1]
