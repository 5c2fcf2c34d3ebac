"""The device for event loops: the same channel as the blocking callers', one `LoopPort` per loop.

A port is a waiter like any thread (design rule 7): completions are announced on a descriptor of its own, and while no
thread leads, the port watches the doorbell and the control socket itself. It watches only while something is pending,
so an idle loop costs nothing. Belongs to the loop's thread.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Generator
from typing import Any, TypeVar

from pvblob import _native
from pvblob.errors import DeadlineExceeded, DeviceGone, HostUnavailable
from pvblob.vmbus.bus import BusClosed, connect
from pvblob.vsc.device import (
    HANDSHAKE_TIMEOUT_S,
    HOST_GRACE_S,
    Device,
    reconnect_pauses_s,
    timeout_ms_until,
)
from pvblob.vsc.handshake import OVERLOADED, Handshake
from pvblob.vsc.link import Link, closed
from pvblob.vsc.loop_watch import watch_of
from pvblob.vsc.registration import RegisteredMemory

T = TypeVar("T")


class LoopPort:
    """One event loop's end of one link."""

    def __init__(self, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        self.link = link
        self.waiter = _native.Waiter()
        self._loop = loop
        self._futures: dict[int, asyncio.Future[None]] = {}
        self._changes: list[asyncio.Future[None]] = []
        self._watch = watch_of(link, loop)
        loop.add_reader(self.waiter.fileno(), self._woken)

    def close(self) -> None:
        """Stop watching; those who still wait are woken and find the link closed."""
        self._watch.remove(self)
        self.link.channel.leave(self.waiter)
        self._loop.remove_reader(self.waiter.fileno())
        self._wake_everyone()

    async def completed(self, token: int, deadline: float) -> None:
        """Wait until *token* is done, the link has ended or the deadline (monotonic) passed; the caller looks which."""
        future = self._futures[token] = self._loop.create_future()
        try:
            await self._until(future, deadline)
        finally:
            self._futures.pop(token, None)
            self._stop_if_idle()

    @property
    def is_idle(self) -> bool:
        """Nobody waits here."""
        return not self._futures and not self._changes

    async def changed(self, deadline: float) -> None:
        """Wait until anything happened on the link, or until *deadline*."""
        if self.link.channel.see_changes(self.waiter):
            return  # it happened between the caller's attempt and now
        future: asyncio.Future[None] = self._loop.create_future()
        self._changes.append(future)
        try:
            await self._until(future, deadline)
        finally:
            if future in self._changes:
                self._changes.remove(future)
            self._stop_if_idle()

    async def _until(self, future: asyncio.Future[None], deadline: float) -> None:
        self._look()
        timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), _resolve, future)
        try:
            await future
        finally:
            timer.cancel()

    def _stop_if_idle(self) -> None:
        if self.is_idle:
            self._watch.remove(self)
            self.link.channel.leave(self.waiter)

    # ---- watching

    def _look(self) -> None:
        """Take part in the waiting; whoever watches arms the ring first (`drain` does) and looks at it again."""
        if self.link.channel.watch(self.waiter, bool(self._changes)):
            self._watch.add(self)
            self.link.channel.drain()
        else:
            self._watch.remove(self)
        self._deliver()

    def rung(self) -> None:
        """The doorbell rang."""
        self._look()
        self._wake_changes()

    def controlled(self) -> None:
        """Control messages were handled."""
        self._wake_changes()

    def _woken(self) -> None:
        self.waiter.clear()
        if self._futures or self._changes:
            self._look()
            self._wake_changes()

    def _deliver(self) -> None:
        for token in self.waiter.take_completed():
            future = self._futures.get(token)
            if future is not None:
                _resolve(future)
        if self.link.channel.is_closed():
            self._wake_everyone()

    def _wake_changes(self) -> None:
        changes, self._changes = self._changes, []
        for future in changes:
            _resolve(future)

    def _wake_everyone(self) -> None:
        self._wake_changes()
        for future in list(self._futures.values()):
            _resolve(future)


class BatchPort(LoopPort):
    """An event loop's end of one link for a batch of reads: the batch takes the completions, the port only waits."""

    async def progressed(self, timeout_s: float) -> None:
        """Wait until a completion is there, the link has ended or the time is over; the caller looks which."""
        await self.completed(0, time.monotonic() + timeout_s)

    def _deliver(self) -> None:
        if self.waiter.has_completed() or self.link.channel.is_closed():
            self._wake_everyone()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class AsyncCompletion:
    """A request on its way, awaited on the loop that sent it. Dropping it without `wait` cancels the request."""

    __slots__ = ("_give_up_at", "_port", "_token")

    def __init__(self, port: LoopPort, token: int, give_up_at: float) -> None:
        self._port = port
        self._token: int | None = token
        self._give_up_at = give_up_at

    async def wait(self) -> tuple[int, int]:
        """Wait, once, for (device status, bytes in the response buffer). Cancelling the task cancels the request."""
        token = self._token
        assert token is not None, "waited for already, or cancelled"
        channel = self._port.link.channel
        try:
            while True:
                outcome: tuple[int, int] | None = channel.take(token)
                if outcome is not None:
                    self._token = None
                    return outcome
                if channel.is_closed():
                    raise closed(self._port.link)
                if time.monotonic() >= self._give_up_at:
                    raise DeadlineExceeded("the host did not complete the request within its deadline")
                await self._port.completed(token, self._give_up_at)
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Stop waiting and ask the host to stop."""
        token, self._token = self._token, None
        if token is not None:
            self._port.link.channel.abandon(token)

    def __del__(self) -> None:
        self.cancel()


class AsyncDevice:
    """The asyncio face of a Device; one object may be used from several loops."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._ports: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopPort] = weakref.WeakKeyDictionary()
        self._connecting: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            weakref.WeakKeyDictionary()
        )

    async def connect(self) -> Link:
        """Return the open link, connecting if there is none. Raises HostUnavailable or HostRefused.

        Of many tasks that find no link one connects, and the others wait for it: a host that has withdrawn its device
        from a hundred guests meets a hundred handshakes and not a thousand.
        """
        link = self._device.current()
        if link is not None:
            return link
        connecting = self._connecting.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        async with connecting:
            return self._device.current() or await self._connect()

    async def _connect(self) -> Link:
        path = self._device.path()
        handshake = Handshake(connect(path))
        try:
            steps = handshake.open_channel(
                self._device.nonce, self._device.lent_bytes_max, self._device.registrations.size_bytes
            )
            link = await _wait_for_steps(handshake, steps, time.monotonic() + HANDSHAKE_TIMEOUT_S)
        except BusClosed:
            handshake.close()
            text = f"the host at {path} closed the connection while it was being set up"
            raise HostUnavailable(text, listens=True) from None
        except BaseException:
            handshake.close()
            raise
        return self._device.adopt(link)

    async def connect_patiently(self, timeout_s: float = HANDSHAKE_TIMEOUT_S) -> None:
        """Connect, and try again when the host ends or withdraws meanwhile; see `Device.connect_patiently`."""
        deadline = time.monotonic() + timeout_s
        try:
            await self.connect()
        except HostUnavailable as failure:
            if not (failure.listens or self._device.was_connected) or time.monotonic() >= deadline:
                raise
            await self.reconnect(deadline)

    async def reconnect(self, deadline: float) -> None:
        """Connect again after DeviceGone; see `Device.reconnect`."""
        for pause_s in reconnect_pauses_s():
            try:
                await self.connect()
                return
            except HostUnavailable:
                if time.monotonic() + pause_s >= deadline:
                    raise
            await asyncio.sleep(pause_s)

    def port(self, link: Link) -> LoopPort:
        """Return the running loop's end of *link*, made when it is first asked for."""
        loop = asyncio.get_running_loop()
        port = self._ports.get(loop)
        if port is None or port.link is not link:
            if port is not None:
                port.close()
            port = self._ports[loop] = LoopPort(link, loop)
        return port

    def batch_port(self, link: Link) -> BatchPort:
        """Return a port for one batch of reads on *link* and the running loop; the caller closes it."""
        return BatchPort(link, asyncio.get_running_loop())

    async def lend(self, size_bytes: int, size_bytes_min: int, deadline: float) -> _native.LentBuffer:
        """Lend pages; see `Device.lend`."""
        link = await self.connect()
        port = self.port(link)
        while True:
            buffer = link.lend(size_bytes, size_bytes_min)
            if buffer is not None:
                return buffer
            gpa = link.begin_growth(size_bytes, reserved_bytes=self._device.registrations.bytes_missing(link))
            if gpa is None and link.waits_for_pages and time.monotonic() < deadline:
                await port.changed(min(deadline, time.monotonic() + 0.01))
            elif gpa is None:
                return link.lend_or_fail(size_bytes, size_bytes_min)
            while gpa is not None and not link.growth_finished(gpa):
                await port.changed(deadline)
                if time.monotonic() >= deadline and not link.growth_finished(gpa):
                    raise DeadlineExceeded("the host did not map more memory in time")

    async def register(self, memory: Any, *, timeout_s: float = 60.0) -> RegisteredMemory:
        """Lend shared memory of the program's own; see `Device.register`."""
        registered = RegisteredMemory(self._device, memory)
        try:
            if await self._attach_patiently(registered, time.monotonic() + timeout_s) is None:
                raise (await self.connect()).unattached(registered)
        except BaseException:
            registered.deregister()  # else the program could not close its memory
            raise
        self._device.registrations.add(registered)
        return registered

    async def _attach_patiently(self, memory: RegisteredMemory, deadline: float) -> _native.LentBuffer | None:
        while True:
            await self.connect_patiently(deadline - time.monotonic())
            try:
                return await self.attach(memory, deadline)
            except (DeviceGone, HostUnavailable):
                if time.monotonic() >= deadline:
                    raise

    async def attach(self, memory: RegisteredMemory, deadline: float) -> _native.LentBuffer | None:
        """Return the pages of registered memory on the current link; see `Device.attach`."""
        link = await self.connect()
        attached = link.attached(memory)
        attachment = None if attached is not None else link.begin_attach(memory)
        port = self.port(link)
        while attachment is not None and attachment.status is None:
            await port.changed(deadline)
            link.check()
            if time.monotonic() >= deadline and attachment.status is None:
                raise DeadlineExceeded("the host did not map registered memory in time")
        return attached or link.attached(memory)

    async def allocate(self, size_bytes: int, *, timeout_s: float = 60.0) -> _native.LentBuffer:
        """Lend a buffer; see `Device.allocate`."""
        return await self.lend(size_bytes, size_bytes, time.monotonic() + timeout_s)

    async def post(
        self,
        request: _native.LentBuffer,
        response: _native.LentBuffer,
        data: _native.LentBuffer | None,
        data_valid: int,
        guid: bytes,
        deadline: float,
    ) -> AsyncCompletion:
        """Send one request; see `Device.post`. Waits for credits and for room in the ring within the deadline."""
        link = self._device.current()
        if link is None or not link.memory.owns(request):
            raise DeviceGone("the connection that lent these buffers has ended")
        port = self.port(link)
        channel = link.channel
        while True:
            timeout_ms = timeout_ms_until(deadline, link)
            try:
                token = channel.submit(port.waiter, request, response, data, data_valid, timeout_ms, guid)
            except ConnectionError:
                raise closed(link) from None
            if token is not None:
                return AsyncCompletion(port, token, deadline + HOST_GRACE_S)
            await port.changed(deadline)

    async def request(
        self,
        request: _native.LentBuffer,
        response: _native.LentBuffer,
        data: _native.LentBuffer | None = None,
        *,
        data_valid: int = 0,
        timeout_s: float = 60.0,
    ) -> tuple[int, int]:
        """Send one request and wait for it; returns (device status, bytes in the response buffer)."""
        deadline = time.monotonic() + timeout_s
        posted = await self.post(request, response, data, data_valid, os.urandom(16), deadline)
        return await posted.wait()


async def _wait_for_steps(handshake: Handshake, steps: Generator[None, None, T], deadline: float) -> T:
    """Run the handshake, waiting for its socket on the loop."""
    loop = asyncio.get_running_loop()
    try:
        while True:
            next(steps)
            readable: asyncio.Future[None] = loop.create_future()
            loop.add_reader(handshake.fileno(), _resolve, readable)
            try:
                await asyncio.wait_for(readable, max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise HostUnavailable(OVERLOADED, listens=True) from None
            finally:
                loop.remove_reader(handshake.fileno())
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
