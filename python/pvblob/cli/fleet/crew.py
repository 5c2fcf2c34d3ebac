"""The crew process of one path: imports once, forks the clients, holds the start line, reads the counters.

`python -m pvblob.cli.fleet.crew FD` talks over the inherited socket FD: plan in; "standing" out; then a `Measurement`
for each order. It ends, and its clients with it, when the socket closes. A process of its own, so that its parent may
use threads and a terminal, forks stay safe, and a path's environment is its own from the first instruction on.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from mmap import mmap
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pvblob.cli.fleet import latency, wire
from pvblob.cli.fleet.corpus import Corpus
from pvblob.cli.fleet.counters import cpu_s, machine_busy_s
from pvblob.cli.fleet.measurement import Measurement, Order
from pvblob.cli.fleet.member import DEADLINE, Member, Result, Start
from pvblob.cli.fleet.page_cache import drop_page_cache
from pvblob.cli.fleet.workers.contract import Address, Task

# So many clients connect and warm up at once; a thousand at the same moment would time out on a slow machine.
WAVE = 25


class Plan(NamedTuple):
    """What the crew is to do.

    module, class_name: of the worker.  server_pids: whose CPU time is the server's.  other_pids: groups of processes
    whose CPU time is wanted besides.
    """

    module: str
    class_name: str
    address: Address
    corpus: Corpus
    clients: int
    server_pids: list[int]
    other_pids: list[list[int]] = []  # noqa: RUF012  # a NamedTuple's default, never changed

    @classmethod
    def decode(cls, value: list[Any]) -> Plan:
        """Rebuild the plan from its JSON value."""
        module, class_name, address, corpus, *rest = value
        return cls(module, class_name, Address(*address), Corpus(*corpus), *rest)


class CrewFailure(Exception):
    """A client failed; the text is its own."""


class Crew:
    """The forked clients and what they are told."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._start = Start(os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_CLOEXEC), mmap(-1, DEADLINE.size))
        self._links: list[socket.socket] = []

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Fork the clients, and end them on leaving."""
        plan = self._plan
        worker = getattr(import_module(plan.module), plan.class_name)
        gc.collect()
        gc.freeze()  # what was imported is shared by all clients: their collections shall not touch its pages

        def client(link: socket.socket, number: int) -> None:
            Member(link, self._start, worker, plan.address, plan.corpus, number).serve()

        with _children(plan.clients, client) as self._links:
            yield

    def measure(self, order: Order) -> Measurement:
        """Have the order carried out by as many clients as its task names."""
        links = self._links[: order.task.clients]
        for start in range(0, len(links), WAVE):
            for link in links[start : start + WAVE]:
                wire.send(link, order)
            for link in links[start : start + WAVE]:
                _expect(link, "ready")
        if order.cold:
            drop_page_cache(Path(order.cold))
        groups = [self._plan.server_pids, *self._plan.other_pids]
        # Counters before the start: this process may be scheduled late after it.
        before = [*map(cpu_s, groups), machine_busy_s()]
        started_ns = time.monotonic_ns()
        DEADLINE.pack_into(self._start.deadline, 0, started_ns + int(order.seconds * 1e9) if order.seconds else 0)
        os.eventfd_write(self._start.fd, len(links))
        results = [Result(*_expect(link, "result")) for link in links]
        after = [*map(cpu_s, groups), machine_busy_s()]
        server, *others, machine = (now - then for now, then in zip(after, before, strict=True))
        return Measurement.of(
            (max(result.finished_ns for result in results) - started_ns) / 1e9,
            sum(result.requests for result in results),
            order.task.block_bytes,
            (sum(result.cpu_s for result in results), server, machine),
            latency.add(result.latencies for result in results),
            others,
        )

    def leave(self) -> None:
        """Have every client disconnect."""
        for link in self._links:
            wire.send(link, "leave")
        for link in self._links:
            _expect(link, "left")


@contextmanager
def _children(count: int, work: Callable[[socket.socket, int], None]) -> Iterator[list[socket.socket]]:
    """Fork *count* processes that do *work(link, number)*; kill and reap what still runs on leaving."""
    links: list[socket.socket] = []
    pids: list[int] = []
    try:
        for number in range(count):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
            if pid == 0:
                for link in [*links, ours]:
                    link.close()
                _end_after(work, theirs, number)
            theirs.close()
            links.append(ours)
            pids.append(pid)
        yield links
    finally:
        with ExitStack() as stack:
            for link in links:
                stack.callback(link.close)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


def _end_after(work: Callable[[socket.socket, int], None], link: socket.socket, number: int) -> NoReturn:
    """Do the child's work and end without the parent's exit handlers."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work(link, number)
        code = 0
    except BaseException as error:  # whatever it is, the crew must hear of it, and no frame of the parent's may run
        with suppress(OSError):
            wire.send(link, ("failed", f"{type(error).__name__}: {error}"))
    finally:
        os._exit(code)


def _expect(link: socket.socket, wanted: str) -> Any:
    answer = wire.receive(link)
    if answer is None:
        raise CrewFailure("a client process ended without a word")
    kind, value = answer
    if kind != wanted:
        raise CrewFailure(str(value))
    return value


def _serve(parent: socket.socket) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a socket for each client
    crew = Crew(Plan.decode(wire.receive(parent)))
    with crew.standing():
        wire.send(parent, ("standing", None))
        while (order := wire.receive(parent)) is not None:
            if order == "leave":
                crew.leave()
                wire.send(parent, ("left", None))
            else:
                task, *rest = order
                wire.send(parent, ("measured", crew.measure(Order(Task(*task), *rest))))


def main() -> None:
    """Serve the parent on the socket whose descriptor is the first argument."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # runs the `finally` that ends the clients
    with socket.socket(fileno=int(sys.argv[1])) as parent:
        try:
            _serve(parent)
        except Exception as error:
            with suppress(OSError):
                wire.send(parent, ("failed", str(error) or type(error).__name__))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # everything is ended: nothing is left to unwind


if __name__ == "__main__":
    main()
