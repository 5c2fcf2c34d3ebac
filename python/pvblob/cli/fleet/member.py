"""One client process: waits for orders, checks or warms up, waits at the start line, works, reports.

crew ──order──▶ member ──"ready"──▶ crew ──start──▶ all members at once ──result──▶ crew. The crew's end of the socket
closing is the order to end. A member imports nothing: everything was imported before the fork.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from mmap import mmap
from time import monotonic_ns
from typing import Any, NamedTuple

from pvblob.cli.fleet import latency, wire
from pvblob.cli.fleet.corpus import Checker, Corpus
from pvblob.cli.fleet.counters import own_cpu_s
from pvblob.cli.fleet.measurement import Order
from pvblob.cli.fleet.workers.contract import Address, Call, Task, Worker, WritingWorker

# How many places all clients together visit before they begin again: of 4 KiB, 256 MiB, more than any cache but one of
# pages; drawing more would take longer than reading them.
PLACES_MAX = 65536
PLACES_MIN = 1024
# Small ranges are too many to check them all: each client checks this many.
CHECKED_PLACES = 256
CHECK_ALL_BYTES_MIN = 1 << 20
DEADLINE = struct.Struct("q")  # in shared memory, CLOCK_MONOTONIC in ns; 0 is none


class Result(NamedTuple):
    """What one client did. finished_ns: CLOCK_MONOTONIC of its last byte; latencies: counts in buckets."""

    finished_ns: int
    cpu_s: float
    requests: int
    latencies: list[tuple[int, int]]


class Start(NamedTuple):
    """The start line: an eventfd that hands out one start to each client, and shared memory with their deadline."""

    fd: int
    deadline: mmap

    def wait(self, orders: socket.socket) -> int:
        """Wait for the start; return the deadline. Ends the process when the crew is gone."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(orders, select.POLLRDHUP)
        if any(fd != self.fd for fd, _ in poll.poll()):
            os._exit(1)  # nobody will start us
        os.eventfd_read(self.fd)
        deadline: int = DEADLINE.unpack_from(self.deadline)[0]
        return deadline


class Member:
    """The loop of one client process."""

    def __init__(
        self,
        orders: socket.socket,
        start: Start,
        worker: type[Worker],
        address: Address,
        corpus: Corpus,
        number: int,
    ) -> None:
        self._orders = orders
        self._start = start
        self._kind = worker
        self._address = address
        self._corpus = corpus
        self._number = number
        self._worker: Worker | None = None

    def serve(self) -> None:
        """Carry out orders until the crew is gone."""
        while (order := wire.receive(self._orders)) is not None:
            wire.send(self._orders, self._obey(order))

    def _obey(self, order: Any) -> tuple[str, Any]:
        try:
            if order == "leave":
                self._leave()
                return "left", None
            task, *rest = order
            return "result", self._carry_out(Order(Task(*task), *rest))
        except Exception as error:
            return "failed", f"{type(error).__name__}: {error}"

    def _carry_out(self, order: Order) -> Result:
        worker = self._at_work(order.task)
        calls, places = worker.calls(), self._places(worker, order)
        self._check_reads(worker, calls, places, order)
        pairs = [(calls[slot], offset) for slot, offset in places]
        gc.collect()
        wire.send(self._orders, ("ready", None))
        deadline_ns = self._start.wait(self._orders)
        if order.task.in_flight > 1:
            result = _work_on_many(worker, places, deadline_ns)
        else:
            result = _work(pairs if order.seconds == 0 or order.way else cycle(pairs), deadline_ns)
        if isinstance(worker, WritingWorker) and order.read_back:
            worker.check_written()
        return result

    def _at_work(self, task: Task) -> Worker:
        """Return the worker for *task*, connected anew when it is another one than before."""
        if self._worker is None or self._worker.task != task:
            self._leave()
            self._worker = self._kind(self._address, task, self._number)
        return self._worker

    def _leave(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _places(self, worker: Worker, order: Order) -> list[tuple[int, int]]:
        """Return (slot, offset) of each request, in order."""
        task = order.task
        if isinstance(worker, WritingWorker):
            return [(slot, 0) for slot in range(worker.SLOTS)]
        if order.way:
            blob = self._number if order.way == "own" else 0
            return [(blob, offset) for offset in range(0, task.blob_bytes, task.block_bytes)]
        if order.seconds == 0:
            return self._corpus.share(task.block_bytes, task.clients, self._number, turn=order.turn)
        count = max(PLACES_MIN, PLACES_MAX // task.clients)
        places = self._corpus.sample(task.block_bytes, count, turn=f"{order.turn}/{self._number}")
        return places if task.in_flight == 1 else _in_runs(places, task.in_flight)

    def _check_reads(self, worker: Worker, calls: Sequence[Call], places: list[tuple[int, int]], order: Order) -> None:
        """Compare with the checksums what comes back, which also connects and touches what the reads will use."""
        task = order.task
        if isinstance(worker, WritingWorker):
            worker.warm_up(calls)
            return
        checker = Checker(self._corpus)
        if order.check_all and order.way == "own":
            checked = places
        elif order.check_all and task.block_bytes >= CHECK_ALL_BYTES_MIN:
            checked = self._corpus.share(task.block_bytes, task.clients, self._number, turn=order.turn)
        else:
            checked = places[: CHECKED_PLACES if order.check_all else 1]
        for slot, offset in checked:
            content = worker.content(calls[slot](offset))
            if content is not None:
                checker.check(content, slot, offset)
        if task.in_flight > 1:
            checked = places[:CHECKED_PLACES]
            for position, content in worker.many(iter(checked)):
                checker.check(content, *checked[position])


def _in_runs(places: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Return whole runs of *size* places, each in the blob of its first: a call asks for ranges of one object."""
    runs = [places[start : start + size] for start in range(0, len(places) - size + 1, size)]
    return [(run[0][0], offset) for run in runs for _, offset in run]


def _work(pairs: Iterable[tuple[Call, int]], deadline_ns: int) -> Result:
    """Do one request after the other, until there is no more or the deadline has passed: nothing else in here."""
    latencies = array("q")
    record = latencies.append
    cpu_before = own_cpu_s()
    before = monotonic_ns()
    for call, offset in pairs:
        call(offset)
        after = monotonic_ns()
        record(after - before)
        before = after
        if deadline_ns and after >= deadline_ns:
            break
    return Result(before, own_cpu_s() - cpu_before, len(latencies), latency.count(latencies))


def _work_on_many(worker: Worker, places: list[tuple[int, int]], deadline_ns: int) -> Result:
    """Keep several requests in flight until the deadline has passed, then let them end."""
    latencies, began = array("q"), array("q")
    record, begin = latencies.append, began.append

    def taken() -> Iterator[tuple[int, int]]:
        for place in cycle(places):
            now = monotonic_ns()
            if now >= deadline_ns and began:  # a client that starts late still does one, as in `_work`
                return
            begin(now)
            yield place

    cpu_before = own_cpu_s()
    for position, _ in worker.many(taken()):
        record(monotonic_ns() - began[position])
    return Result(monotonic_ns(), own_cpu_s() - cpu_before, len(latencies), latency.count(latencies))
