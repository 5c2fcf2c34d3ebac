"""Many ranged reads in flight at once: sent with one signal, yielded as they are done, each with its value or error.

`Feed` hands reads to a `_native.ReadBatch` as far as credits, ring and pages go, and says what each answer means;
`each` and `aeach` drive it by blocking and by awaiting. A read that the short path cannot finish is done by `one`, the
client's own method for a single read, so results and errors are the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from pvblob import _native
from pvblob.client.reads import Reads, in_time
from pvblob.errors import PvblobError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from pvblob.vsc.aio import AsyncDevice, BatchPort
    from pvblob.vsc.link import Link

T = TypeVar("T")


class Done(NamedTuple, Generic[T]):
    """One of many reads: its position in the order they were given, and its value or its error."""

    position: int
    value: T | None
    error: PvblobError | None

    def result(self) -> T:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # a read without an error has its value


Item = tuple[int, tuple[str, int, "int | Buffer"]]
"""A read that was given: its position, and (blob, offset, number of bytes or memory to fill)."""


class Feed:
    """The reads that are still to be sent, and those under way."""

    def __init__(
        self,
        reads: Reads,
        container: str,
        items: Iterable[tuple[str, int, int | Buffer]],
        in_flight: int,
        if_match: str | None = None,
    ) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight is {in_flight}: at least 1")
        self._reads = reads
        self._container = container
        self._items: Iterator[Item] = enumerate(items)
        self._in_flight = in_flight
        self._if_match = if_match
        self._next: Item | None = None
        self._link: Link | None = None
        self._plans: dict[str, _native.ReadPlan | None] = {}
        self.batch: _native.ReadBatch | None = None

    def _begin(self, new_waiter: Callable[[Link], _native.Waiter]) -> _native.ReadBatch | None:
        """Return a batch on the current connection. One of an ended connection is used up first."""
        if self.batch is None or (self._link is not self._reads.link() and not len(self.batch)):
            link = self._link = self._reads.link()
            self._plans = {}
            self.batch = None if link is None else _native.ReadBatch(link.channel, link.pump, new_waiter(link))
        return self.batch

    def fill(self, new_waiter: Callable[[Link], _native.Waiter]) -> Item | None:
        """Send as many reads as there is room for; return one that must go the general way now, if there is one."""
        batch = self._begin(new_waiter)
        if batch is None:
            return self._next or next(self._items, None)
        under_way, plans = len(batch), self._plans
        try:
            while under_way < self._in_flight:
                item = self._next or next(self._items, None)
                self._next = None
                if item is None:
                    return None
                blob, offset, target = item[1]
                plan = plans.get(blob) or self._plan(blob)
                added = batch.add(plan, item, offset, target) if plan is not None and offset >= 0 else None
                if added:
                    under_way += 1
                elif added is None or not under_way:
                    return item  # it waits for credits, room or pages by itself
                else:
                    self._next = item
                    return None
        finally:
            batch.flush()
        return None

    def _plan(self, blob: str) -> _native.ReadPlan | None:
        plan = self._plans[blob] = self._reads.plan((self._container, blob, self._if_match, None))
        return plan

    def settle(self, item: Item, read: Any) -> Done[Any] | None:
        """Return what the read came to, other than as expected; None when it must be done the general way."""
        position, (blob, offset, target) = item
        key = (self._container, blob, self._if_match, None)
        try:
            if type(read) is not tuple:
                value = in_time(read, key)
            elif (plan := self._plan(blob)) is None:
                return None
            elif isinstance(target, int):
                value = self._reads.got(key, plan, read, offset, target)
            else:
                value = self._reads.filled(key, plan, read, target, offset)
        except PvblobError as error:
            return Done(position, None, error)
        return None if value is None else Done(position, value, None)

    def cancel(self) -> None:
        """Cancel what is under way."""
        if self.batch is not None:
            self.batch.cancel()


def each(feed: Feed, one: Callable[[str, int, Any], T]) -> Iterator[Done[T]]:
    """Yield every read as it is done. Leaving early, by whatever way, cancels what is under way."""

    def alone(item: Item) -> Done[T]:
        try:
            return Done(item[0], one(*item[1]), None)
        except PvblobError as error:
            return Done(item[0], None, error)

    def new_waiter(_link: Link) -> _native.Waiter:
        return _native.Waiter()

    try:
        while True:
            item = feed.fill(new_waiter)
            if item is not None:
                yield alone(item)
                continue
            done = feed.batch.wait() if feed.batch is not None else []
            if not done:
                return
            for item, read in done:
                if read and type(read) is not tuple:
                    yield Done(item[0], read, None)
                else:
                    yield feed.settle(item, read) or alone(item)
    finally:
        feed.cancel()


async def aeach(
    feed: Feed, one: Callable[[str, int, Any], Awaitable[T]], device: AsyncDevice
) -> AsyncIterator[Done[T]]:
    """Do the same on an event loop. Cancelling the task, or closing the iterator, cancels what is under way."""
    port: BatchPort | None = None

    def new_waiter(link: Link) -> _native.Waiter:
        nonlocal port
        if port is not None:
            port.close()
        port = device.batch_port(link)
        return port.waiter

    async def alone(item: Item) -> Done[T]:
        try:
            return Done(item[0], await one(*item[1]), None)
        except PvblobError as error:
            return Done(item[0], None, error)

    try:
        while True:
            item = feed.fill(new_waiter)
            if item is not None:
                yield await alone(item)
                continue
            if feed.batch is None or port is None or not len(feed.batch):
                return
            await port.progressed(feed.batch.seconds_left())
            for item, read in feed.batch.take() or feed.batch.expire():
                yield feed.settle(item, read) or await alone(item)
    finally:
        feed.cancel()
        if port is not None:
            port.close()
