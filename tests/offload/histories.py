"""Writers and readers that note when they did what, and the check that one order of all of it explains every read.

Each blob has one writer, which writes the numbers 1, 2, 3 … (or takes the blob away, which is a write of "absent" under
the next number), so the order of writes is known and what is left to check is a single-writer register: a read must
return a write that had begun before the read ended and was not yet replaced by one that ended before the read began,
and a read that begins after another one ended must not return an older write. Times are CLOCK_MONOTONIC, which all
processes share.
"""

from __future__ import annotations

import bisect
import random
import time
from collections.abc import Mapping, Sequence
from multiprocessing.synchronize import Barrier, Event
from typing import NamedTuple

from pvblob.client.client import Client
from pvblob.client.exchange import Exchange
from tests.conftest import rest

WORD_BYTES = 8
SIZES = (8, 4096, 40_000)


class Write(NamedTuple):
    """A write: its number, when it began and ended, the ETag it was given ("" for absent)."""

    number: int
    began_s: float
    ended_s: float
    etag: str


class Read(NamedTuple):
    """A read: the number found (None: absent), when it began and ended, the ETag it came with, and how it was asked."""

    number: int | None
    began_s: float
    ended_s: float
    etag: str
    route: str


def begin_together(start: Barrier, ends: Mapping[str, Event]) -> None:
    """Be one of the processes that begin at *start*. ends: by container; set when its writer is done."""
    global _start, _ends
    _start, _ends = start, ends


_start: Barrier
_ends: Mapping[str, Event]


def write(socket_path: str, container: str, count: int, seed: int) -> list[Write]:
    """Write blob "b" of *container* so many times; now and then delete it, or the container."""
    try:
        return _write(socket_path, container, count, random.Random(seed))
    finally:
        _ends[container].set()


def _write(socket_path: str, container: str, count: int, rng: random.Random) -> list[Write]:
    writes = list[Write]()
    with Client.connect(socket_path, timeout_s=30) as client:
        _start.wait(60)
        for number in range(1, count + 1):
            began_s = time.monotonic()
            kind = rng.random()
            if kind < 0.85:
                etag = client.put(container, "b", number.to_bytes(WORD_BYTES) * (rng.choice(SIZES) // WORD_BYTES)).etag
                writes.append(Write(number, began_s, time.monotonic(), etag))
            elif kind < 0.95:
                client.delete(container, "b", missing_ok=True)
                writes.append(Write(number, began_s, time.monotonic(), ""))
            else:
                client.delete_container(container)
                writes.append(Write(number, began_s, time.monotonic(), ""))
                client.create_container(container)
            if rng.random() < 0.7:  # else readers have no time to get an entry installed
                time.sleep(rng.random() * 0.01)
    return writes


def read(socket_path: str, container: str, route: str) -> list[Read]:
    """Read blob "b" while it is written. route "offloaded": as an entry can answer it; "python": as it cannot."""
    reads = list[Read]()
    target = f"/{container}/b" + ("?timeout=60" if route == "python" else "")
    exchange = Exchange(socket_path)
    try:
        exchange.connect()
        _start.wait(60)
        while not _ends[container].is_set():
            began_s = time.monotonic()
            answer = exchange.perform(rest("GET", target, ("x-ms-version", "2021-12-02")))
            ended_s = time.monotonic()
            if answer.status == 404:
                reads.append(Read(None, began_s, ended_s, "", route))
                continue
            assert answer.status == 200, answer
            words = {answer.content[at : at + WORD_BYTES] for at in range(0, len(answer.content), WORD_BYTES)}
            assert len(words) == 1, f"{route}: bytes of {len(words)} writes in one answer"
            etag = answer.fields.get("etag") or ""
            reads.append(Read(int.from_bytes(words.pop()), began_s, ended_s, etag, route))
    finally:
        exchange.close()
    return reads


def check(writes: Sequence[Write], reads: Sequence[Read]) -> None:
    """Raise AssertionError at the first read that no order explains."""
    begins, ends = [one.began_s for one in writes], [one.ended_s for one in writes]
    absences = [0] + [one.number for one in writes if not one.etag]  # 0: before the first write
    etags = {one.number: one.etag for one in writes}
    settled: list[tuple[float, int]] = []  # (end, the newest number read until then), ascending
    pending: list[tuple[float, int]] = []
    for one in sorted(reads, key=lambda one: one.began_s):
        for end, number in sorted(entry for entry in pending if entry[0] < one.began_s):
            settled.append((end, max(number, settled[-1][1] if settled else 0)))
        pending = [entry for entry in pending if entry[0] >= one.began_s]
        oldest = max(bisect.bisect_left(ends, one.began_s), settled[-1][1] if settled else 0)
        newest = bisect.bisect_left(begins, one.ended_s)
        number = one.number
        if number is None:
            at = bisect.bisect_left(absences, oldest)
            number = absences[at] if at < len(absences) else newest + 1
        else:
            assert etags.get(number) == one.etag, f"{one}: bytes of write {number}, ETag of another"
        assert oldest <= number <= newest, f"{one}: write {number}, but {oldest} to {newest} are possible"
        pending.append((one.ended_s, number))


def count(reads: Sequence[Read], route: str) -> int:
    """How many different writes were seen by reads of *route*."""
    return len({one.number for one in reads if one.route == route})
