"""What the benchmark computes itself: buckets, quantiles, medians, places, checksums, memory maps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvblob.cli.fleet import latency
from pvblob.cli.fleet.corpus import PAGE_BYTES, Checker, Corpus, checksums
from pvblob.cli.fleet.measurement import Measurement
from pvblob.cli.fleet.member import _in_runs, _work, _work_on_many
from pvblob.cli.fleet.workers.channel import Copied
from pvblob.cli.fleet.workers.contract import Address, Task, Worker
from pvblob.cli.scenarios.rows import condense
from pvblob.cli.scenarios.scale import Memory, memory_of

GIB = 1 << 30


@pytest.mark.parametrize(
    ("latency_ns", "bucket"),
    # The same vector stands in crates/limit/src/histogram.rs: counts of both sides are added up.
    [(0, 0), (1, 1), (127, 127), (128, 128), (129, 128), (255, 191), (256, 192), (1000, 317), (1_000_000, 954)],
)
def test_buckets_are_those_of_the_limit_program(latency_ns: int, bucket: int) -> None:
    assert latency.bucket(latency_ns) == bucket


def test_the_middle_of_a_bucket_is_within_one_percent_of_what_fell_into_it() -> None:
    for latency_ns in (1, 90, 130, 999, 4_096, 77_777, 123_456_789, 5_000_000_000):
        assert latency.middle_ns(latency.bucket(latency_ns)) == pytest.approx(latency_ns, rel=0.01, abs=0.5)


def test_quantiles_of_counts_are_those_of_the_latencies() -> None:
    source = random.Random(7)
    latencies = [int(source.lognormvariate(10, 1)) for _ in range(10_001)]
    shares = [latency.count(latencies[:3000]), latency.count(latencies[3000:])]
    together = latency.add(shares)
    assert together == latency.count(latencies)
    for share in (0.5, 0.99):
        exact = sorted(latencies)[int(share * 10_000)] / 1000
        assert latency.quantile_us(together, share) == pytest.approx(exact, rel=0.02)


def test_no_latency_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="no latency"):
        latency.quantile_us([], 0.5)


def one(seconds: float, requests: int = 256) -> Measurement:
    return Measurement.of(
        seconds, requests, 4 << 20, (0.5, 0.25, 1.5), [(latency.bucket(int(seconds * 1e9)), requests)]
    )


def test_a_row_has_medians_and_the_spread_of_what_the_scenario_is_about() -> None:
    figures = condense([one(1.0), one(0.25), one(0.5)], "gib_per_s")
    assert (figures["min"], figures["gib_per_s"], figures["max"]) == (1.0, 2.0, 4.0)
    assert figures["requests_per_s"] == 512
    assert figures["repeats"] == 3
    assert figures["p50_us"] == pytest.approx(500_000, rel=0.01)
    assert (figures["client_cpu_s_per_gib"], figures["host_cpu_s_per_gib"]) == (0.5, 0.25)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    made = Corpus(1, 3, 16 * PAGE_BYTES, str(tmp_path / "checksums"))
    sums = [value for blob in range(3) for value in checksums(made.content(blob))]
    Path(made.checksums).write_bytes(b"".join(value.to_bytes(4, "little") for value in sums))
    return made


def test_shares_hold_every_range_and_one_round_is_unlike_the_next(corpus: Corpus) -> None:
    everything = {corpus.place(index, PAGE_BYTES) for index in range(48)}
    shares = [corpus.share(PAGE_BYTES, 5, number, turn="round 0") for number in range(5)]
    assert {place for share in shares for place in share} == everything
    assert len({len(share) for share in shares}) == 1, "one client would read more than another"
    assert shares[0] != corpus.share(PAGE_BYTES, 5, 0, turn="round 1")
    assert shares[0] == corpus.share(PAGE_BYTES, 5, 0, turn="round 0"), "paths would read different places"


def test_a_sample_has_no_place_twice(corpus: Corpus) -> None:
    places = corpus.sample(PAGE_BYTES, 1000, turn="x")
    assert len(places) == len(set(places)) == 48
    assert len(corpus.sample(PAGE_BYTES, 10, turn="x")) == 10


def test_runs_are_of_one_blob_each() -> None:
    places = [(number % 3, number) for number in range(10)]
    runs = _in_runs(places, 4)
    assert runs == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (1, 6), (1, 7)]


def test_a_checker_accepts_what_was_generated_and_names_the_byte_that_differs(corpus: Corpus) -> None:
    checker = Checker(corpus)
    content = bytearray(corpus.content(2))
    checker.check(content[PAGE_BYTES:], 2, PAGE_BYTES)
    content[5 * PAGE_BYTES + 17] ^= 1
    with pytest.raises(ValueError, match=f"blob 2 at byte {5 * PAGE_BYTES}:"):
        checker.check(content, 2, 0)
    with pytest.raises(ValueError, match="blob 1 at byte 0:"):
        checker.check(corpus.content(2), 1, 0)


SMAPS = """\
55d0c0000000-55d0c0021000 rw-p 00000000 00:00 0                          [heap]
Rss:                 100 kB
Private_Dirty:        90 kB
7f0000000000-7f0000400000 rw-s 00000000 00:01 1027                       /memfd:pvblob-lent (deleted)
Rss:                  64 kB
Private_Dirty:        64 kB
7f0000400000-7f0000401000 rw-s 00000000 00:01 1028                       /memfd:pvblob-host-page (deleted)
Rss:                   4 kB
Private_Dirty:         4 kB
7f0000500000-7f0000600000 rw-p 00000000 00:00 0
Rss:                   8 kB
Private_Dirty:         8 kB
"""


def test_lent_memory_is_not_the_hosts_own() -> None:
    assert memory_of(SMAPS) == Memory(private=(90 + 4 + 8) << 10, lent=64 << 10)


def test_the_memory_of_a_real_process_adds_up() -> None:
    own = memory_of(Path("/proc/self/smaps").read_text("utf-8"))
    rollup = Path("/proc/self/smaps_rollup").read_text("utf-8")
    dirty = int(next(line for line in rollup.splitlines() if line.startswith("Private_Dirty:")).split()[1]) << 10
    assert own.private == pytest.approx(dirty, rel=0.2)


def test_workers_say_when_they_cannot_have_many_in_flight() -> None:
    with pytest.raises(NotImplementedError, match="one request in flight"):
        super(Copied, Copied.__new__(Copied)).many(iter([]))


class Echo(Worker):
    """A worker whose requests are done at once, in runs."""

    def many(self, places: Iterator[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
        yield from ((position, b"") for position, _ in enumerate(places))


def test_a_client_that_starts_after_the_deadline_still_does_a_request() -> None:
    worker = Echo(Address("files"), Task(1, PAGE_BYTES, 4, 1, PAGE_BYTES), 0)
    result = _work_on_many(worker, [(0, 0)], deadline_ns=1)
    assert result.requests == sum(times for _, times in result.latencies) == 1
    assert _work([(lambda _offset: None, 0)] * 3, deadline_ns=1).requests == 1
