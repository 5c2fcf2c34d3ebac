"""One open channel of one process: its bus, its session, its rings and its lent memory. It ends once.

Whoever notices that the control socket is readable calls `pump`; messages are handled under one lock, and everybody who
waits is woken afterwards to look again. A link never waits. Registered memory is lent here too (`attachments`).
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref

from pvblob import _native
from pvblob.errors import ChannelCorrupt, ChannelError, DeviceGone, LentMemoryExhausted, RemoteProtocolError
from pvblob.vmbus import messages as m
from pvblob.vmbus.bus import Bus, BusClosed
from pvblob.vmbus.constants import REGION_SEALED, STATUS_SUCCESS
from pvblob.vmbus.session import Crossed, IgnoredOffer, Session
from pvblob.vmbus.user_data import DeviceLimits
from pvblob.vsc.attachments import Attachment, Attachments

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio

    from pvblob.vmbus.messages import Message
    from pvblob.vsc.loop_watch import LoopWatch
    from pvblob.vsc.registration import RegisteredMemory

PAGE_BYTES = 4096
# Regions grow by this much: untouched pages cost nothing, and few regions mean few descriptors at the host.
REGION_BYTES = 64 << 20


class Link:
    """One open channel. Made by `Handshake.open_channel`; after `fail` every use raises DeviceGone."""

    def __init__(
        self,
        bus: Bus,
        session: Session,
        channel: _native.GuestChannel,
        limits: DeviceLimits,
        memory: _native.LentMemory,
        lent_bytes_max: int,
    ) -> None:
        self._bus = bus
        self._session = session
        self._lock = threading.Lock()
        self._region_results: dict[int, int] = {}
        self._growing: set[int] = set()
        self._lent_bytes_max = lent_bytes_max
        self.channel = channel
        self.limits = limits
        self.memory = memory
        self._attachments = Attachments(self.memory)
        self.gone: str | None = None
        # How event loops watch this link: one watch for each loop (`loop_watch`).
        self.watches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopWatch] = weakref.WeakKeyDictionary()

    def check(self) -> None:
        """Raise DeviceGone if the link has ended."""
        if self.gone is not None:
            raise DeviceGone(self.gone)

    # ---- control messages

    def pump(self) -> None:
        """Handle the control messages that have arrived, then wake everyone who waits so that they look again."""
        with self._lock:
            try:
                while self.gone is None and (received := self._bus.receive()) is not None:
                    self._handle(*received)
                self._return_detached()
            except (BusClosed, DeviceGone):
                self._fail("the host closed the connection")
            except RemoteProtocolError as broken:
                self._fail(f"the host broke the protocol: {broken}")
        self.channel.wake_all()

    def _handle(self, datagram: bytes, descriptors: list[int]) -> None:
        try:
            message = self._session.receive(datagram, len(descriptors))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        if isinstance(message, IgnoredOffer):
            self._send(message.reply)
        elif isinstance(message, m.MemoryRegionResult):
            if not self._attachments.answered(message.gpa, message.status):
                self._grown(message.gpa, message.status)
        elif isinstance(message, m.MemoryRegionRemoved):
            self.memory.forget(message.gpa)
            self._attachments.removed(message.gpa)
        elif isinstance(message, m.RescindChannelOffer):
            self.channel.drain()  # what the host completed before it rescinded counts (design rule 3)
            with contextlib.suppress(DeviceGone):  # it may have gone at once: it does not wait for our word
                self._send(m.RelidReleased(message.relid))
            self._fail("the host withdrew the device")
        elif isinstance(message, m.Refused):
            self._fail(f"the host ended the connection: {message.text}")
        elif not isinstance(message, m.OfferChannel | m.AllOffersDelivered | Crossed):
            self._fail(f"the host sent {message.NAME} out of turn")

    def _grown(self, gpa: int, status: int) -> None:
        self._growing.discard(gpa)
        self._region_results[gpa] = status
        if status:
            self.memory.forget(gpa)
        else:  # here, and not where it was asked for: who asked may have been cancelled
            self.memory.activate(gpa)

    def _send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        """Send, under the lock. Raises DeviceGone when the link has ended, also if nobody has noticed it yet."""
        self.check()
        try:
            self._bus.send(self._session.send(message), descriptors)
        except BusClosed:
            self._fail("the host closed the connection")
            raise DeviceGone(self.gone) from None

    def _fail(self, reason: str) -> None:
        if self.gone is None:
            self.gone = reason
            self.channel.close()
            # The channel has a descriptor of the socket too, for as long as an event loop or a view holds the link.
            self._bus.shut_down()
            self._bus.close()

    def close(self, reason: str = "the device was closed") -> None:
        """End the link: the host sees the socket close and lets go of everything."""
        with self._lock:
            self._fail(reason)
        self.channel.wake_all()

    # ---- lent memory

    def lend(self, size_bytes: int, size_bytes_min: int) -> _native.LentBuffer | None:
        """Allocate pages: *size_bytes*, or less (≥ *size_bytes_min*) when memory is spent. None: not at the moment."""
        while True:
            buffer = self.memory.allocate(size_bytes)
            if buffer is not None or self._can_grow(size_bytes) or size_bytes <= size_bytes_min:
                return buffer
            size_bytes = max(size_bytes // 2, size_bytes_min)

    def _can_grow(self, size_bytes: int) -> bool:
        _, lent_bytes, _ = self.memory.usage()
        return bool(lent_bytes + size_bytes <= self._lent_bytes_max)

    def begin_growth(self, size_bytes: int, *, reserved_bytes: int = 0) -> int | None:
        """Create a region with room for *size_bytes* and announce it; returns its address, None if the limit is met.

        reserved_bytes: what is to be lent later and must still fit if it can. Raises DeviceGone.
        """
        self.check()
        _, lent_bytes, _ = self.memory.usage()
        room = self._lent_bytes_max - lent_bytes
        needed = -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
        with self._lock:
            ample = min(REGION_BYTES, max(room - reserved_bytes, 0))
            prepared = self.memory.prepare(max(needed, ample)) if needed <= room else None
            if prepared is None:
                return None
            gpa, length, descriptor = prepared
            self._growing.add(gpa)
            try:
                self._send(m.MemoryRegion(gpa, length, REGION_SEALED), (descriptor,))
            finally:
                os.close(descriptor)
            return int(gpa)

    def growth_finished(self, gpa: int) -> bool:
        """Whether the host has answered for the region at *gpa*; if it accepted, the region is in use from now on."""
        self.check()
        with self._lock:
            status = self._region_results.pop(gpa, None)
        if status is None:
            return False
        if status:
            raise LentMemoryExhausted(f"the host does not map more of our memory (status 0x{status:08X})")
        return True

    @property
    def waits_for_pages(self) -> bool:
        """Whether pages may become free without anybody's doing: requests are in flight, or memory is growing."""
        return bool(self._growing or self.channel.counts()[0])

    def return_idle_memory(self) -> None:
        """Give one wholly unused region beyond the first back to the host and the system (design rule 10)."""
        with self._lock:
            gpa = None if self.gone is not None else self.memory.retire_idle()
            if gpa is not None:
                with contextlib.suppress(DeviceGone):  # the next use of the link says so
                    self._send(m.MemoryRegionRemove(gpa))

    def lend_or_fail(self, size_bytes: int, size_bytes_min: int) -> _native.LentBuffer:
        """Allocate pages when no more can be waited for. Raises LentMemoryExhausted.

        Asked before, memory may have been growing for another thread, and have grown since: so it is asked once more.
        """
        buffer = self.lend(size_bytes, size_bytes_min)
        if buffer is None:
            raise self.exhausted(size_bytes)
        return buffer

    def exhausted(self, size_bytes: int) -> LentMemoryExhausted:
        """Return the error for a request that lent memory cannot serve."""
        regions, lent_bytes, in_use_bytes = self.memory.usage()
        _, quarantined, _ = self.channel.counts()
        return LentMemoryExhausted(
            f"{size_bytes} bytes do not fit lent memory: {in_use_bytes} of {lent_bytes} bytes in {regions} regions are "
            f"held by views and requests ({quarantined} of them cancelled and not yet completed by the host); "
            f"the limit is {self._lent_bytes_max} (lent_bytes_max). Drop views you no longer need, or raise the limit."
        )

    # ---- registered memory

    def attached(self, memory: RegisteredMemory) -> _native.LentBuffer | None:
        """Return the pages that *memory* has on this link, None when it has none (yet)."""
        attachment = self._attachments.get(memory)
        return None if attachment is None or attachment.status != STATUS_SUCCESS else attachment.buffer

    def begin_attach(self, memory: RegisteredMemory) -> Attachment | None:
        """Announce *memory* to the host unless that is done; its `status` comes later. None: the limit is met."""
        self.check()
        with self._lock:
            self._return_detached()
            return self._attachments.get(memory) or self._attachments.begin(memory, self._send)

    def unattached(self, memory: RegisteredMemory) -> LentMemoryExhausted:
        """Return the error for memory that was not attached."""
        _, lent_bytes, _ = self.memory.usage()
        if lent_bytes + len(memory.mapping) > self._lent_bytes_max:
            return self.exhausted(len(memory.mapping))
        return LentMemoryExhausted(
            f"the host does not map these {len(memory.mapping)} bytes of registered memory; "
            "`pvblob serve` says why in its log"
        )

    def detach(self, memory: RegisteredMemory) -> None:
        """Stop using *memory*, and give it back as soon as nothing in flight uses it."""
        with self._lock:
            self._attachments.leave(memory)
            self._return_detached()

    def still_holds(self, memory: RegisteredMemory) -> bool:
        """Whether the host may still touch memory that was detached."""
        self.pump()
        return self.gone is None and self._attachments.is_leaving(memory)

    def _return_detached(self) -> None:
        if self.gone is None:
            with contextlib.suppress(DeviceGone):
                self._attachments.return_left(self._send)

    # ---- after fork

    def abandon_in_child(self) -> None:
        """Forget the parent's link in a fork's child: close what was inherited, touch nothing the parent uses."""
        self._lock = threading.Lock()
        self.gone = "this channel belongs to the parent process"
        self.channel.close()
        self._bus.close()


def closed(link: Link) -> ChannelError:
    """Return the error for a channel that has ended."""
    corruption = link.channel.corruption()
    if corruption is not None:
        link.close(f"the host corrupted the ring: {corruption}")
        return ChannelCorrupt(link.gone)
    return DeviceGone(link.gone or "the channel has ended")
