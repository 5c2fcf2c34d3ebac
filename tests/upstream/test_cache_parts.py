"""Blobs that are cached in part: the data plane reads what is here, as it comes and goes (issue 5)."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

from pvblob import Client
from pvblob.client.exchange import Exchange
from pvblob.http import Fields, Request
from pvblob.upstream.block_files import BLOCK_BYTES
from tests.offload.histories import WORD_BYTES, Read, Write, check, count
from tests.upstream.stage import GUEST_HOST, IMMUTABLE, MakeStage, Stage
from tests.upstream.world import ACCOUNT
from tests.waiting import until

PIECE = 1 << 16


def answered(stage: Stage) -> int:
    """Return how many requests entries have answered, at once or once the disk had given what it holds."""
    return stage.counters()["hits"] + stage.counters()["cold"]


def read(stage: Stage, data: bytes, offset: int, length: int = PIECE) -> bool:
    """Read a range of blob `parts`; return whether the data plane answered."""
    before = answered(stage)
    assert stage.client.get("con", "parts", offset=offset, length=length) == data[offset : offset + length]
    return answered(stage) > before


def begun(make_stage: MakeStage, blocks: int, rng: random.Random) -> tuple[Stage, bytes]:
    """Return a stage, and what is in blob `parts`, of which an entry answers the first block."""
    stage, data = make_stage(IMMUTABLE), rng.randbytes(blocks * BLOCK_BYTES)
    stage.client.put("con", "parts", data)
    until(lambda: read(stage, data, 7, 100), "the entry waits for the whole blob")
    return stage, data


def test_what_is_here_is_answered_while_the_rest_is_missing(make_stage: MakeStage) -> None:
    stage, data = begun(make_stage, 4, random.Random(1))
    assert not read(stage, data, 2 * BLOCK_BYTES + 1), "nobody has fetched this block"
    assert read(stage, data, 3 * BLOCK_BYTES - PIECE)
    assert read(stage, data, 9)
    assert not read(stage, data, 2 * BLOCK_BYTES - 1), "a range is answered whole or not at all"
    assert read(stage, data, 2 * BLOCK_BYTES - 1)
    counters = stage.counters()
    assert counters["installs"] == 1, "one entry grows"
    assert counters["absent"] == 2, counters
    assert stage.store.tallies.total()["admitted"] == 3


def test_a_block_that_goes_is_answered_from_no_more_and_the_others_are(make_stage: MakeStage) -> None:
    stage, data = begun(make_stage, 3, random.Random(2))
    for offset in (BLOCK_BYTES, 2 * BLOCK_BYTES):
        read(stage, data, offset)
        assert read(stage, data, offset)
    stage.host.call(lambda: stage.evict(1))
    assert not read(stage, data, BLOCK_BYTES), "its file is gone"
    assert read(stage, data, 0)
    assert read(stage, data, 2 * BLOCK_BYTES)
    assert read(stage, data, BLOCK_BYTES), "it was fetched again"
    assert stage.counters()["installs"] == 1
    assert stage.counters()["invalidations"] == 0


def test_whoever_reads_in_order_finds_the_next_blocks_there_also_where_python_sees_few_of_its_reads(
    make_stage: MakeStage,
) -> None:
    stage, data = begun(make_stage, 7, random.Random(3))
    hits = sum(read(stage, data, offset) for offset in range(0, len(data), PIECE))
    counted = stage.store.tallies.total()
    assert counted["ahead"] >= 4, f"every block was waited for: {counted}"
    assert counted["admitted"] == 7
    assert hits >= 7 * (BLOCK_BYTES // PIECE - 3), "the data plane answers all but the first reads of a block"


def test_another_reader_goes_on_where_the_first_one_is(make_stage: MakeStage) -> None:
    """Each sees some blocks first: the window is the version's, not that of who happens to come first."""
    stage, data = begun(make_stage, 7, random.Random(4))
    with Client.connect(stage.host.socket_path, account=ACCOUNT, timeout_s=30) as other:
        for offset in range(0, len(data), BLOCK_BYTES // 2):
            client = other if offset // BLOCK_BYTES % 2 else stage.client
            span = slice(offset, offset + BLOCK_BYTES // 2)
            assert client.get("con", "parts", offset=offset, length=BLOCK_BYTES // 2) == data[span]
    counted = stage.store.tallies.total()
    assert counted["ahead"] >= 3, f"every block was waited for: {counted}"
    assert counted["admitted"] == 7


def test_one_pass_does_not_spare_a_lent_block_and_readers_beyond_it_do(make_stage: MakeStage) -> None:
    """What is asked for by the data plane alone counts as what Python is asked for does: one pass is no use."""
    stage, data = begun(make_stage, 3, random.Random(5))
    for offset in range(0, len(data), PIECE):
        read(stage, data, offset)
    lending = stage.store.lending
    # The first block was read before, to have the entry installed.
    used = {number for name in lending.names() if lending.is_used(name) for number in [lending._blocks[name][1]]}
    assert used <= {0}, "one reader's pass spares what it read"
    for _ in range(3):
        for offset in (BLOCK_BYTES, 5 * PIECE + BLOCK_BYTES):
            assert read(stage, data, offset)
    used = {number for name in lending.names() if lending.is_used(name) for number in [lending._blocks[name][1]]}
    assert used == {1}


def test_blocks_of_an_earlier_host_are_checked_before_the_data_plane_reads_them(
    make_stage: MakeStage, tmp_path: Path
) -> None:
    stage, data = begun(make_stage, 2, random.Random(6))
    read(stage, data, BLOCK_BYTES)
    until(lambda: read(stage, data, BLOCK_BYTES), "the second block is not lent")
    stage.close()
    (damaged,) = [path for path in (tmp_path / "blocks").iterdir() if _begins(path, data[BLOCK_BYTES:][:64])]
    with damaged.open("r+b") as file:
        file.write(b"damage")
    again = make_stage(IMMUTABLE)
    until(lambda: read(again, data, 0), "the first block is not lent")
    assert not read(again, data, BLOCK_BYTES), "nobody has looked at this block"
    assert again.store.tallies.total()["damaged"] == 1
    assert read(again, data, BLOCK_BYTES)


def _begins(path: Path, first: bytes) -> bool:
    return path.is_file() and path.read_bytes()[: len(first)] == first


class _Register:
    """A blob of two blocks that one thread writes, two read, and one takes blocks of away."""

    SPAN = 2 * WORD_BYTES * 256

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.rng = random.Random(seed)
        self.is_over = threading.Event()
        self.reads: list[Read] = []
        self.writes: list[Write] = []
        self.failures: list[BaseException] = []

    def write(self, count: int) -> None:
        for number in range(1, count + 1):
            data = number.to_bytes(WORD_BYTES) * ((BLOCK_BYTES + (1 << 20)) // WORD_BYTES)
            began_s = time.monotonic()
            etag = self.stage.client.put("con", "register", data).etag
            self.writes.append(Write(number, began_s, time.monotonic(), etag))
            # Until somebody was answered by the data plane, or too long.
            before, ends_s = self.stage.counters()["hits"], time.monotonic() + 0.3
            while self.stage.counters()["hits"] < before + 5 and time.monotonic() < ends_s:
                self.is_over.wait(0.005)

    def read(self, route: str) -> None:
        exchange = Exchange(self.stage.host.socket_path)
        try:
            exchange.connect()
            while not self.is_over.is_set():
                self.reads.extend(self._read(exchange, route))
        finally:
            exchange.close()

    def _read(self, exchange: Exchange, route: str) -> list[Read]:
        target = "/con/register" + ("?timeout=60" if route == "python" else "")
        span = f"bytes={BLOCK_BYTES - self.SPAN // 2}-{BLOCK_BYTES + self.SPAN // 2 - 1}"
        fields = Fields([("x-ms-version", "2021-12-02"), ("x-ms-range", span)])
        began_s = time.monotonic()
        answer = exchange.perform(Request("GET", "https", GUEST_HOST, target, fields))
        ended_s = time.monotonic()
        if answer.status == 404:
            return [Read(None, began_s, ended_s, "", route)]
        assert answer.status == 206, answer
        words = {answer.content[at : at + WORD_BYTES] for at in range(0, len(answer.content), WORD_BYTES)}
        assert len(words) == 1, f"{route}: bytes of {len(words)} writes in one answer"
        return [Read(int.from_bytes(words.pop()), began_s, ended_s, answer.fields.get("etag") or "", route)]

    def evict(self) -> None:
        while not self.is_over.wait(self.rng.random() * 0.02):
            self.stage.host.call(lambda: self.stage.evict(self.rng.randrange(2)))

    def noting(self, work: object, *given: object) -> threading.Thread:
        def run() -> None:
            try:
                work(*given)  # type: ignore[operator]
            except BaseException as failure:
                self.failures.append(failure)
                self.is_over.set()

        thread = threading.Thread(target=run)
        thread.start()
        return thread


def test_reads_across_blocks_that_come_and_go_are_of_the_latest_write(make_stage: MakeStage) -> None:
    """Design §7, for entries in parts: one register in real time, and never bytes of two versions in one answer."""
    stage, seed = make_stage(IMMUTABLE), random.SystemRandom().randrange(1 << 32)
    register = _Register(stage, seed)
    beside = [register.noting(register.read, route) for route in ("offloaded", "offloaded", "python")]
    beside.append(register.noting(register.evict))
    register.noting(register.write, 40).join()
    register.is_over.set()
    for thread in beside:
        thread.join()
    assert not register.failures, (seed, register.failures)
    check(register.writes, register.reads)
    assert count(register.reads, "offloaded") > 5, f"seed {seed}: too few writes were seen to compare anything"
    counters = stage.counters()
    assert counters["hits"] > 20, (seed, counters)
    assert counters["absent"] > 5, (seed, counters)
    assert counters["invalidations"] > 5, (seed, counters)
