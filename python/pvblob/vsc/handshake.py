"""From a connected bus to an open channel: the guest's side of spec/vmbus.md §3.1, as steps that somebody else waits
for.

`open_channel` is a generator: it sends what it can, and yields whenever it needs another message from the host; the
blocking and the asyncio Device wait in their own way. It returns a `Link`. Descriptors that arrive are owned here
until they are handed to the data plane.
"""

from __future__ import annotations

import contextlib
import os
import select
import time

from pvblob import _native
from pvblob.errors import ChannelError, HostRefused, HostUnavailable, RemoteProtocolError
from pvblob.vmbus import messages as m
from pvblob.vmbus.bus import Bus, BusClosed
from pvblob.vmbus.constants import AZURE_BLOB_CLASS, REGION_SEALED
from pvblob.vmbus.gpadl import split
from pvblob.vmbus.session import GUEST, Crossed, IgnoredOffer, Session
from pvblob.vmbus.user_data import DeviceLimits, OpenUserData
from pvblob.vsc.link import REGION_BYTES, Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import TypeVar

    from pvblob.vmbus.messages import Message

    T = TypeVar("T")

RING_BYTES = 128 * 1024  # per direction, control page included: spec/azure-blob-device.md §2.5
RINGS_GPA = 0x1000_0000
PAGE_BYTES = 4096
FIRST_REGION_SHARE = 8  # the region that is lent unasked is at most this part of what may be lent
OVERLOADED = "the host accepted the connection but does not answer; is it overloaded?"


class Handshake:
    """One attempt to open the device on a fresh bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._session = Session(GUEST)
        self._descriptors: list[int] = []

    def fileno(self) -> int:
        """Return the descriptor to wait on when `open_channel` yields."""
        return self._bus.fileno()

    def close(self) -> None:
        """Give up: close the bus and whatever descriptors have arrived."""
        self._bus.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []

    def _send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        # A host that refuses us says why and closes; the receive that follows every send reads it, or finds the end.
        with contextlib.suppress(BusClosed):
            self._bus.send(self._session.send(message), descriptors)

    def _receive(self) -> Generator[None, None, tuple[Message, list[int]]]:
        """Return the next message that concerns us; offers of twins are released at once (without patch 1/3's leak)."""
        while True:
            received = self._bus.receive()
            if received is None:
                yield
                continue
            datagram, descriptors = received
            self._descriptors += descriptors
            message = self._session.receive(datagram, len(descriptors))
            if isinstance(message, IgnoredOffer):
                self._send(message.reply)
            elif isinstance(message, m.Refused):
                raise HostRefused(f"the host refuses this process: {message.text}")
            elif isinstance(message, m.RescindChannelOffer):
                raise HostUnavailable("the host withdrew the device while it was being set up", listens=True)
            elif not isinstance(message, Crossed):
                return message, descriptors

    def _expect(self, kind: type[Message]) -> Generator[None, None, tuple[Message, list[int]]]:
        message, descriptors = yield from self._receive()
        if not isinstance(message, kind):
            raise RemoteProtocolError(f"{message.NAME} came where {kind.NAME} was due")
        return message, descriptors

    def _agree(self) -> Generator[None, None, int]:
        """Agree on a version, stepping down; return the descriptor of the host page."""
        while True:
            self._send(self._session.contact())
            response, _ = yield from self._expect(m.VersionResponse)
            if isinstance(response, m.VersionResponse) and response.supported:
                _, descriptors = yield from self._expect(m.HostPage)
                return descriptors[0]

    def _find_offer(self) -> Generator[None, None, m.OfferChannel]:
        offer = None
        while True:
            message, _ = yield from self._receive()
            if isinstance(message, m.OfferChannel) and message.class_id == AZURE_BLOB_CLASS:
                offer = offer or message
            elif isinstance(message, m.AllOffersDelivered):
                if offer is None:
                    raise HostRefused("the host offers no blob device to this process")
                return offer

    def _rings_are_lent(self) -> Generator[None, None, None]:
        result, _ = yield from self._expect(m.MemoryRegionResult)
        if isinstance(result, m.MemoryRegionResult) and result.status:
            raise ChannelError(f"the host does not accept the memory of our rings (status 0x{result.status:08X})")

    def _share_rings(self, relid: int) -> Generator[None, None, int]:
        first = RINGS_GPA // PAGE_BYTES
        gpadl_id = self._session.allocate_gpadl_id()
        for message in split(relid, gpadl_id, range(first, first + 2 * RING_BYTES // PAGE_BYTES)):
            self._send(message)
        created, _ = yield from self._expect(m.GpadlCreated)
        if isinstance(created, m.GpadlCreated) and created.status:
            raise ChannelError(f"the host does not accept the rings' GPADL (status 0x{created.status:08X})")
        return gpadl_id

    def _lend_first(self, memory: _native.LentMemory, room_bytes: int) -> int | None:
        """Announce a region for the first requests; return its address, None where it would take too much of the room.

        Where little may be lent, the program's first need decides how.
        """
        prepared = memory.prepare(REGION_BYTES) if room_bytes >= FIRST_REGION_SHARE * REGION_BYTES else None
        if prepared is None:
            return None
        gpa, length, descriptor = prepared
        try:
            self._send(m.MemoryRegion(gpa, length, REGION_SEALED), (descriptor,))
        finally:
            os.close(descriptor)
        return gpa

    def _first_is_lent(self, memory: _native.LentMemory, gpa: int) -> Generator[None, None, None]:
        result, _ = yield from self._expect(m.MemoryRegionResult)
        if isinstance(result, m.MemoryRegionResult) and result.status:
            memory.forget(gpa)  # whoever needs pages asks again, and says why there are none
        else:
            memory.activate(gpa)

    def _doorbells(self) -> Generator[None, None, list[int]]:
        """Return the descriptors of an opened channel: guest → host, host → guest."""
        message, descriptors = yield from self._receive()
        if isinstance(message, m.OpenChannelResult):
            raise HostRefused("the host did not open the channel; `pvblob serve` says why in its log")
        if not isinstance(message, m.Doorbells):
            raise RemoteProtocolError(f"{message.NAME} came where DOORBELLS were due")
        yield from self._expect(m.OpenChannelResult)
        return descriptors

    def open_channel(self, nonce: bytes, lent_bytes_max: int, reserved_bytes: int = 0) -> Generator[None, None, Link]:
        """Do the whole handshake; yields when the host's next message is awaited. Returns the open link.

        reserved_bytes: of what may be lent, for memory that will be registered.
        Whatever does not depend on an answer is sent before it is awaited: each wait is a trip to the host and back.
        """
        host_page = yield from self._agree()
        rings = _native.Rings(RING_BYTES)
        self._send(m.RequestOffers())
        self._send(m.MemoryRegion(RINGS_GPA, 2 * RING_BYTES, REGION_SEALED), (rings.fileno(),))
        offer = yield from self._find_offer()
        yield from self._rings_are_lent()
        limits = DeviceLimits.decode(offer.user_data)
        gpadl_id = yield from self._share_rings(offer.relid)
        user_data = OpenUserData(nonce, os.getpid(), "pvblob").encode()
        downstream = RING_BYTES // PAGE_BYTES
        self._send(m.OpenChannel(offer.relid, offer.relid, gpadl_id, downstream, user_data))
        # The rings are lent memory too, and count at the host.
        lent_bytes_max = min(lent_bytes_max, limits.lent_bytes_max - 2 * RING_BYTES)
        memory = _native.LentMemory(lent_bytes_max)
        first = self._lend_first(memory, lent_bytes_max - reserved_bytes)
        bell, socket = yield from self._doorbells()
        if first is not None:
            yield from self._first_is_lent(memory, first)
        channel = _native.GuestChannel(
            rings, bell, socket, self._bus.fileno(), host_page, limits.requests_in_flight_max
        )  # takes its own copies of the descriptors
        link = Link(self._bus, self._session, channel, limits, memory, lent_bytes_max)
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        return link


def wait_for_steps(handshake: Handshake, steps: Generator[None, None, T], deadline: float) -> T:
    """Run the handshake, blocking for the host's messages until *deadline* (monotonic). Raises HostUnavailable."""
    poller = select.poll()
    poller.register(handshake.fileno(), select.POLLIN)
    try:
        while True:
            next(steps)
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise HostUnavailable(OVERLOADED, listens=True)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
