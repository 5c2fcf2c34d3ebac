"""Cached blobs as offload entries: the data plane's answers are Python's, and end when they may be wrong (issue 5).

"Hits are offload entries, so they run at local speed." Each host here serves an account elsewhere from a small cache.
"""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path
from typing import Any

import pytest

from pvblob.upstream.block_files import BLOCK_BYTES
from pvblob.upstream.cache_commands import CacheCommands
from pvblob.upstream.versions import CacheRule
from tests.faults.buffers import bhttp_request, read_response
from tests.faults.guest import SLOTS
from tests.offload.test_differential import ETAG, LIKELY, VALUES, raw_answers
from tests.upstream.stage import CACHE_BYTES, GUEST_HOST, IMMUTABLE, MakeStage
from tests.upstream.world import Elsewhere
from tests.waiting import until

BLOBS = {"one": 1, "small": 4097, "blocks": 2 * BLOCK_BYTES + 5}


def decoded(answer: tuple[int, int, bytes, bytes]) -> tuple[object, ...]:
    """Return an answer without what is of the moment, and the order of its fields: HEAD's is the account's own."""
    status, length, message, data = answer
    if not length:
        return status, data
    code, fields, content = read_response(message)
    if code >= 400:  # its text has the time in it
        return status, code, fields.get("x-ms-error-code"), data
    for name in ("date", "x-ms-request-id"):
        fields.pop(name, None)
    return status, length, code, fields, content, data


@pytest.mark.parametrize("rule", [IMMUTABLE, CacheRule("con", mode="revalidate", max_age_s=0.3)], ids=lambda r: r.mode)
def test_the_data_plane_answers_byte_for_byte_as_python_does(rule: CacheRule, make_stage: MakeStage) -> None:
    """Design §2: nothing is ever answered from an offload entry that Python would have answered differently."""
    seed = random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    stage = make_stage(rule)

    def write(blob: str) -> None:
        stage.client.put("con", blob, rng.randbytes(BLOBS[blob]), metadata={"lower": str(rng.random())})

    for blob in BLOBS:
        write(blob)
        stage.warm(blob)

    def message() -> bytes:
        blob = rng.choice([*BLOBS, "absent"])
        etag = stage.client.stat("con", blob).etag if blob != "absent" and rng.random() < 0.2 else "0x0"
        names = [rng.choice(LIKELY if rng.random() < 0.8 else list(VALUES)) for _ in range(rng.choice((0, 1, 1, 2)))]
        # Each once: what is there twice may be refused by whoever asks the account, and need not be.
        fields = [(name, rng.choice(VALUES[name]).replace(ETAG, etag)) for name in dict.fromkeys(names)]
        if blob == "blocks":  # more than the raw guest has room for, unless in a range
            first = rng.choice((0, BLOCK_BYTES - 7, 2 * BLOCK_BYTES - 3, 2 * BLOCK_BYTES + 4))
            fields = [pair for pair in fields if pair[0] not in ("range", "x-ms-range")]
            fields.append(("x-ms-range", f"bytes={first}-{first + rng.randrange(20)}"))
        return bhttp_request(rng.choice(("GET", "GET", "HEAD")), f"/con/{blob}", fields, authority=GUEST_HOST)

    offloaded, python = stage.guest(offloaded=True), stage.guest(offloaded=False)
    before = stage.counters()
    for number in range(40):
        batch: list[tuple[bytes, dict[str, Any]]] = [(message(), {}) for _ in range(min(25, SLOTS))]
        for (sent, _), one, other in zip(batch, raw_answers(offloaded, batch), raw_answers(python, batch), strict=True):
            assert decoded(one) == decoded(other), f"seed {seed}, batch {number}: {sent!r}"
        if rng.random() < 0.4:
            write(rng.choice(list(BLOBS)))
        if rng.random() < 0.5:
            stage.host.call(lambda: stage.evict(rng.randrange(3)))
    counted = {name: value - before[name] for name, value in stage.counters().items()}
    assert counted["hits"] > 100, f"nothing was compared: {counted}"
    assert counted["invalidations"] > 3
    assert counted["absent"] > 3, f"no blob was there in part: {counted}"


def test_an_entry_ends_with_its_max_age(make_stage: MakeStage, elsewhere: Elsewhere) -> None:
    stage = make_stage(CacheRule("con", mode="revalidate", max_age_s=1.0))
    stage.client.put("con", "aged", b"old")
    stage.warm("aged")
    assert stage.entries() == {"/con/aged"}
    until(lambda: not stage.entries(), "the entry outlives max_age_s")


def test_a_write_through_the_host_ends_the_entry_before_it_is_answered(make_stage: MakeStage) -> None:
    stage = make_stage(IMMUTABLE)
    for number in range(20):
        content = str(number).encode()
        stage.client.put("con", "written", content)
        for _ in range(5):
            assert stage.client.get("con", "written") == content


def deleted_and_open(directory: Path) -> list[str]:
    """Return the files of a directory that this process has open and that are deleted."""
    paths = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            paths.append(str(path.readlink()))
    return [path for path in paths if path.startswith(str(directory)) and path.endswith(" (deleted)")]


def test_dropping_and_evicting_end_the_entry_and_free_the_disk(make_stage: MakeStage, tmp_path: Path) -> None:
    stage = make_stage(IMMUTABLE)
    stage.client.put("con", "dropped", os.urandom(BLOCK_BYTES + 1))
    stage.warm("dropped")
    assert stage.entries() == {"/con/dropped"}

    async def drop() -> list[dict[str, Any]]:
        request = {"container": "con", "prefix": "dropped", "exact": True}
        return [event async for event in CacheCommands(stage.accounts).drop(request)]

    assert stage.run(drop())[0]["blocks"] == 2
    assert not stage.entries()
    until(lambda: not len(stage.store.lending), "a dropped block is still held")
    stage.warm("dropped")
    assert stage.entries() == {"/con/dropped"}
    for number in range(12):  # 96 MiB of other data
        stage.client.put("con", f"other{number}", bytes(2 * BLOCK_BYTES))
        for _ in range(3):
            stage.client.get("con", f"other{number}")
    (lent,) = (lent for (label, _), lent in stage.store.lending._versions.items() if label.blob == b"dropped")
    assert not lent.names, "an evicted block is still answered from"
    assert len([path for path in stage.store.directory.iterdir() if len(path.name) == 64]) == len(stage.store)
    assert len(stage.store.lending) <= len(stage.store), "an evicted block is still held"
    assert stage.store.size_bytes <= CACHE_BYTES
    until(lambda: not deleted_and_open(stage.store.directory), "what is gone still takes up the disk")


def test_a_blob_that_only_the_data_plane_reads_is_not_evicted_as_unused(make_stage: MakeStage) -> None:
    """Nobody tells the cache of the data plane's hits: what is lent is spared, and offered again while it is read."""
    stage = make_stage(IMMUTABLE)
    hot = os.urandom(BLOCK_BYTES)
    stage.client.put("con", "hot", hot)
    stage.warm("hot")
    for number in range(20):
        stage.client.put("con", f"scan{number}", bytes(BLOCK_BYTES))
        stage.client.get("con", f"scan{number}")
        for _ in range(8):
            assert stage.client.get("con", "hot", offset=number, length=100) == hot[number : number + 100]
    misses = stage.store.tallies.total()["misses"]
    assert stage.client.get("con", "hot") == hot
    assert stage.store.tallies.total()["misses"] == misses, "what was read all the time was evicted"
    assert stage.counters()["hits"] > 60


def test_bytes_of_an_evicted_block_stay_until_its_last_reader_is_gone(make_stage: MakeStage) -> None:
    """Design §7: extents are reference-counted; none is reused while a read can still touch it."""
    stage = make_stage(IMMUTABLE, stallable=True)
    data = os.urandom(8192)
    stage.client.put("con", "read", data)
    stage.warm("read")
    (path,) = (path for path in stage.store.directory.iterdir() if len(path.name) == 64)
    fd = os.open(path, os.O_RDONLY)
    engine = stage.host.host.engine
    guest = stage.guest(offloaded=True)
    engine.stall(fd)
    message = bhttp_request("GET", "/con/read", [("x-ms-range", "bytes=0-4095")], authority=GUEST_HOST)
    guest.put(guest.request(1, message))
    until(lambda: engine.stalled_reads > 0, "the read did not begin")
    stage.host.call(stage.store.drop)
    stage.client.put("con", "read", b"new")
    for number in range(4):
        stage.client.put("con", f"more{number}", os.urandom(BLOCK_BYTES))
        stage.client.get("con", f"more{number}")
    assert not path.exists()
    engine.resume()
    assert guest.completion()[1] == 0
    assert bytes(guest.memory[guest.place(0) :][:4096]) == data[:4096]
    os.close(fd)
    assert stage.client.get("con", "read") == b"new"


def test_a_file_that_somebody_changed_is_soon_answered_from_no_more(make_stage: MakeStage) -> None:
    """Issue 5, chaos: cache file corrupted, under an entry that does not ask Python."""
    stage = make_stage(IMMUTABLE)
    data = os.urandom(100_000)
    stage.client.put("con", "damaged", data)
    stage.warm("damaged")
    (path,) = (path for path in stage.store.directory.iterdir() if len(path.name) == 64)
    with path.open("r+b") as file:
        file.write(b"damage")
    until(lambda: not len(stage.store.lending), "a changed file is still answered from")
    assert stage.client.get("con", "damaged") == data
    assert stage.store.tallies.total()["damaged"] == 1
