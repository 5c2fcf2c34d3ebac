"""One guest at the host: its bus, its session, the memory it lends, the channels it has open.

Control messages are handled on the host's loop, a bounded number per turn; whatever a guest does wrong ends this guest
and nothing else. The data plane owns rings and pages; this module tells it what to map and when to let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pvblob import _native
from pvblob.errors import ChannelError, LocalProtocolError, RemoteProtocolError
from pvblob.frozen import replace
from pvblob.vmbus import messages as m
from pvblob.vmbus.bus import Bus, BusClosed, close_all
from pvblob.vmbus.constants import AZURE_BLOB_CLASS, STATUS_REFUSED, STATUS_SUCCESS, STATUS_UNSUCCESSFUL
from pvblob.vmbus.guid import Guid
from pvblob.vmbus.messages import Message
from pvblob.vmbus.records import Bounds
from pvblob.vmbus.session import HOST, Crossed, Session
from pvblob.vmbus.user_data import DeviceLimits, OpenUserData
from pvblob.vsp.audit import PeerLog
from pvblob.vsp.budget import Shares
from pvblob.vsp.departures import Departures
from pvblob.vsp.dispatch import Dispatcher
from pvblob.vsp.disposal import Disposal
from pvblob.vsp.guard import GuardedBackend
from pvblob.vsp.lent import LentRegions
from pvblob.vsp.policy import WEIGHT_ORDINARY, GuestLimits

log = logging.getLogger("pvblob.vsp")

MESSAGES_PER_TURN = 64
PAGE_BYTES = 4096
LOOK_AGAIN_S = 0.01  # at memory that was taken back while requests still use it


@dataclass(frozen=True, slots=True)
class Services:
    """What every guest connection needs of the host."""

    engine: _native.HostEngine
    dispatcher: Dispatcher
    limits: DeviceLimits
    new_channel_key: Callable[[], int]
    channel_failed: dict[int, Callable[[str], None]]  # by channel key: called when the ring was corrupted
    peer_log: PeerLog
    disposal: Disposal
    unmapping: Disposal
    departures: Departures
    regions: Shares[str]  # of descriptors and mappings for lent memory and rings, by identity


class GuestConnection:
    """One connected guest. It ends by `end`, from whichever side, and then has let go of everything.

    channels: relid → the engine's key, of those that are open.  lent_bytes: what it lends at this moment.
    """

    def __init__(
        self,
        bus: Bus,
        services: Services,
        backend: GuardedBackend,
        instance_id: Guid,
        on_end: Callable[[GuestConnection], None],
    ) -> None:
        self._bus = bus
        self._services = services
        self.backend = backend
        self.limits = _limits_of(backend, services.limits)
        self._instance_id = instance_id
        self._on_end = on_end
        self._session = Session(HOST, bounds=Bounds(regions_max=services.limits.regions_max))
        self._lent = LentRegions(backend.guest.identity, self.limits.lent_bytes_max, services.regions)
        self._looking_again: asyncio.TimerHandle | None = None
        self._unloading = False
        self._host_page = _native.HostPage()
        self.channels: dict[int, int] = {}
        self._hits_before = (0, 0)  # of channels that are closed
        self._loop = asyncio.get_running_loop()
        self._pidfd: int | None = None
        self.ended = False
        self.identity = backend.guest.identity
        self.pid = bus.peer.pid

    def begin(self) -> None:
        """Watch the guest's socket and its life."""
        try:
            self._pidfd = self._bus.open_peer_pidfd()
        except (BusClosed, OSError) as error:
            self.end(f"it ended before it was served: {error}")
            return
        self._loop.add_reader(self._bus.fileno(), self._readable)
        if self._pidfd is not None:
            self._loop.add_reader(self._pidfd, self._gone, "its process ended")

    def _warn(self, what: str) -> None:
        self._services.peer_log.warning(self.identity, f"guest pid {self.pid} {what}")

    def refuse(self, reason: str) -> None:
        """Tell the guest why it is not served, and end."""
        with contextlib.suppress(ChannelError, LocalProtocolError):
            self._send(m.Refused.because(STATUS_REFUSED, reason))
        self.end(reason)

    def _gone(self, reason: str) -> None:
        """Hear nothing more of a guest that has gone, and end it in its turn."""
        self._stop_listening()
        self._services.departures.add(partial(self.end, reason))

    def _stop_listening(self) -> None:
        if self._bus.fileno() >= 0:
            self._loop.remove_reader(self._bus.fileno())
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)

    def end(self, reason: str) -> None:
        """Let go of the guest: close its channels, unmap its memory, close its descriptors. Idempotent."""
        if self.ended:
            return
        self.ended = True
        log.debug("guest pid %d ends: %s", self.pid, reason)
        self._stop_listening()
        if self._pidfd is not None:
            os.close(self._pidfd)
        for relid in list(self.channels):
            self._close_channel(relid)
        self._forget_memory()
        self._services.disposal.bus(self._bus)
        self._on_end(self)

    def rescind(self) -> None:
        """Withdraw every channel and end; the guest learns it by RESCIND before the socket closes (design rule 3)."""
        for relid in list(self.channels):
            self.rescind_channel(relid)
        self.end("the host withdrew the device")

    def rescind_channel(self, relid: int) -> None:
        """Withdraw one open channel; what the guest lends and its connection stay."""
        self._close_channel(relid)
        with contextlib.suppress(ChannelError, LocalProtocolError):
            self._send(m.RescindChannelOffer(relid))

    def reconsider(self) -> bool:
        """Take the policy now in force; False when it does not name this guest any more.

        Rights and shares change in place. What the guest was offered it reckons with, so where that changes the device
        is withdrawn: the guest connects again at its next call and is offered the new limits.
        """
        self.count_hits()  # what was answered until now, counts for the entry until now
        if not self.backend.reconsider():
            return False
        limits = self._limits
        for key in self.channels.values():
            self._services.dispatcher.set_scope(key, self.backend.scope)
            self._services.dispatcher.set_shares(key, limits.weight / WEIGHT_ORDINARY, limits.spooled_bytes)
        if self.channels:
            self._withdraw_if_outdated()
        return True

    def _withdraw_if_outdated(self) -> None:
        """Withdraw what was offered under other limits; not from a guest that is connecting: it opens first."""
        if not self.ended and _limits_of(self.backend, self._services.limits) != self.limits:
            self.rescind()

    def count_hits(self) -> tuple[int, int]:
        """Return what the data plane has answered this guest by itself: requests and bytes."""
        hits = self._services.dispatcher.offload.hits
        channels = [hits.look(key, self._entry_name) for key in self.channels.values()]
        requests, size_bytes = zip(self._hits_before, *channels, strict=True)
        return sum(requests), sum(size_bytes)

    @property
    def _entry_name(self) -> str:
        return self.backend.entry.name if self.backend.entry else ""

    @property
    def _limits(self) -> GuestLimits:
        return self.backend.entry.limits if self.backend.entry else GuestLimits()

    @property
    def lent_bytes(self) -> int:
        """Bytes lent, those that are taken back and still in use included."""
        return self._lent.lent_bytes

    # ---- messages

    def _send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        self._bus.send(self._session.send(message), descriptors)

    def _readable(self) -> None:
        try:
            for _ in range(MESSAGES_PER_TURN):
                received = self._bus.receive()
                if received is None:
                    return
                datagram, descriptors = received
                try:
                    message = self._session.receive(datagram, len(descriptors))
                    if not isinstance(message, Crossed):
                        self._handle(message, descriptors)
                finally:
                    self._services.disposal.descriptors(descriptors)
                if self.ended:
                    return
        except BusClosed:
            self._gone("it closed its socket")
        except RemoteProtocolError as broken:
            self._warn(f"broke the protocol: {broken}")
            self.refuse(f"protocol error: {broken}")
        except ChannelError as failed:
            self._warn(f"is dropped: {failed}")
            self.end(str(failed))
        except Exception:
            self._warn("met an error of the host's own")
            log.exception("guest pid %d is dropped", self.pid)
            self.end("the host failed")

    def _handle(self, message: object, descriptors: list[int]) -> None:
        match message:
            case m.InitiateContact():
                self._contact(message)
            case m.RequestOffers():
                self._offer()
            case m.MemoryRegion():
                self._add_region(message, descriptors[0])
            case m.MemoryRegionRemove():
                self._remove_region(message)
            case m.GpadlHeader() | m.GpadlBody():
                self._gpadl(message.gpadl_id)
            case m.OpenChannel():
                self._open(message)
            case m.CloseChannel():
                self._close_channel(message.relid)
            case m.GpadlTeardown():
                self._send(m.GpadlTorndown(message.gpadl_id))
            case m.ModifyChannel():
                self._send(m.ModifyChannelResponse(message.relid, STATUS_SUCCESS))
            case m.Unload():
                self._unload()
            case _:
                log.debug("guest pid %d sent %s: nothing to do", self.pid, type(message).__name__)

    def _contact(self, message: m.InitiateContact) -> None:
        for relid in list(self.channels):
            self._close_channel(relid)
        self._forget_memory()
        response = self._session.answer(message)
        self._send(response)
        if response.supported:
            self._send(m.HostPage(PAGE_BYTES), (self._host_page.fileno(),))

    def _offer(self) -> None:
        relid = self._session.allocate_relid()
        if relid is None:
            raise RemoteProtocolError("the guest holds every relid it may have")
        self.limits = _limits_of(self.backend, self._services.limits)
        self._lent.bytes_max = self.limits.lent_bytes_max
        user_data = self.limits.encode()
        self._send(m.OfferChannel(AZURE_BLOB_CLASS, self._instance_id, relid, user_data))
        self._send(m.AllOffersDelivered())

    # ---- memory

    def _add_region(self, message: m.MemoryRegion, descriptor: int) -> None:
        status = STATUS_SUCCESS
        try:
            self._lent.add(message, descriptor)
        except (ValueError, OSError) as refused:
            self._warn(f"memory region at 0x{message.gpa:x} refused: {refused}")
            status = STATUS_UNSUCCESSFUL
        self._send(m.MemoryRegionResult(message.gpa, status))

    def _remove_region(self, message: m.MemoryRegionRemove) -> None:
        self._lent.remove(message.gpa)
        self._let_go()

    def _unload(self) -> None:
        """Answer when nothing of the host's can touch the guest's memory any more (W-28)."""
        for relid in list(self.channels):
            self._close_channel(relid)
        self._lent.remove_all()
        self._unloading = True
        self._let_go()

    def _let_go(self) -> None:
        """Answer for the memory taken back whose last user is gone; look again soon while there is more (W-12)."""
        for gpa in self._lent.let_go(self._holds_rings):
            if not self._unloading:
                self._send(m.MemoryRegionRemoved(gpa))
        if self._lent.leaving:
            self._looking_again = self._looking_again or self._loop.call_later(LOOK_AGAIN_S, self._look_again)
        elif self._unloading:
            self._unloading = False
            self._send(m.UnloadResponse())

    def _look_again(self) -> None:
        self._looking_again = None
        try:
            self._let_go()
        except ChannelError as failed:
            self.end(str(failed))

    def _holds_rings(self, gpa: int, length: int) -> bool:
        pages = range(gpa // PAGE_BYTES, (gpa + length) // PAGE_BYTES)
        ids = {self._session.channels[relid].ring_gpadl_id for relid in self.channels}
        rings = [gpadl for gpadl_id, gpadl in self._session.gpadls.items() if gpadl_id in ids]
        return any(pfn in pages for ring in rings for pfn in ring.pfns)

    def _forget_memory(self) -> None:
        self._services.unmapping.later(self._lent.clear().unmap)
        self._unloading = False
        if self._looking_again is not None:
            self._looking_again.cancel()
            self._looking_again = None

    # ---- channels

    def _gpadl(self, gpadl_id: int) -> None:
        gpadl = self._session.gpadls.get(gpadl_id)
        if gpadl is not None and gpadl.assembly is not None and gpadl.assembly.complete:
            self._send(m.GpadlCreated(gpadl.relid, gpadl_id, STATUS_SUCCESS))

    def _open(self, message: m.OpenChannel) -> None:
        gpadl = self._session.gpadls[message.ring_gpadl_id]
        user_data = OpenUserData.decode(message.user_data)
        key = self._services.new_channel_key()
        try:
            self._lent.take_rings(key, gpadl.pfns)
            bell, socket = self._services.engine.open_channel(
                key,
                self._lent.memory,
                self._host_page,
                gpadl.pfns,
                message.downstream_page_offset,
                self.limits.requests_in_flight_max,
                self.backend.scope,
            )
        except (ValueError, OSError) as refused:
            self._lent.give_rings(key)
            self._warn(f"channel {message.relid} not opened: {refused}")
            self._send(m.OpenChannelResult(message.relid, message.open_id, STATUS_UNSUCCESSFUL))
            return
        self.channels[message.relid] = key
        self._services.channel_failed[key] = self._channel_failed
        limits = self._limits
        self._services.dispatcher.attach(
            key,
            self.identity,
            user_data.nonce,
            self.backend,
            self.backend.scope,
            weight=limits.weight / WEIGHT_ORDINARY,
            spooled_bytes_max=limits.spooled_bytes,
        )
        try:
            self._send(m.Doorbells(message.relid), (bell, socket))
            self._send(m.OpenChannelResult(message.relid, message.open_id, STATUS_SUCCESS))
        finally:
            close_all((bell, socket))
        self._loop.call_soon(self._withdraw_if_outdated)  # the policy may have changed since the offer

    def _channel_failed(self, reason: str) -> None:
        self._warn(f"corrupted its ring: {reason}")
        self.refuse(f"ring corrupted: {reason}")

    def _close_channel(self, relid: int) -> None:
        key = self.channels.pop(relid, None)
        if key is not None:
            requests, size_bytes = self._services.dispatcher.offload.hits.close(key, self._entry_name)
            self._hits_before = (self._hits_before[0] + requests, self._hits_before[1] + size_bytes)
            self._services.channel_failed.pop(key, None)
            self._services.engine.close_channel(key)
            self._lent.give_rings(key)
            self._services.dispatcher.detach(key)


def _limits_of(backend: GuardedBackend, host: DeviceLimits) -> DeviceLimits:
    """Return what is offered to this guest: the host's limits, narrowed by its policy entry."""
    entry = backend.entry
    if entry is None:
        return host
    requests, lent = entry.limits.requests_in_flight, entry.limits.lent_bytes
    return replace(
        host,
        requests_in_flight_max=min(requests or host.requests_in_flight_max, host.requests_in_flight_max),
        lent_bytes_max=min(lent or host.lent_bytes_max, host.lent_bytes_max),
    )
