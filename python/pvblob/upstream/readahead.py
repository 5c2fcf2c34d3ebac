"""Fetches the next blocks before a reader asks for them, when it reads a blob from front to back.

A reader (one channel) may read a blob at several places at once; each place is a stream. A read that continues a
stream has the blocks behind it fetched, one at first, twice as many with every block the stream enters, BLOCKS_MAX at
most for each reader that goes through the blob in order: all of them will come by. A stream that is not continued
while its reader reads the blob elsewhere is dropped, and with the reader all of its streams; what is on its way for
them is called off. It never takes what others wait for: it begins a fetch only when the account has a connection to
spare, and no more than half of what the guest's quota lets it keep.

Of blocks that are lent to the data plane it learns of the first read only, whoever's that is. So a stream may go on
where the next block begins, or anywhere before what was asked for ahead of it, and a reader that comes by where the
foremost of a version's readers is goes on with what that one knows.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from pvblob.http import Request
from pvblob.upstream.block_files import BLOCK_BYTES, Label
from pvblob.upstream.blocks import BlockStore
from pvblob.upstream.budget import Budget
from pvblob.upstream.fetching import BlockFetcher, Reading
from pvblob.upstream.versions import Version

BLOCKS_MAX = 8
STREAMS_MAX = 8  # of one reader in one blob
ELSEWHERE_MAX = 16  # reads elsewhere in the blob after which a stream is given up
PLACES_MAX = 4096
# Several requests of one reader that are under way at once arrive in any order.
_SLACK = 4


@dataclass(slots=True)
class _Stream:
    """Where the next read is expected; window: blocks to have ahead; reached: the first block not asked for ahead."""

    next: int
    window: int = 0
    block: int = -1
    reached: int = 0
    elsewhere: int = 0
    ahead: set[int] = field(default_factory=set)

    def takes(self, first: int, size_bytes: int, *, is_lent: bool) -> bool:
        """Say whether a read continues this stream. is_lent: the data plane may have answered those in between."""
        slack = _SLACK * size_bytes
        if self.next == first or (self.window > 0 and abs(first - self.next) <= slack):
            return True
        following = -(-self.next // BLOCK_BYTES) * BLOCK_BYTES
        enters = following - size_bytes < first <= following + slack
        return is_lent and (enters or (self.window > 0 and self.next <= first <= self.reached * BLOCK_BYTES))


@dataclass(slots=True)
class _Place:
    """One reader in one version of a blob. goes_on: it reads in order, and is not at the end yet."""

    version: Version
    streams: list[_Stream] = field(default_factory=list)
    goes_on: bool = False

    @property
    def of(self) -> tuple[Label, str]:
        """The version, as it is counted."""
        return self.version.label, self.version.head.etag


class ReadAhead:
    """Reads ahead for the readers of one account."""

    def __init__(self, fetcher: BlockFetcher, store: BlockStore, budget: Budget) -> None:
        self._fetcher = fetcher
        self._store = store
        self._budget = budget
        self._places: OrderedDict[tuple[int, Label, str], _Place] = OrderedDict()
        self._readers: Counter[tuple[Label, str]] = Counter()  # of a version, those that go on
        self._foremost: dict[tuple[Label, str], _Stream] = {}  # of a version that has such readers
        self._in_flight = 0

    def note(self, request: Request, version: Version, first: int, size_bytes: int) -> Reading:
        """Take note of a read before it is executed, and fetch what will be read next."""
        key = request.reader, version.label, version.head.etag
        place = self._places.pop(key, None) or _Place(version)
        self._places[key] = place
        while len(self._places) > PLACES_MAX:
            self._drop(self._places.popitem(last=False)[1])
        is_lent = self._store.lending.is_lent((version.label, version.head.etag))
        takers = (stream for stream in place.streams if stream.takes(first, size_bytes, is_lent=is_lent))
        stream = next(takers, None)
        self._age(place, stream)
        if stream is None and is_lent:
            stream = self._follow(place, first, size_bytes)
        if stream is None:
            place.streams.append(_Stream(first + size_bytes))
            return Reading(first, size_bytes)
        stream.next = max(stream.next, first + size_bytes)
        self._count(place, goes_on=stream.next < version.head.size_bytes)
        self._advance(request, place, stream, first, size_bytes)
        return Reading(first, size_bytes, goes_on=True)

    def forget(self, reader: int) -> None:
        """The reader is gone."""
        for key in [key for key in self._places if key[0] == reader]:
            self._drop(self._places.pop(key))

    def _follow(self, place: _Place, first: int, size_bytes: int) -> _Stream | None:
        """Return a stream that goes on with what is known of the version's foremost one, if the read is in its wake."""
        foremost = self._foremost.get(place.of)
        if foremost is None or not foremost.block - BLOCKS_MAX <= first // BLOCK_BYTES <= foremost.reached:
            return None
        stream = _Stream(first + size_bytes, foremost.window, reached=foremost.reached)
        place.streams.append(stream)
        return stream

    def _age(self, place: _Place, continued: _Stream | None) -> None:
        for stream in place.streams:
            stream.elsewhere = 0 if stream is continued else stream.elsewhere + 1
        keep = STREAMS_MAX if continued is not None else STREAMS_MAX - 1
        kept = [stream for stream in place.streams if stream.elsewhere < ELSEWHERE_MAX]
        kept = sorted(kept, key=lambda stream: stream.elsewhere)[:keep]
        for stream in place.streams:
            if stream not in kept:
                self._call_off(place.version, stream)
        place.streams = kept

    def _count(self, place: _Place, *, goes_on: bool) -> None:
        if place.goes_on != goes_on:
            place.goes_on = goes_on
            self._readers[place.of] += 1 if goes_on else -1
            if not self._readers[place.of]:
                del self._readers[place.of]
                self._foremost.pop(place.of, None)

    def _advance(self, request: Request, place: _Place, stream: _Stream, first: int, size_bytes: int) -> None:
        version, block = place.version, (first + size_bytes - 1) // BLOCK_BYTES
        if block > stream.block:
            stream.window = min(BLOCKS_MAX * max(1, self._readers[place.of]), max(1, 2 * stream.window))
            stream.block = block
        foremost = self._foremost.get(place.of)
        if place.goes_on and (foremost is None or foremost.block <= block):
            self._foremost[place.of] = stream
        begin = max(stream.reached, block + 1)
        stream.ahead = {number for number in stream.ahead if number > block}
        for number in range(begin, min(version.blocks, block + 1 + stream.window)):
            if not self._may_fetch(request, version, len(stream.ahead)):
                return
            task = self._fetcher.ahead(request, version, number)
            stream.reached = number + 1
            if task is not None:
                stream.ahead.add(number)
                self._in_flight += 1
                task.add_done_callback(self._ended)

    def _may_fetch(self, request: Request, version: Version, ahead: int) -> bool:
        size_bytes = (ahead + 1) * BLOCK_BYTES
        bound = self._store.guest_bytes_max or self._store.bytes_max
        return size_bytes <= bound // 2 and self._in_flight < self._budget.spare

    def _ended(self, _task: asyncio.Task[bool]) -> None:
        self._in_flight -= 1

    def _drop(self, place: _Place) -> None:
        self._count(place, goes_on=False)
        for stream in place.streams:
            self._call_off(place.version, stream)

    def _call_off(self, version: Version, stream: _Stream) -> None:
        for number in stream.ahead:
            self._fetcher.call_off(version, number)
