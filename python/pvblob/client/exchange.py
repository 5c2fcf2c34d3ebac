"""One REST request in, one Answer out: the seam between what users hold and the channel.

`Exchange` (blocking) and `AsyncExchange` (asyncio) drive the same conversation (`conversation.py`) over a Device.
Below this seam a restarted host, a full ring and bodies of any size are absorbed within the request's deadline; above
it there are only answers and the errors of `pvblob.errors`. Both are thread-safe, fork-safe, and pickle as settings.
"""

from __future__ import annotations

import os
import time

from pvblob import _native
from pvblob.client.conversation import AnswerLost, Packet, download, envelope, expected_bytes, upload
from pvblob.client.sinks import Answer, BufferSink, BytesSink, LentSink, RegisteredSink
from pvblob.client.sources import AsyncUploadSource, MemorySource, UploadSource, source_of
from pvblob.client.steps import Attach, Collect, Fill, Lend, Post, attach
from pvblob.errors import DeviceGone, HostUnavailable, LentMemoryExhausted
from pvblob.vsc.device import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Self

    from typing_extensions import Buffer

    from pvblob.client.sinks import Sink
    from pvblob.client.sources import AsyncUploadBody, Source, UploadBody
    from pvblob.client.steps import Conversation
    from pvblob.http_request import Request
    from pvblob.vsc.aio import AsyncDevice
    from pvblob.vsc.registration import Placed, RegisteredMemory

__all__ = ["Answer", "AsyncExchange", "AsyncUploadSource", "Exchange", "UploadSource"]

_REPEATABLE = frozenset({"GET", "HEAD"})
# The host remembers what it executed for 600 s (design rule 4): a write sent again later than this might run twice.
RESUBMIT_WITHIN_S = 300.0
TIMEOUT_S = 60.0


class _Attempt:
    """What one request needs for each attempt at it: the same GUID, a fresh conversation (design rule 4)."""

    def __init__(
        self, request: Request, source: Source | None, lent: _native.LentBuffer | None, placed: Placed | None
    ) -> None:
        self.request = request
        self.guid = os.urandom(16)
        self._source = source
        self._lent = lent
        self._placed = placed
        self._count = 0
        self._began_at = time.monotonic()

    def begin(self, sink: Sink) -> Conversation:
        """Return the conversation of the next attempt."""
        resubmission = self._count > 0 and self.request.method not in _REPEATABLE
        self._count += 1
        packet = Packet(self.request, self.guid, resubmission, (yield from envelope()))
        if self._source is None or not self._source.size_bytes:
            return (yield from download(packet, sink, expected_bytes(self.request)))
        lent = self._lent if self._placed is None else (yield from attach(self._placed))
        return (yield from upload(packet, self._source.size_bytes, lent))

    def may_repeat(self) -> bool:
        """Whether another attempt is safe: nothing of the body was consumed for good.

        A write goes out again under its GUID, marked as a resubmission: the host executes it at most once.
        """
        if self.request.method not in _REPEATABLE and time.monotonic() > self._began_at + RESUBMIT_WITHIN_S:
            return False
        return self._source is None or self._source.rewind()


class _Settings:
    """What an Exchange pickles as."""

    def __init__(self, socket_path: str | None = None, *, device: Device | None = None) -> None:
        self._socket_path = socket_path
        self._device = device or Device(socket_path)

    def device(self) -> Device:
        """Return the device, for lent buffers and raw requests."""
        return self._device

    def __reduce__(self) -> tuple[type[Self], tuple[str | None]]:
        return type(self), (self._socket_path,)

    def _attempt(self, request: Request, body: Buffer | UploadSource | AsyncUploadSource | None) -> _Attempt:
        source = None if body is None else source_of(body)
        lent = body if isinstance(body, _native.LentBuffer) and self._device.owns(body) else None
        placed = None
        if isinstance(source, MemorySource):
            placed = self._device.registrations.find(source.memory, writable=False)
        return _Attempt(request, source, lent, placed)

    def _may_repeat(self, attempt: _Attempt, failure: Exception, deadline: float) -> bool:
        """Whether to try again after *failure*: a host that listens, or that served us before, is worth waiting for."""
        if isinstance(failure, HostUnavailable) and not (failure.listens or self._device.was_connected):
            return False
        return time.monotonic() < deadline and attempt.may_repeat()

    def _into(self, out: Buffer) -> Sink:
        if isinstance(out, _native.LentBuffer) and self._device.owns(out):
            return LentSink(out, len(out))
        placed = self._device.registrations.find(out, writable=True)
        if placed is not None:
            return RegisteredSink(memoryview(out).cast("B"), placed)
        return BufferSink(memoryview(out).cast("B"))


def _lent(device: Device, step: Lend, deadline: float) -> _native.LentBuffer | None:
    try:
        return device.lend(step.size_bytes, step.size_bytes_min, deadline)
    except LentMemoryExhausted:
        if step.optional:
            return None
        raise


async def _alent(device: AsyncDevice, step: Lend, deadline: float) -> _native.LentBuffer | None:
    try:
        return await device.lend(step.size_bytes, step.size_bytes_min, deadline)
    except LentMemoryExhausted:
        if step.optional:
            return None
        raise


class Exchange(_Settings):
    """Blocking exchange over one device. It connects at its first use, and again when the host was restarted."""

    def connect(self) -> None:
        """Connect now. Raises HostUnavailable or HostRefused."""
        self._device.connect_patiently()

    def register(self, memory: Any) -> RegisteredMemory:
        """Lend shared memory of the program's own; see `Device.register`."""
        return self._device.register(memory)

    def perform(self, request: Request, body: UploadBody = None, *, timeout_s: float = TIMEOUT_S) -> Answer:
        """Send *request* with *body*; return the answer with its whole content as bytes.

        timeout_s: for everything together. Raises errors of `pvblob.errors` for the link, never for a status.
        """
        return self._run(self._attempt(request, body), BytesSink, timeout_s)

    def perform_into(self, request: Request, out: Buffer, *, timeout_s: float = TIMEOUT_S) -> Answer:
        """Send *request*; place the content at the start of *out* (writable, contiguous); a lent buffer is not copied.

        An error answer (status ≥ 300) leaves *out* untouched and has its content as bytes. ValueError: *out* is too
        small for the answer.
        """
        return self._run(self._attempt(request, None), lambda: self._into(out), timeout_s)

    def perform_view(self, request: Request, *, size_bytes_max: int, timeout_s: float = TIMEOUT_S) -> Answer:
        """Send *request*; leave the content in lent pages and return a view of them: no copy at all."""
        return self._run(self._attempt(request, None), lambda: LentSink(None, size_bytes_max), timeout_s)

    def _run(self, attempt: _Attempt, new_sink: Callable[[], Sink], timeout_s: float) -> Answer:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self._drive(attempt.begin(new_sink()), attempt._source, deadline)
            except (DeviceGone, AnswerLost, HostUnavailable) as failure:
                if not self._may_repeat(attempt, failure, deadline):
                    raise
                self._device.reconnect(deadline)

    def _drive(self, conversation: Conversation, source: Source | None, deadline: float) -> Answer:
        """Carry out the conversation's steps; its cancellation and errors end it where it stands."""
        device = self._device
        result: object = None
        try:
            while True:
                step = conversation.send(result)
                if isinstance(step, Post):
                    result = device.post(step.request, step.response, step.data, step.data_valid, step.guid, deadline)
                elif isinstance(step, Collect):
                    result = step.ticket.wait()
                elif isinstance(step, Lend):
                    result = _lent(device, step, deadline)
                elif isinstance(step, Attach):
                    attached = device.attach(step.placed.memory, deadline)
                    result = None if attached is None else step.placed.of(attached)
                elif isinstance(step, Fill) and source is not None:
                    result = source.fill(step.into)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            conversation.close()

    def close(self) -> None:
        """Close the channel. The exchange may be used again and then opens another."""
        self._device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncExchange(_Settings):
    """The same for asyncio; usable from several loops, beside blocking callers on the same device."""

    def __init__(self, socket_path: str | None = None, *, device: Device | None = None) -> None:
        # asyncio is a third of what a blocking program would import.
        from pvblob.vsc.aio import AsyncDevice

        super().__init__(socket_path, device=device)
        self._adevice = AsyncDevice(self._device)

    def adevice(self) -> AsyncDevice:
        """Return the device as event loops use it."""
        return self._adevice

    async def connect(self) -> None:
        """Connect now. Raises HostUnavailable or HostRefused."""
        await self._adevice.connect_patiently()

    async def register(self, memory: Any) -> RegisteredMemory:
        """Lend shared memory of the program's own; see `Device.register`."""
        return await self._adevice.register(memory)

    async def perform(self, request: Request, body: AsyncUploadBody = None, *, timeout_s: float = TIMEOUT_S) -> Answer:
        """See `Exchange.perform`; cancelling the task cancels the request at the host."""
        return await self._run(self._attempt(request, body), BytesSink, timeout_s)

    async def perform_into(self, request: Request, out: Buffer, *, timeout_s: float = TIMEOUT_S) -> Answer:
        """See `Exchange.perform_into`."""
        return await self._run(self._attempt(request, None), lambda: self._into(out), timeout_s)

    async def perform_view(self, request: Request, *, size_bytes_max: int, timeout_s: float = TIMEOUT_S) -> Answer:
        """See `Exchange.perform_view`."""
        return await self._run(self._attempt(request, None), lambda: LentSink(None, size_bytes_max), timeout_s)

    async def _run(self, attempt: _Attempt, new_sink: Callable[[], Sink], timeout_s: float) -> Answer:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return await self._drive(attempt.begin(new_sink()), attempt._source, deadline)
            except (DeviceGone, AnswerLost, HostUnavailable) as failure:
                if not self._may_repeat(attempt, failure, deadline):
                    raise
                await self._adevice.reconnect(deadline)

    async def _drive(self, conversation: Conversation, source: Source | None, deadline: float) -> Answer:
        device = self._adevice
        result: object = None
        try:
            while True:
                step = conversation.send(result)
                if isinstance(step, Post):
                    result = await device.post(
                        step.request, step.response, step.data, step.data_valid, step.guid, deadline
                    )
                elif isinstance(step, Collect):
                    result = await step.ticket.wait()
                elif isinstance(step, Lend):
                    result = await _alent(device, step, deadline)
                elif isinstance(step, Attach):
                    attached = await device.attach(step.placed.memory, deadline)
                    result = None if attached is None else step.placed.of(attached)
                elif isinstance(step, Fill) and source is not None:
                    result = await source.afill(step.into)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            conversation.close()

    async def aclose(self) -> None:
        """Close the channel. The exchange may be used again and then opens another."""
        self._device.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
