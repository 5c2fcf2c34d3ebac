"""What a worker is: one connected client in one process, ready to do one kind of operation again and again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Buffer

Call = Callable[[int], object]
"""One request: takes an offset in bytes (ignored where there is none); returns what `Worker.content` understands."""


class Address(NamedTuple):
    """Where a server is and what it speaks.

    protocol: "channel", "azure" (HTTP), "tls" (the same over TLS), "http" (plain files over HTTP) or "files".
    socket: a host's control socket; url: an HTTP server's; directory: where plain files lie; authorities: a file of
    the certificates that vouch for the server. What a server does not have is "".
    """

    protocol: str
    socket: str = ""
    url: str = ""
    directory: str = ""
    authorities: str = ""


class Task(NamedTuple):
    """What the clients do in a stage.

    clients: how many at once.  block_bytes: of one request.  in_flight: requests of a client at a time.  blobs,
    blob_bytes: what there is to read.
    """

    clients: int
    block_bytes: int
    in_flight: int
    blobs: int
    blob_bytes: int


class Worker:
    """One connected client, made in its process; whatever its module imports was imported before the fork.

    A call raises when its request fails or brings another size than was asked for.
    """

    def __init__(self, address: Address, task: Task, number: int) -> None:
        self.address = address
        self.task = task
        self.number = number

    def calls(self) -> Sequence[Call]:
        """Return the call for each blob of the corpus, or for each blob that is written."""
        raise NotImplementedError

    def content(self, result: object) -> Buffer | None:
        """Return the bytes a call brought, None when it brings none."""
        return memoryview(result)  # type: ignore[arg-type]

    def many(self, places: Iterator[tuple[int, int]]) -> Iterator[tuple[int, Buffer]]:
        """Read all (blob, offset) with several in flight; yield (place number, its bytes) as they come.

        A place is taken from *places* when its request is sent, and numbered in that order. Runs of `in_flight` places
        are of one blob.
        """
        raise NotImplementedError(f"{type(self).__name__} has one request in flight")

    def close(self) -> None:
        """Disconnect."""


class WritingWorker(Worker):
    """A worker that stores blobs of its own, overwriting each in turn."""

    SLOTS = 2

    def __init__(self, address: Address, task: Task, number: int) -> None:
        super().__init__(address, task, number)
        self._warm = False
        source = random.Random(f"written by {number}")
        self.data = [source.randbytes(task.block_bytes) for _ in range(self.SLOTS)]
        self.names = [f"put-{number}-{slot}.bin" for slot in range(self.SLOTS)]

    def content(self, result: object) -> None:
        """Return None: nothing is brought."""

    def warm_up(self, calls: Sequence[Call]) -> None:
        """Write every blob once, unless that was done: what is measured is overwriting."""
        if not self._warm:
            for call in calls:
                call(0)
            self._warm = True

    def read_back(self, slot: int) -> Buffer:
        """Return what is stored there now."""
        raise NotImplementedError

    def check_written(self) -> None:
        """Compare what is stored with what was written. Raises ValueError."""
        for slot, data in enumerate(self.data):
            found = self.read_back(slot)
            if memoryview(found).cast("B") != memoryview(data):
                raise ValueError(f"{self.names[slot]} reads back as {memoryview(found).nbytes} other bytes")
