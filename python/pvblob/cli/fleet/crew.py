"""The crew process: imports once, forks the writers and then the clients, holds the start line, reads the counters.

`python -m pvblob.cli.fleet.crew FD` talks over the inherited socket FD: plan in; ("written", n) for each blob and
("standing", checksums known) out; then one `Measurement` for each order. It ends, and its clients with it, when the
socket closes. A process of its own, so that its parent may use threads and a terminal, and forks stay safe.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pvblob.cli.fleet import wire
from pvblob.cli.fleet.corpus import CONTAINER, Corpus, checksums, name
from pvblob.cli.fleet.counters import cpu_s, machine_busy_s
from pvblob.cli.fleet.member import Member, Order, Result
from pvblob.cli.fleet.readers import PATHS, Site

WRITERS_MAX = 4


class Plan(NamedTuple):
    """What the crew is to do. files: directory that gets the blobs as files too, for nginx; "" for none.

    server_pids: for each server name, the processes whose CPU time is the server's.
    """

    site: Site
    corpus: Corpus
    clients: int
    paths: list[str]
    files: str
    server_pids: dict[str, list[int]]

    @classmethod
    def decode(cls, value: list[Any]) -> Plan:
        """Rebuild the plan from its JSON value."""
        site, corpus, *rest = value
        return cls(Site(*site), Corpus(*corpus), *rest)


class Measurement(NamedTuple):
    """One path in one round, from the start line to the last byte of the slowest client."""

    path: str
    seconds: float
    size_bytes: int
    client_cpu_s: float
    server_cpu_s: float
    machine_cpu_s: float


class CrewFailure(Exception):
    """A client failed; the text is its own."""


class Crew:
    """The forked clients and what they are told."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._start_fd = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_CLOEXEC)
        self._links: list[socket.socket] = []
        self._checksums: list[int] = []

    def write_blobs(self, on_written: Callable[[int], None]) -> None:
        """Write every blob through the channel from a few processes; keep the checksums of their ranges."""
        plan = self._plan
        count = min(WRITERS_MAX, os.cpu_count() or 1, plan.corpus.blob_count)
        found: dict[int, list[int]] = {}

        def writer(link: socket.socket, number: int) -> None:
            _write_share(link, plan, range(number, plan.corpus.blob_count, count))

        with _children(count, writer) as links:
            for number in range(plan.corpus.blob_count):
                kind, value = _answer(links[number % count])
                if kind != "written":
                    raise CrewFailure(str(value))
                found[number] = value
                on_written(len(found))
        self._checksums = [checksum for number in sorted(found) for checksum in found[number]]

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Fork the clients, and end them on leaving."""
        plan = self._plan
        for path in plan.paths:
            PATHS[path].reader.prepare()
        gc.collect()
        gc.freeze()  # what was imported is shared by all clients: their collections shall not touch its pages

        def client(link: socket.socket, _number: int) -> None:
            Member(link, self._start_fd, plan.site, plan.corpus).serve()

        with _children(plan.clients, client) as self._links:
            yield

    def measure(self, path: str, round_number: int, *, verify: bool) -> Measurement:
        """Let every client read its share over *path*; return what it took."""
        shares = self._shares(round_number)
        for link, ranges in zip(self._links, shares, strict=True):
            wire.send(link, Order(path, ranges, [self._checksums[index] for index in ranges], verify))
        for link in self._links:
            _expect(link, "ready")
        pids = self._plan.server_pids[PATHS[path].server]
        # Counters before the start: this process may be scheduled late after it.
        server_before, machine_before, started_s = cpu_s(pids), machine_busy_s(), time.monotonic()
        os.eventfd_write(self._start_fd, len(self._links))
        results = [Result(*_expect(link, "result")) for link in self._links]
        server_after, machine_after = cpu_s(pids), machine_busy_s()
        return Measurement(
            path,
            max(result.finished_s for result in results) - started_s,
            sum(result.size_bytes for result in results),
            sum(result.cpu_s for result in results),
            server_after - server_before,
            machine_after - machine_before,
        )

    def _shares(self, round_number: int) -> list[list[int]]:
        """Cut the round's order into one share for each client; together they hold every range at least once."""
        order = self._plan.corpus.order(round_number)
        clients = self._plan.clients
        share = -(-len(order) // clients)
        return [[order[(client * share + turn) % len(order)] for turn in range(share)] for client in range(clients)]


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
        for link in links:
            link.close()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _end_after(work: Callable[[socket.socket, int], None], link: socket.socket, number: int) -> NoReturn:
    """Do the child's work and end without the parent's exit handlers."""
    code = 1
    try:
        work(link, number)
        code = 0
    except BaseException as error:  # whatever it is, the crew must hear of it, and no frame of the parent's may run
        with suppress(OSError):
            wire.send(link, ("failed", f"{type(error).__name__}: {error}"))
    finally:
        os._exit(code)


def _write_share(link: socket.socket, plan: Plan, blobs: range) -> None:
    from pvblob import Client

    with Client.connect(plan.site.socket, timeout_s=120.0) as client:
        for blob in blobs:
            content = plan.corpus.content(blob)
            client.put(CONTAINER, name(blob), content)
            if plan.files:
                Path(plan.files, name(blob)).write_bytes(content)
            wire.send(link, ("written", checksums(content, plan.corpus.range_bytes)))


def _answer(link: socket.socket) -> tuple[str, Any]:
    answer = wire.receive(link)
    if answer is None:
        raise CrewFailure("a client process ended without a word")
    kind, value = answer
    return kind, value


def _expect(link: socket.socket, wanted: str) -> Any:
    kind, value = _answer(link)
    if kind != wanted:
        raise CrewFailure(str(value))
    return value


def _serve(parent: socket.socket) -> None:
    crew_plan = Plan.decode(wire.receive(parent))
    crew = Crew(crew_plan)
    from pvblob import Client

    with Client.connect(crew_plan.site.socket) as client:
        client.create_container(CONTAINER, exist_ok=True)
    crew.write_blobs(lambda count: wire.send(parent, ("written", count)))
    with crew.standing():
        wire.send(parent, ("standing", None))
        while (order := wire.receive(parent)) is not None:
            path, round_number, verify = order
            wire.send(parent, ("measured", crew.measure(path, round_number, verify=verify)))


def main() -> None:
    """Serve the parent on the socket whose descriptor is the first argument."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # runs the `finally` that ends the clients
    with socket.socket(fileno=int(sys.argv[1])) as parent:
        try:
            _serve(parent)
        except Exception as error:
            with suppress(OSError):
                wire.send(parent, ("failed", str(error) or type(error).__name__))


if __name__ == "__main__":
    main()
