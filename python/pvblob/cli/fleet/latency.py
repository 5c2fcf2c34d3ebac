"""Latencies of many requests in little space: counts in buckets of about 1.5 % width, so that processes can add theirs.

The same buckets as crates/limit/src/histogram.rs: below 128 ns one for each nanosecond, above it 64 for each power of
two. A quantile is the middle of its bucket, so it is right to within 0.8 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

SUB_BUCKET_BITS = 6

Buckets = Sequence[tuple[int, int]]
"""Pairs of (bucket, count), for messages between processes."""


def bucket(latency_ns: int) -> int:
    """Return the bucket of a latency."""
    shift = max(0, latency_ns.bit_length() - SUB_BUCKET_BITS - 1)
    return (shift << SUB_BUCKET_BITS) + (latency_ns >> shift)


def middle_ns(number: int) -> float:
    """Return the middle of a bucket's latencies."""
    shift = max(0, (number >> SUB_BUCKET_BITS) - 1)
    lowest = (number - (shift << SUB_BUCKET_BITS)) << shift
    return lowest + ((1 << shift) - 1) / 2


def count(latencies_ns: Iterable[int]) -> list[tuple[int, int]]:
    """Return the latencies as counts in buckets."""
    return sorted(Counter(map(bucket, latencies_ns)).items())


def add(many: Iterable[Buckets]) -> list[tuple[int, int]]:
    """Return the sum of several counts."""
    total: Counter[int] = Counter()
    for buckets in many:
        for number, times in buckets:
            total[number] += times
    return sorted(total.items())


def quantile_us(buckets: Buckets, share: float) -> float:
    """Return the latency in µs that *share* of the requests did not exceed. Raises ValueError when there are none."""
    wanted = share * sum(times for _, times in buckets)
    passed = 0
    for number, times in sorted(buckets):
        passed += times
        if passed >= wanted:
            return middle_ns(number) / 1000
    raise ValueError("no latency was recorded")
