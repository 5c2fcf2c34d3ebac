"""pvblob.Client over the channel, through its public methods only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pvblob import Client
from pvblob.cli.fleet.corpus import CONTAINER, name
from pvblob.cli.fleet.workers.contract import Address, Call, Task, Worker, WritingWorker

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from pvblob.client.handles import BlobHandle

TIMEOUT_S = 120.0


class _Channel(Worker):
    def __init__(self, address: Address, task: Task, number: int) -> None:
        super().__init__(address, task, number)
        self._client = Client.connect(address.socket, timeout_s=TIMEOUT_S)

    def _handles(self) -> list[BlobHandle]:
        container = self._client.container(CONTAINER)
        return [container.blob(name(blob)) for blob in range(self.task.blobs)]

    def close(self) -> None:
        """Close the channel."""
        self._client.close()


class Copied(_Channel):
    """The bytes copied out into a buffer of the program's, which serves every read."""

    def __init__(self, address: Address, task: Task, number: int) -> None:
        super().__init__(address, task, number)
        self._buffer = bytearray(task.block_bytes)

    def calls(self) -> Sequence[Call]:
        """Return `read_into` of each blob; it fills the buffer whole or raises."""
        return [partial(handle.read_into, self._buffer) for handle in self._handles()]

    def content(self, result: object) -> Buffer:
        """Return the buffer."""
        return self._buffer

    def many(self, places: Iterator[tuple[int, int]]) -> Iterator[tuple[int, Buffer]]:
        """Have `read_many` keep requests in flight, over buffers that go round."""
        names = [name(blob) for blob in range(self.task.blobs)]
        # One more than are under way: a read may be taken before there is room for it.
        free = [bytearray(self.task.block_bytes) for _ in range(self.task.in_flight + 1)]
        filling: list[bytearray] = []

        def reads() -> Iterator[tuple[str, int, bytearray]]:
            for blob, offset in places:
                filling.append(free.pop())
                yield names[blob], offset, filling[-1]

        for done in self._client.read_many(CONTAINER, reads(), in_flight=self.task.in_flight):
            done.result()
            buffer = filling[done.position]
            yield done.position, buffer
            free.append(buffer)


class InPlace(_Channel):
    """The bytes used in the lent pages where the host placed them."""

    def calls(self) -> Sequence[Call]:
        """Return `view` of each blob."""
        return [self._view(handle) for handle in self._handles()]

    def _view(self, handle: BlobHandle) -> Call:
        size_bytes, view = self.task.block_bytes, handle.view

        def call(offset: int) -> object:
            found = view(offset=offset, length=size_bytes)
            if len(found) != size_bytes:
                raise ValueError(f"{len(found)} bytes instead of {size_bytes}")
            return found

        return call


class Put(WritingWorker):
    """`Client.put`: one Put Blob up to 8 MiB, else blocks that are committed together."""

    def __init__(self, address: Address, task: Task, number: int) -> None:
        super().__init__(address, task, number)
        self._client = Client.connect(address.socket, timeout_s=TIMEOUT_S)
        self._client.create_container(CONTAINER, exist_ok=True)

    def calls(self) -> Sequence[Call]:
        """Return a put for each slot."""
        return [self._put(slot) for slot in range(self.SLOTS)]

    def _put(self, slot: int) -> Call:
        put, data = self._client.container(CONTAINER).blob(self.names[slot]).put, self.data[slot]
        return lambda _offset: put(data)

    def read_back(self, slot: int) -> Buffer:
        """Return the stored blob."""
        return self._client.get(CONTAINER, self.names[slot])

    def close(self) -> None:
        """Close the channel."""
        self._client.close()
