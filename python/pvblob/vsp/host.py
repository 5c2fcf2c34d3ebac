"""The host: listens on its sockets, serves each guest that policy names, and stops in order.

One process, one asyncio loop for everything that is decided, Rust threads for everything that is moved. A guest costs
a bounded number of descriptors, so the host knows how many guests its limit of open files allows, and refuses the
next one with a reason instead of failing at some later point.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from pvblob import _native
from pvblob.errors import ChannelError, PvblobError
from pvblob.http import Backend
from pvblob.vmbus import messages as m
from pvblob.vmbus.bus import Bus, Listener, listen
from pvblob.vmbus.constants import STATUS_REFUSED
from pvblob.vmbus.guid import Guid
from pvblob.vmbus.user_data import DeviceLimits, Features
from pvblob.vsp.audit import Audit, PeerLog
from pvblob.vsp.budget import Limits
from pvblob.vsp.delivery import RESPONSE_BYTES_MIN
from pvblob.vsp.departures import Departures
from pvblob.vsp.dispatch import Dispatcher
from pvblob.vsp.disposal import Disposal
from pvblob.vsp.guard import Guard
from pvblob.vsp.guest import GuestConnection, Services
from pvblob.vsp.lent import machine_shares, mappings_max
from pvblob.vsp.peer import guest_of
from pvblob.vsp.policy import Guest, Policy, built_in

log = logging.getLogger("pvblob.vsp")

# Per guest: its socket, the page it reads, a doorbell each way, its pidfd, one to spare. Half of what a process may
# open is for that; the other half is for the regions that guests lend, of which each has its share.
DESCRIPTORS_PER_GUEST = 6
DESCRIPTORS_RESERVED = 256  # segments, the catalog, the HTTP front's connections
FEATURES = Features.CANCEL_PACKETS | Features.CONTINUATION | Features.RFC_9292
# About what a wake-up across cores costs: whoever spins so long in vain has lost no more than a sleep would have cost.
POLLING_US = 50
STARVED_S = 0.05  # until it is tried again to accept guests when no descriptor is free
# How long a thread that wants the GIL lets another run on, at most. Beside many requests the loop does not rest, and
# the committer, which lets go of the GIL with every statement of SQL, waited for Python's own 5 ms again and again.
GIL_SWITCH_S = 0.001
CLOSING_S = 1.0  # what a stopping host waits for the descriptors of its guests to close
_FULL = (
    "the host's limits of open files and mappings allow no more guests; raise them (ulimit -n, LimitNOFILE=, "
    "vm.max_map_count) and restart the host"
)


class SocketSettings(NamedTuple):
    """A socket to listen on. mode: who may connect.  group: gid it belongs to, None for the host's own."""

    path: Path
    mode: int = 0o600
    group: int | None = None


class Host:
    """Serves *backend* to the guests that connect to *socket_path*.

    guard: judges guests and what they ask; None serves the host's own user and root, and judges nothing more.
    sockets: more sockets to listen on.  socket_mode, socket_group: of *socket_path*.
    timeout_s_max: the longest a request may take, and the deadline of those that name none.
    lent_bytes_max: how much memory one guest may lend.  workers: threads that take packets and move bytes.
    limits: what is spent on all guests together; None = the defaults of `budget.Limits`.
    offload_entries_max: how many answers the data plane may know by itself; 0: every request goes to Python.
    polling: whether threads may spin for a moment before they sleep, all together on at most cores - 1 (design §6).
    stallable: tests may stall the reading of files.
    """

    def __init__(
        self,
        backend: Backend,
        socket_path: str | Path,
        *,
        guard: Guard | None = None,
        sockets: Iterable[SocketSettings] = (),
        socket_mode: int = 0o600,
        socket_group: int | None = None,
        timeout_s_max: float = 300.0,
        requests_in_flight_max: int = 1024,
        lent_bytes_max: int = 4 << 30,
        workers: int | None = None,
        limits: Limits | None = None,
        offload_entries_max: int = 16384,
        polling: bool = True,
        stallable: bool = False,
    ) -> None:
        self.peer_log = PeerLog(log)
        self.guard = guard or Guard(backend, None, built_in(os.geteuid()), Audit(self.peer_log))
        self.socket_path = Path(socket_path)
        main = SocketSettings(self.socket_path, socket_mode, socket_group)
        self._sockets = {socket.path: socket for socket in (*sockets, main)}
        self._listeners: dict[Path, Listener] = {}
        self._timeout_s_max = timeout_s_max
        self._limits = _device_limits(timeout_s_max, requests_in_flight_max, lent_bytes_max)
        self._workers = workers or cores()
        self._budget = limits or Limits()
        threads = self._workers, self._workers
        polls = {"spinners_max": cores() - 1 if polling else 0, "spin_us": POLLING_US}
        self._start_engine = partial(_native.HostEngine, *threads, offload_entries_max, stallable=stallable, **polls)
        self._guests, self._keys = set[GuestConnection](), itertools.count(1)
        self._disposal, self._unmapping = Disposal(), Disposal(threads_max=1)
        self._channel_failed: dict[int, Callable[[str], None]] = {}
        self.instance_id = Guid(uuid4().bytes_le)
        self._guests_max = self.refused = 0
        self._running = False

    async def start(self) -> None:
        """Listen and serve. Raises ChannelError when another host listens on a socket, SettingsError for a bad one."""
        self._loop = asyncio.get_running_loop()
        sys.setswitchinterval(min(sys.getswitchinterval(), GIL_SWITCH_S))
        descriptors = raise_descriptor_limit()
        # Each has a page it reads, mapped here; a quarter of the mappings is for those.
        self._guests_max = max(1, min(descriptors // 2 // DESCRIPTORS_PER_GUEST, mappings_max() // 4))
        listening = self._listen_on_all()
        self._executor = ThreadPoolExecutor(self._workers, "pvblob-store")
        self._engine = self._start_engine()
        self._dispatcher = Dispatcher(
            self._engine,
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
            self.peer_log,
            self._disposal,
            self._unmapping,
            Departures(),
            machine_shares(descriptors),
        )
        for socket, listener in listening:
            self._accept_on(socket, listener)
        self._running = True
        self.started_s = time.monotonic()

    async def stop(self) -> None:
        """Rescind every channel, let running requests end, and release everything. Idempotent."""
        if not self._running:
            return
        self._running = False
        for path in list(self._listeners):
            self._ignore(path)
        self.rescind()
        await self._dispatcher.close()
        self._engine.stop()
        self._dispatcher.offload.close()
        self._executor.shutdown()
        self._disposal.finish(CLOSING_S)
        self._unmapping.finish(CLOSING_S)
        self.peer_log.close()

    def rescind(self) -> None:
        """Withdraw the device from every guest, without waiting for any of them (design rule 3).

        Their channels are closed when this returns, and nothing can name their memory any more; a guest connects again
        at its next call.
        """
        for guest in list(self._guests):
            guest.rescind()

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
    def connections(self) -> list[GuestConnection]:
        """The connected guests."""
        return list(self._guests)

    @property
    def sockets(self) -> list[Path]:
        """Where guests may connect."""
        return list(self._listeners)

    @property
    def dispatcher(self) -> Dispatcher:
        """The dispatcher, for its counters."""
        return self._dispatcher

    @property
    def engine(self) -> _native.HostEngine:
        """The data plane, for its counters."""
        return self._engine

    # ---- sockets

    def _listen(self, socket: SocketSettings) -> Listener:
        refusal = m.encode(m.Refused.because(STATUS_REFUSED, _FULL))
        dispose = self._disposal.descriptors
        return listen(socket.path, refusal=refusal, mode=socket.mode, group=socket.group, dispose=dispose)

    def _listen_on_all(self) -> list[tuple[SocketSettings, Listener]]:
        with contextlib.ExitStack() as undo:
            listening = [(socket, undo.enter_context(self._listen(socket))) for socket in self._sockets.values()]
            undo.pop_all()
        return listening

    def _accept_on(self, socket: SocketSettings, listener: Listener) -> None:
        self._listeners[socket.path] = listener
        self._loop.add_reader(listener.fileno(), self._accept, socket.path)

    def _ignore(self, path: Path) -> None:
        listener = self._listeners.pop(path)
        self._loop.remove_reader(listener.fileno())
        listener.close()

    # ---- policy

    def apply_policy(self, policy: Policy, sockets: Iterable[SocketSettings] = ()) -> None:
        """Judge by *policy* from now on and listen on *sockets* beside the first one.

        Guests that it does not name are dismissed; the others go on under their new rights and shares. From those whose
        offered limits change the device is withdrawn, and they connect again. A socket that cannot be had is logged and
        left out.
        """
        self.guard.enforce(policy)
        for guest in list(self._guests):
            if not guest.reconsider():
                guest.refuse("the host's policy does not name this process any more")
        self._dispatcher.retire_scopes()
        wanted = {self.socket_path: self._sockets[self.socket_path]} | {socket.path: socket for socket in sockets}
        for path in [path for path in self._listeners if wanted.get(path) != self._sockets[path]]:
            self._ignore(path)
        self._sockets = wanted
        for path in wanted.keys() - self._listeners.keys():
            try:
                self._accept_on(wanted[path], self._listen(wanted[path]))
            except PvblobError as error:
                log.error("%s", error)

    # ---- guests

    def _accept(self, path: Path) -> None:
        listener = self._listeners[path]
        bus = listener.accept()
        if bus is not None:
            self._serve(bus, path)
        elif listener.starved:
            self._loop.remove_reader(listener.fileno())
            self._loop.call_later(STARVED_S, self._listen_again, path, listener)

    def _listen_again(self, path: Path, listener: Listener) -> None:
        if self._listeners.get(path) is listener:
            self._loop.add_reader(listener.fileno(), self._accept, path)

    def _serve(self, bus: Bus, path: Path) -> None:
        who = guest_of(bus, path)
        backend = self.guard.admit(who)
        if backend is None:
            self._refuse(bus, who, f"{self.guard.policy.source} names no guest like this process (uid {who.uid})")
        elif len(self._guests) + self._disposal.waiting >= self._guests_max:
            self._refuse(bus, who, _FULL)
        else:
            guest = GuestConnection(bus, self._services, backend, self.instance_id, self._forget)
            self._guests.add(guest)
            guest.begin()

    def _refuse(self, bus: Bus, who: Guest, reason: str) -> None:
        self.refused += 1
        self.peer_log.warning(who.identity, f"refused pid {who.pid} uid {who.uid} cgroup {who.cgroup}: {reason}")
        with contextlib.suppress(ChannelError):
            bus.send(m.encode(m.Refused.because(STATUS_REFUSED, reason)))
        self._disposal.bus(bus)

    def _forget(self, guest: GuestConnection) -> None:
        self._guests.discard(guest)

    def _failed(self, channel: int, reason: str) -> None:
        failed = self._channel_failed.get(channel)
        if failed is not None:
            failed(reason)


def _device_limits(timeout_s_max: float, requests_in_flight_max: int, lent_bytes_max: int) -> DeviceLimits:
    return DeviceLimits(
        requests_in_flight_max=requests_in_flight_max,
        response_bytes_min=RESPONSE_BYTES_MIN,
        timeout_ms_max=int(timeout_s_max * 1000),
        lent_bytes_max=lent_bytes_max,
        regions_max=256,
        features=FEATURES,
        host_software="pvblob",
    )


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; return how many of them guests may cost."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return max(16, hard - DESCRIPTORS_RESERVED)
