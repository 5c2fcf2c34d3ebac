"""The host: listens on its socket, serves each guest that connects, and stops in order.

One process, one asyncio loop for everything that is decided, Rust threads for everything that is moved. A guest costs
a bounded number of descriptors, so the host knows how many guests its limit of open files allows, and refuses the
next one with a reason instead of failing at some later point.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from pvblob import _native
from pvblob.http import Backend
from pvblob.vmbus import messages as m
from pvblob.vmbus.bus import Bus, listen
from pvblob.vmbus.constants import STATUS_REFUSED
from pvblob.vmbus.user_data import DeviceLimits, Features
from pvblob.vsp.budget import Limits
from pvblob.vsp.delivery import RESPONSE_BYTES_MIN
from pvblob.vsp.dispatch import Dispatcher
from pvblob.vsp.guest import GuestConnection, Services

log = logging.getLogger("pvblob.vsp")

# Per guest: its socket, the page it reads, a doorbell each way, its pidfd, and regions while they are being mapped.
DESCRIPTORS_PER_GUEST = 8
DESCRIPTORS_RESERVED = 256  # segments, the catalog, the HTTP front's connections
POLLING_US = 50
_FULL = "the host's limit of open files allows no more guests; raise it (ulimit -n, LimitNOFILE=) and restart the host"


class Host:
    """Serves *backend* to the guests that connect to *socket_path*.

    timeout_s_max: the longest a request may take, and the deadline of those that name none.
    lent_bytes_max: how much memory one guest may lend.  workers: threads that take packets and move bytes.
    limits: what is spent on all guests together; None = the defaults of `budget.Limits`.
    """

    def __init__(
        self,
        backend: Backend,
        socket_path: str | Path,
        *,
        timeout_s_max: float = 300.0,
        requests_in_flight_max: int = 1024,
        lent_bytes_max: int = 4 << 30,
        workers: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._backend = backend
        self.socket_path = Path(socket_path)
        self._timeout_s_max = timeout_s_max
        self._limits = DeviceLimits(
            requests_in_flight_max=requests_in_flight_max,
            response_bytes_min=RESPONSE_BYTES_MIN,
            timeout_ms_max=int(timeout_s_max * 1000),
            lent_bytes_max=lent_bytes_max,
            regions_max=256,
            features=Features.CANCEL_PACKETS | Features.CONTINUATION | Features.RFC_9292,
            host_software="pvblob",
        )
        self._workers = workers or max(1, os.cpu_count() or 1)
        self._budget = limits or Limits()
        self._guests: set[GuestConnection] = set()
        self._keys = itertools.count(1)
        self._channel_failed: dict[int, Callable[[str], None]] = {}
        self._instance_id = uuid4()
        self._guests_max = 0
        self._running = False

    async def start(self) -> None:
        """Listen and serve. Raises ChannelError when another host listens on the socket."""
        self._loop = asyncio.get_running_loop()
        self._guests_max = raise_descriptor_limit()
        self._listener = listen(self.socket_path, refusal=m.encode(m.Refused.because(STATUS_REFUSED, _FULL)))
        self._executor = ThreadPoolExecutor(self._workers, "pvblob-store")
        self._engine = _native.HostEngine(self._workers, self._workers)
        self._dispatcher = Dispatcher(
            self._engine,
            self._backend,
            self._executor,
            threads=self._workers,
            limits=self._budget,
            timeout_s_max=self._timeout_s_max,
            on_channel_failed=self._failed,
        )
        self._services = Services(
            self._engine,
            self._dispatcher,
            self._limits,
            lambda: next(self._keys),
            self._channel_failed,
            self._polling_us,
        )
        self._loop.add_reader(self._listener.fileno(), self._accept)
        self._running = True

    async def stop(self) -> None:
        """Rescind every channel, let running requests end, and release everything. Idempotent."""
        if not self._running:
            return
        self._running = False
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for guest in list(self._guests):
            guest.rescind()
        await self._dispatcher.close()
        self._engine.stop()
        self._executor.shutdown()

    async def __aenter__(self) -> Host:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def guests(self) -> int:
        """How many guests are connected."""
        return len(self._guests)

    @property
    def dispatcher(self) -> Dispatcher:
        """The dispatcher, for its counters."""
        return self._dispatcher

    # ---- guests

    def _accept(self) -> None:
        bus = self._listener.accept()
        if bus is not None:
            self._serve(bus)

    def _serve(self, bus: Bus) -> None:
        guest = GuestConnection(bus, self._services, self._instance_id, self._forget)
        if bus.peer.uid not in (os.geteuid(), 0):
            log.warning("refused pid %d of uid %d: only uid %d is served", guest.pid, bus.peer.uid, os.geteuid())
            guest.refuse(f"this host serves uid {os.geteuid()} only; you are uid {bus.peer.uid}")
        elif len(self._guests) >= self._guests_max:
            log.warning("refused pid %d: %d guests are connected", guest.pid, len(self._guests))
            guest.refuse(_FULL)
        else:
            self._guests.add(guest)
            guest.begin()
            self._regrant()

    def _forget(self, guest: GuestConnection) -> None:
        if guest in self._guests:
            self._guests.discard(guest)
            self._regrant()

    def _failed(self, channel: int, reason: str) -> None:
        failed = self._channel_failed.get(channel)
        if failed is not None:
            failed(reason)

    # ---- polling grants (design §6): who polls never makes up more than cores - 1

    def _polling_us(self) -> int:
        return POLLING_US if len(self._guests) <= (os.cpu_count() or 1) - 1 else 0

    def _regrant(self) -> None:
        for guest in self._guests:
            guest.grant_polling()


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; return how many guests that allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return max(1, (hard - DESCRIPTORS_RESERVED) // DESCRIPTORS_PER_GUEST)
