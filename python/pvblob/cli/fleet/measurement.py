"""What is asked of a path's clients, and what one timed section brought."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pvblob.cli.fleet.latency import Buckets, quantile_us
from pvblob.cli.fleet.workers.contract import Task


class Order(NamedTuple):
    """One timed section.

    turn: names the section, and decides which places are read in which order: the same for every path.  seconds: how
    long; 0 reads every place once, shared out among the clients.  check_all: compare every byte of the corpus before,
    not only a client's first range.  read_back: compare afterwards what was written.  cold: directory whose files leave
    the page cache right before the start, "" for none.  way: which places a client reads: "" takes its share of all of
    them, or keeps drawing; "own" reads the blob of the client's own number from its beginning to its end, "same" the
    first blob; both end there, or after *seconds* if that is sooner and not 0.
    """

    task: Task
    turn: str
    seconds: float
    check_all: bool
    read_back: bool
    cold: str
    way: str = ""


class Measurement(NamedTuple):
    """One section, from the start line to the last byte of the slowest client; all clients together.

    client_cpu_s, server_cpu_s: the processes' own time; machine_cpu_s: all that ran, interrupts included;
    others_cpu_s: of further processes the plan names, group by group.
    """

    seconds: float
    requests: int
    size_bytes: int
    client_cpu_s: float
    server_cpu_s: float
    machine_cpu_s: float
    p50_us: float
    p99_us: float
    others_cpu_s: Sequence[float] = ()

    @classmethod
    def of(
        cls,
        seconds: float,
        requests: int,
        block_bytes: int,
        cpu_s: tuple[float, float, float],
        latencies: Buckets,
        others_cpu_s: Sequence[float] = (),
    ) -> Measurement:
        """Put a measurement together. cpu_s: clients, server, machine."""
        quantiles = quantile_us(latencies, 0.50), quantile_us(latencies, 0.99)
        return cls(seconds, requests, requests * block_bytes, *cpu_s, *quantiles, others_cpu_s)
