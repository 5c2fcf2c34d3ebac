"""The parent's end of one path's processes: they stand by from the beginning, and are measured when their turn comes.

`Standing` is the crew of a path with its clients, `Limit` the program of crates/limit; both do `measure(order)`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from pvblob.cli.fleet import wire
from pvblob.cli.fleet.corpus import Corpus
from pvblob.cli.fleet.crew import Plan
from pvblob.cli.fleet.failure import ContestFailure
from pvblob.cli.fleet.limit import Limit
from pvblob.cli.fleet.measurement import Measurement, Order
from pvblob.cli.fleet.paths import Path
from pvblob.cli.fleet.servers import stop
from pvblob.cli.fleet.venue import Venue
from pvblob.cli.fleet.workers.contract import Address


class Contestant(Protocol):
    """One path, standing by."""

    path: Path

    def await_standing(self) -> None:
        """Return when its processes are ready for orders. Raises ContestFailure."""
        ...

    def measure(self, order: Order) -> Measurement:
        """Carry out the order. Raises ContestFailure."""
        ...

    def leave(self) -> None:
        """Disconnect every client, and let go of what it holds."""
        ...


class Standing:
    """A crew of Python clients."""

    def __init__(self, path: Path, link: socket.socket) -> None:
        self.path = path
        self._link = link

    def await_standing(self) -> None:
        """Return when the clients stand."""
        self._receive("standing")

    def measure(self, order: Order) -> Measurement:
        """Have the clients carry out the order."""
        wire.send(self._link, order)
        return Measurement(*self._receive("measured"))

    def leave(self) -> None:
        """Have the clients disconnect."""
        wire.send(self._link, "leave")
        self._receive("left")

    def _receive(self, wanted: str) -> Any:
        answer = wire.receive(self._link)
        if answer is None:
            raise ContestFailure(f"{self.path.title}: the crew process ended; its last words are above")
        kind, value = answer
        if kind != wanted:
            raise ContestFailure(f"{self.path.title}: {value}")
        return value


@contextmanager
def contestant(path: Path, venue: Venue, clients: int) -> Iterator[Contestant]:
    """Start the processes of a path, *clients* at most at once; they are ended on leaving."""
    if path.is_limit:
        with Limit.starting(path, venue.corpus, venue.files) as limit:
            yield limit
        return
    server = venue.servers[path.server]
    with crew(path, server.addresses[path.protocol], venue.corpus, clients, [server.pids()]) as standing:
        yield standing


@contextmanager
def crew(path: Path, address: Address, corpus: Corpus, clients: int, pids: Sequence[list[int]]) -> Iterator[Standing]:
    """Start the clients of a path; they are ended on leaving. pids: the server's, and others whose CPU is wanted."""
    server, *others = pids
    plan = Plan(path.module, path.class_name, address, corpus, clients, server, others)
    with _crew(path, plan) as link:
        yield Standing(path, link)


@contextmanager
def _crew(path: Path, plan: Plan) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "pvblob.cli.fleet.crew", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | path.environment,
                start_new_session=True,
                text=True,
            )
        try:
            wire.send(ours, plan)
            yield ours
        finally:
            ours.close()
            stop(process)
