"""Fixtures: a guest and a host session joined in one process, every message checked on both sides (as h11 does)."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from pvblob.vmbus import messages as m
from pvblob.vmbus.bus import Bus, close_all
from pvblob.vmbus.constants import AZURE_BLOB_CLASS, VPCI_CLASS, VPCI_TWIN_INSTANCES
from pvblob.vmbus.gpadl import split
from pvblob.vmbus.guid import Guid
from pvblob.vmbus.roles import GUEST, HOST
from pvblob.vmbus.session import Received, Session
from pvblob.vmbus.transitions import (
    ChannelState,
    ConnectionState,
    GpadlState,
    InterruptState,
    RegionState,
    State,
)

C, K, G, I, R = ConnectionState, ChannelState, GpadlState, InterruptState, RegionState  # noqa: E741
RELID, RING, GPA, PAGES = 1, 0xE1E10, 0x100000, 64
INSTANCE = Guid.of("00112233-4455-6677-8899-aabbccddeeff")
(TWIN,) = VPCI_TWIN_INSTANCES

OFFER = m.OfferChannel(AZURE_BLOB_CLASS, INSTANCE, RELID)
TWIN_OFFER = m.OfferChannel(VPCI_CLASS, TWIN, RELID)
OPEN = m.OpenChannel(RELID, 7, RING, PAGES // 2)
HEADER, *BODIES = split(RELID, RING, range(PAGES))

# Steps from state to state: the one before, then what brings us on. The sender is the message's own property.
PATHS: dict[State, tuple[State | None, tuple[m.Message, ...]]] = {
    C.DISCONNECTED: (None, ()),
    C.CONTACTING: (C.DISCONNECTED, (m.InitiateContact(0x50003),)),
    C.AGREED: (C.CONTACTING, (m.VersionResponse(1),)),
    C.CONNECTED: (C.AGREED, (m.HostPage(4096),)),
    C.OFFERING: (C.CONNECTED, (m.RequestOffers(),)),
    C.READY: (C.OFFERING, (m.AllOffersDelivered(),)),
    C.RECONTACTING: (C.READY, (m.InitiateContact(0x50003),)),
    C.UNLOADING: (C.READY, (m.Unload(),)),
    C.REFUSED: (C.READY, (m.Refused(0, "no"),)),
    K.ABSENT: (C.READY, ()),
    K.OFFERED: (C.READY, (OFFER,)),
    K.IGNORED: (C.READY, (TWIN_OFFER,)),
    K.OPENING: (G.CREATED, (OPEN,)),
    K.WIRED: (K.OPENING, (m.Doorbells(RELID),)),
    K.OPEN: (K.WIRED, (m.OpenChannelResult(RELID, 7, 0),)),
    K.CLOSING: (K.OPEN, (m.CloseChannel(RELID),)),
    K.RESCINDED: (G.CREATED, (m.RescindChannelOffer(RELID),)),
    K.RELEASED: (K.RESCINDED, (m.RelidReleased(RELID),)),
    I.SETTLED: (K.OPEN, ()),
    I.MOVING: (K.OPEN, (m.ModifyChannel(RELID, 3),)),
    G.ABSENT: (K.OFFERED, ()),
    G.ASSEMBLING: (K.OFFERED, (HEADER,)),
    G.PENDING: (K.OFFERED, (HEADER, *BODIES)),
    G.CREATED: (G.PENDING, (m.GpadlCreated(RELID, RING, 0),)),
    G.TEARING_DOWN: (G.CREATED, (m.GpadlTeardown(RELID, RING),)),
    G.REVOKED: (G.CREATED, (m.RescindChannelOffer(RELID),)),
    R.ABSENT: (C.READY, ()),
    R.PENDING: (C.READY, (m.MemoryRegion(GPA, 0x200000, 1),)),
    R.LENT: (R.PENDING, (m.MemoryRegionResult(GPA, 0),)),
    R.REMOVING: (R.LENT, (m.MemoryRegionRemove(GPA),)),
}

# One message of every type, addressed to the records above.
EXAMPLES: dict[type[m.Message], m.Message] = {
    type(one): one
    for one in (
        m.InitiateContact(0x50003),
        m.VersionResponse(1),
        m.Unload(),
        m.UnloadResponse(),
        m.RequestOffers(),
        OFFER,
        m.AllOffersDelivered(),
        m.RescindChannelOffer(RELID),
        m.RelidReleased(RELID),
        OPEN,
        m.OpenChannelResult(RELID, 7, 0),
        m.CloseChannel(RELID),
        m.ModifyChannel(RELID, 3),
        m.ModifyChannelResponse(RELID, 0),
        HEADER,
        BODIES[0],
        m.GpadlCreated(RELID, RING, 0),
        m.GpadlTeardown(RELID, RING),
        m.GpadlTorndown(RING),
        m.MemoryRegion(GPA, 0x200000, 1),
        m.MemoryRegionResult(GPA, 0),
        m.MemoryRegionRemove(GPA),
        m.MemoryRegionRemoved(GPA),
        m.Doorbells(RELID),
        m.HostPage(4096),
        m.Refused(0xC0000236, "no"),
    )
}


class ConnectionPair:
    """A guest and a host; `deliver` runs a message through both and finds them in the same states."""

    def __init__(self, guest: Session | None = None, host: Session | None = None) -> None:
        self.guest = guest or Session(GUEST)
        self.host = host or Session(HOST)

    def ends(self, message: m.Message) -> tuple[Session, Session]:
        """The sender and the receiver of this message."""
        return (self.guest, self.host) if message.SENDER is GUEST else (self.host, self.guest)

    def deliver(self, message: m.Message) -> Received:
        sender, receiver = self.ends(message)
        received = receiver.receive(sender.send(message), m.descriptors_expected(message))
        self.assert_same_states()
        return received

    def forge(self, message: m.Message, fd_count: int | None = None) -> Received:
        """Let the receiver have a message that its peer may not send."""
        receiver = self.ends(message)[1]
        return receiver.receive(m.encode(message), message.DESCRIPTORS if fd_count is None else fd_count)

    def lend(self, relid: int, gpadl_id: int, pages: int) -> None:
        """Describe a GPADL and create it."""
        self.deliver_all(*split(relid, gpadl_id, range(pages)), m.GpadlCreated(relid, gpadl_id, 0))

    def deliver_all(self, *messages: m.Message) -> None:
        for message in messages:
            self.deliver(message)

    def assert_same_states(self) -> None:
        guest, host = self.guest, self.host
        assert guest.state is host.state
        assert guest.version == host.version
        # What the guest ignores is just offered to the host.
        ours = {relid: K.OFFERED if one.state is K.IGNORED else one.state for relid, one in guest.channels.items()}
        assert ours == {relid: one.state for relid, one in host.channels.items()}
        assert _states(guest.gpadls) == _states(host.gpadls)
        assert _states(guest.regions) == _states(host.regions)

    def reach(self, state: State) -> None:
        """Go the shortest legal way to *state* of the connection, of channel 1, its GPADL, or the region at GPA."""
        if state is C.FAILED:
            for session in (self.guest, self.host):
                with pytest.raises(m.RemoteProtocolError):
                    session.receive(b"")
            return
        before, messages = PATHS[state]
        if before is not None:
            self.reach(before)
        self.deliver_all(*messages)


def _states(records: object) -> dict[int, State]:
    return {key: one.state for key, one in dict(records).items()}  # type: ignore[call-overload]


@pytest.fixture
def pair() -> ConnectionPair:
    return ConnectionPair()


@pytest.fixture
def pair_at() -> Callable[[State], ConnectionPair]:
    """A function that makes a pair in a given state."""

    def make(state: State) -> ConnectionPair:
        made = ConnectionPair()
        made.reach(state)
        return made

    return make


@pytest.fixture
def make_pair() -> type[ConnectionPair]:
    """The class, for pairs of particular sessions."""
    return ConnectionPair


@pytest.fixture
def example() -> dict[type[m.Message], m.Message]:
    return EXAMPLES


@pytest.fixture
def buses() -> Iterator[tuple[Bus, Bus]]:
    """Two ends of one real socket pair."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with Bus(left) as one, Bus(right) as other:
        yield one, other


def _fill(filler: list[int]) -> None:
    while True:
        try:
            filler.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            return


@contextmanager
def _full_descriptor_table() -> Iterator[list[int]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    filler: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        _fill(filler)
        yield filler
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        close_all(filler)


@pytest.fixture
def full_descriptor_table() -> Callable[[], AbstractContextManager[list[int]]]:
    """A context in which this process can open no descriptor; gives those that fill the table."""
    return _full_descriptor_table
