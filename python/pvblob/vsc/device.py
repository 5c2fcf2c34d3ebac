"""The device as a guest's process holds it: open it, lend memory, send requests, wait for their completions.

`Device` is thread-safe and belongs to nobody's loop: threads block in `request`, event loops use `vsc.aio` on the same
device, and one channel serves them all (design rule 7). It connects at first use, opens its own channel in a fork's
child, and reconnects after the host was restarted. It knows nothing of blobs.
"""

from __future__ import annotations

import os
import threading
import time
import weakref

from pvblob import _native
from pvblob.errors import DeadlineExceeded, DeviceGone, HostUnavailable
from pvblob.settings import default_socket
from pvblob.vmbus.bus import BusClosed, connect
from pvblob.vsc.handshake import Handshake, wait_for_steps
from pvblob.vsc.link import Link, closed
from pvblob.vsc.registration import RegisteredMemory, Registrations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

TIMEOUT_S = 60.0
HANDSHAKE_TIMEOUT_S = 10.0
LENT_BYTES_MAX = 1 << 30
# The host answers at the deadline itself; a guest that waits a little longer gets that answer instead of a guess.
HOST_GRACE_S = 0.5
RECONNECT_PAUSES_S = (0.001, 0.005, 0.02, 0.05, 0.1)


class Completion:
    """A request on its way. Dropping it without `wait` cancels the request; its pages stay lent until the host answers.

    status and response_length are valid once `wait` has returned.
    """

    __slots__ = ("_deadline", "_device", "_link", "_token", "response_length", "status")

    def __init__(self, device: Device, link: Link, token: int, deadline: float) -> None:
        self._device = device
        self._link = link
        self._token: int | None = token
        self._deadline = deadline
        self.status = 0
        self.response_length = 0

    def wait(self) -> tuple[int, int]:
        """Wait for the completion and return (device status, bytes in the response buffer).

        Raises DeadlineExceeded, DeviceGone; KeyboardInterrupt and whatever signal handlers raise leave at once. In all
        these cases the request is cancelled and its buffers stay the host's until it answers (design rule 2).
        """
        if self._token is not None:
            self.status, self.response_length = self._device._wait(self._link, self._token, self._deadline)
            self._token = None
        return self.status, self.response_length

    def cancel(self) -> None:
        """Stop waiting and ask the host to stop."""
        token, self._token = self._token, None
        if token is not None:
            self._link.channel.abandon(token)

    def __del__(self) -> None:
        self.cancel()


class Device:
    """The blob device of one host.

    socket_path: the host's socket; None = `$PVBLOB_SOCKET` or the default place, looked up at each connect.
    lent_bytes_max: how much memory to lend at most (design rule 10); untouched pages cost nothing.
    """

    def __init__(self, socket_path: str | None = None, *, lent_bytes_max: int = LENT_BYTES_MAX) -> None:
        self.socket_path = socket_path
        self.lent_bytes_max = lent_bytes_max
        self._lock = threading.Lock()
        self._link: Link | None = None
        self.nonce = os.urandom(16)
        self._waiters = threading.local()
        self.was_connected = False
        self.registrations = Registrations()
        _devices.add(self)

    @classmethod
    def open(cls, socket_path: str | None = None, *, lent_bytes_max: int = LENT_BYTES_MAX) -> Device:
        """Connect to the host now. Raises HostUnavailable or HostRefused."""
        device = cls(socket_path, lent_bytes_max=lent_bytes_max)
        device.connect_patiently()
        return device

    def __reduce__(self) -> tuple[type[Device], tuple[str | None]]:
        return Device, (self.socket_path,)

    def path(self) -> str:
        """Return where the host's socket is looked for."""
        return os.fspath(self.socket_path) if self.socket_path is not None else default_socket()

    # ---- connection

    def connect(self) -> Link:
        """Return the open link, connecting if there is none."""
        link = self.current()
        if link is not None:
            return link
        with self._lock:
            link = self.current()
            if link is None:
                link = self._link = self._handshake(time.monotonic() + HANDSHAKE_TIMEOUT_S)
                self.was_connected = True
            return link

    def connect_patiently(self, timeout_s: float = HANDSHAKE_TIMEOUT_S) -> None:
        """Connect, and try again when a host that is there ends or withdraws the device meanwhile (design rule 3).

        Raises HostUnavailable (at once when none listens) and HostRefused.
        """
        deadline = time.monotonic() + timeout_s
        try:
            self.connect()
        except HostUnavailable as failure:
            if not (failure.listens or self.was_connected) or time.monotonic() >= deadline:
                raise
            self.reconnect(deadline)

    def current(self) -> Link | None:
        """Return the open link, or None: not connected, or the link has ended."""
        link = self._link
        return link if link is not None and link.gone is None else None

    def adopt(self, link: Link) -> Link:
        """Take a freshly opened link into use; if somebody else was quicker, close it and return theirs."""
        with self._lock:
            current = self.current()
            if current is None:
                self._link, self.was_connected = link, True
                return link
        link.close("another connection was quicker")
        return current

    def _handshake(self, deadline: float) -> Link:
        path = self.path()
        handshake = Handshake(connect(path))
        try:
            steps = handshake.open_channel(self.nonce, self.lent_bytes_max, self.registrations.size_bytes)
            return wait_for_steps(handshake, steps, deadline)
        except BusClosed:
            handshake.close()
            text = f"the host at {path} closed the connection while it was being set up"
            raise HostUnavailable(text, listens=True) from None
        except BaseException:
            handshake.close()
            raise

    def reconnect(self, deadline: float) -> None:
        """Connect again after DeviceGone, waiting for a host that is being restarted until *deadline* (monotonic).

        Raises HostUnavailable when none answers by then.
        """
        for pause_s in reconnect_pauses_s():
            try:
                self.connect()
                return
            except HostUnavailable:
                if time.monotonic() + pause_s >= deadline:
                    raise
            time.sleep(pause_s)

    def close(self) -> None:
        """Close the channel; requests still waiting raise DeviceGone. A later use connects again."""
        with self._lock:
            link, self._link, self.was_connected = self._link, None, False
        if link is not None:
            link.close()

    # ---- memory

    def allocate(self, size_bytes: int, *, timeout_s: float = TIMEOUT_S) -> _native.LentBuffer:
        """Lend a buffer of *size_bytes* (> 0): writable, page-aligned, shared with the host.

        Its pages go back when the last reference to it and to its views is dropped. Raises LentMemoryExhausted.
        """
        return self.lend(size_bytes, size_bytes, time.monotonic() + timeout_s)

    def owns(self, buffer: _native.LentBuffer) -> bool:
        """Whether *buffer* is memory the host has mapped now; a buffer of an earlier connection is not."""
        link = self._link
        return link is not None and bool(link.memory.owns(buffer))

    def lend(self, size_bytes: int, size_bytes_min: int, deadline: float) -> _native.LentBuffer:
        """Lend *size_bytes*, or at least *size_bytes_min* when memory is spent; wait for pages until *deadline*."""
        link = self.connect()
        while True:
            buffer = link.lend(size_bytes, size_bytes_min)
            if buffer is not None:
                return buffer
            gpa = link.begin_growth(size_bytes, reserved_bytes=self.registrations.bytes_missing(link))
            if gpa is None and link.waits_for_pages and time.monotonic() < deadline:
                # A completion may free pages; those that a program holds as views come back without notice.
                self._wait_for_change(link, min(deadline, time.monotonic() + 0.01), None)
            elif gpa is None:
                return link.lend_or_fail(size_bytes, size_bytes_min)
            while gpa is not None and not link.growth_finished(gpa):
                self._wait_for_change(link, deadline, "the host did not map more memory in time")

    def register(self, memory: Any, *, timeout_s: float = TIMEOUT_S) -> RegisteredMemory:
        """Lend shared memory of the program's own, as it lies: reads into it and uploads from it cost no copy here.

        memory: SharedMemory, mmap over a memfd, a shared torch tensor, any contiguous view of these, an object with
        `fileno`, or (fd, offset, size_bytes). It counts against `lent_bytes_max`, and stays registered across
        reconnects and forks until `deregister`. Raises ValueError for anything else, LentMemoryExhausted for too much.
        """
        registered = RegisteredMemory(self, memory)
        deadline = time.monotonic() + timeout_s
        try:
            if self._attach_patiently(registered, deadline) is None:
                raise self.connect().unattached(registered)
        except BaseException:
            registered.deregister()  # else the program could not close its memory
            raise
        self.registrations.add(registered)
        return registered

    def _attach_patiently(self, memory: RegisteredMemory, deadline: float) -> _native.LentBuffer | None:
        while True:
            self.connect_patiently(deadline - time.monotonic())
            try:
                return self.attach(memory, deadline)
            except (DeviceGone, HostUnavailable):
                if time.monotonic() >= deadline:
                    raise

    def attach(self, memory: RegisteredMemory, deadline: float) -> _native.LentBuffer | None:
        """Return the pages of registered memory on the current link; None when the limit or the host forbids them."""
        link = self.connect()
        attached = link.attached(memory)
        attachment = None if attached is not None else link.begin_attach(memory)
        while attachment is not None and attachment.status is None:
            self._wait_for_change(link, deadline, "the host did not map registered memory in time")
            link.check()
        return attached or link.attached(memory)

    # ---- requests

    def submit(
        self,
        request: _native.LentBuffer,
        response: _native.LentBuffer,
        data: _native.LentBuffer | None = None,
        *,
        data_valid: int = 0,
        timeout_s: float = TIMEOUT_S,
        guid: bytes | None = None,
    ) -> Completion:
        """Send one request; the three buffers are the host's until its completion (design rule 2).

        request: exactly the request message.  response: capacity for the answer.  data: content in (the first
        *data_valid* bytes) or room for content out.  guid: 16 bytes, random by default.
        Waits for credits and for room in the ring within the deadline.
        """
        deadline = time.monotonic() + timeout_s
        link = self.connect()
        return self._submit(link, request, response, data, data_valid, guid or os.urandom(16), deadline)

    def _submit(
        self,
        link: Link,
        request: _native.LentBuffer,
        response: _native.LentBuffer,
        data: _native.LentBuffer | None,
        data_valid: int,
        guid: bytes,
        deadline: float,
    ) -> Completion:
        waiter = self._waiter()
        while True:
            timeout_ms = timeout_ms_until(deadline, link)
            try:
                token = link.channel.submit(waiter, request, response, data, data_valid, timeout_ms, guid)
            except ConnectionError:
                raise closed(link) from None
            if token is not None:
                return Completion(self, link, token, deadline)
            self._wait_for_change(link, deadline, "no credit and no room in the ring before the deadline")

    def request(
        self,
        request: _native.LentBuffer,
        response: _native.LentBuffer,
        data: _native.LentBuffer | None = None,
        *,
        data_valid: int = 0,
        timeout_s: float = TIMEOUT_S,
    ) -> tuple[int, int]:
        """Send one request and wait for it; returns (device status, bytes in the response buffer)."""
        return self.submit(request, response, data, data_valid=data_valid, timeout_s=timeout_s).wait()

    def post(
        self,
        request: _native.LentBuffer,
        response: _native.LentBuffer,
        data: _native.LentBuffer | None,
        data_valid: int,
        guid: bytes,
        deadline: float,
    ) -> Completion:
        """Do as `submit` with an absolute deadline (monotonic) and the caller's GUID, on the link that lent *request*.

        Raises DeviceGone when the buffers belong to an earlier connection.
        """
        link = self._link
        if link is None or not link.memory.owns(request):
            raise DeviceGone("the connection that lent these buffers has ended")
        return self._submit(link, request, response, data, data_valid, guid, deadline)

    # ---- waiting (the leader rule lives in the data plane)

    def _waiter(self) -> _native.Waiter:
        waiter: _native.Waiter | None = getattr(self._waiters, "waiter", None)
        if waiter is None:
            waiter = self._waiters.waiter = _native.Waiter()
        return waiter

    def _wait(self, link: Link, token: int, deadline: float) -> tuple[int, int]:
        waiter = self._waiter()
        give_up_at = deadline + HOST_GRACE_S
        try:
            while True:
                event = link.channel.wait(waiter, token, max(0.0, give_up_at - time.monotonic()))
                if event == _native.WAIT_READY:
                    outcome: tuple[int, int] | None = link.channel.take(token)
                    if outcome is not None:
                        return outcome
                elif event == _native.WAIT_CONTROL:
                    link.pump()
                elif event == _native.WAIT_CLOSED:
                    raise closed(link)
                elif event == _native.WAIT_TIMED_OUT:
                    raise DeadlineExceeded("the host did not complete the request within its deadline")
        except BaseException:
            link.channel.abandon(token)
            raise

    def _wait_for_change(self, link: Link, deadline: float, on_timeout: str | None) -> None:
        """Wait until something happened on the link; whoever called looks again. on_timeout: text of the error."""
        event = link.channel.wait(self._waiter(), None, max(0.0, deadline - time.monotonic()))
        if event == _native.WAIT_CONTROL:
            link.pump()
        elif event == _native.WAIT_CLOSED:
            raise closed(link)
        elif event == _native.WAIT_TIMED_OUT and on_timeout is not None:
            raise DeadlineExceeded(on_timeout)

    def _after_fork_in_child(self) -> None:
        link, self._link = self._link, None
        self._lock = threading.Lock()
        self._waiters = threading.local()
        self.nonce = os.urandom(16)
        if link is not None:
            link.abandon_in_child()


def timeout_ms_until(deadline: float, link: Link) -> int:
    """Return the request's timeout on the wire: ≥ 1, for 0 would mean the host's maximum. Raises DeadlineExceeded."""
    left_ms = int((deadline - time.monotonic()) * 1000)
    if left_ms <= 0:
        raise DeadlineExceeded("the deadline passed before the request could be sent")
    return min(left_ms, link.limits.timeout_ms_max)


def reconnect_pauses_s() -> Generator[float, None, None]:
    """Yield the pauses between attempts to reconnect: short at first, for a host that restarts at once."""
    yield from RECONNECT_PAUSES_S
    while True:
        yield RECONNECT_PAUSES_S[-1]


_devices: weakref.WeakSet[Device] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    _native.note_fork()
    for device in list(_devices):
        device._after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
