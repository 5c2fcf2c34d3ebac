"""One client process: waits for orders, verifies or warms up, waits at the start line, reads, reports.

crew ──order──▶ member ──"ready"──▶ crew ──start──▶ all members at once ──result──▶ crew. The crew's end of the socket
closing is the order to end. A member imports nothing: everything was imported before the fork.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import time
import zlib
from typing import Any, NamedTuple

from pvblob.cli.fleet import wire
from pvblob.cli.fleet.corpus import Corpus
from pvblob.cli.fleet.counters import own_cpu_s
from pvblob.cli.fleet.readers import PATHS, Reader, Site


class Order(NamedTuple):
    """One timed section. ranges: what this client reads; checksums: of those.  verify: check them all before."""

    path: str
    ranges: list[int]
    checksums: list[int]
    verify: bool


class Result(NamedTuple):
    """What one client did. finished_s: CLOCK_MONOTONIC of its last byte."""

    finished_s: float
    cpu_s: float
    size_bytes: int


class Member:
    """The loop of one client process. start_fd: an eventfd that hands out one start to each client."""

    def __init__(self, orders: socket.socket, start_fd: int, site: Site, corpus: Corpus) -> None:
        self._orders = orders
        self._start_fd = start_fd
        self._site = site
        self._corpus = corpus
        self._readers: dict[str, Reader] = {}

    def serve(self) -> None:
        """Carry out orders until the crew is gone."""
        while (order := wire.receive(self._orders)) is not None:
            wire.send(self._orders, self._carry_out(Order(*order)))

    def _carry_out(self, order: Order) -> tuple[str, Any]:
        try:
            reader = self._readers.get(order.path) or self._readers.setdefault(
                order.path, PATHS[order.path].reader(self._site)
            )
            for index, checksum in zip(order.ranges, order.checksums, strict=True):
                self._check(reader, order.path, index, checksum)
                if not order.verify:
                    break
            gc.collect()
            wire.send(self._orders, ("ready", None))
            self._wait_for_start()
            return "result", self._read(reader, order.ranges)
        except Exception as error:
            return "failed", f"{order.path}: {type(error).__name__}: {error}"

    def _check(self, reader: Reader, path: str, index: int, checksum: int) -> None:
        found = zlib.crc32(reader.read(*self._corpus.place(index), self._corpus.range_bytes))
        if found != checksum:
            blob, offset = self._corpus.place(index)
            raise ValueError(f"{path}: blob {blob} at byte {offset}: CRC-32 {found:08x}, written {checksum:08x}")

    def _wait_for_start(self) -> None:
        poll = select.poll()
        poll.register(self._start_fd, select.POLLIN)
        poll.register(self._orders, select.POLLRDHUP)
        if any(fd != self._start_fd for fd, _ in poll.poll()):
            os._exit(1)  # the crew is gone: nobody will start us
        os.eventfd_read(self._start_fd)

    def _read(self, reader: Reader, ranges: list[int]) -> Result:
        """The timed section: nothing but reads and the check of their length."""
        corpus, size_bytes, moved = self._corpus, self._corpus.range_bytes, 0
        cpu_before = own_cpu_s()
        for index in ranges:
            blob, offset = corpus.place(index)
            content = reader.read(blob, offset, size_bytes)
            moved += memoryview(content).nbytes
            del content  # its memory serves the next read, on every path
        finished_s = time.monotonic()
        if moved != size_bytes * len(ranges):
            raise ValueError(f"read {moved} bytes instead of {size_bytes * len(ranges)}")
        return Result(finished_s, own_cpu_s() - cpu_before, moved)
