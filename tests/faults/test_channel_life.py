"""A stateful hypothesis machine over channel life: any message at any moment, to a real host.

The oracle is the guest's own `Session`: what it lets out the host must take and answer as the session expects, and what
it calls illegal is sent all the same, and must end the connection with a reason. So one run holds both roles of the
session and the host's `guest.py` to the same table. `PVBLOB_MACHINE_EXAMPLES=20000` makes a long run of it;
`PVBLOB_TEST_SEED` repeats one.
"""

from __future__ import annotations

import mmap
import os
import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pvblob.errors import LocalProtocolError
from pvblob.vmbus import messages as m
from pvblob.vmbus.records import Bounds
from pvblob.vmbus.session import GUEST, Session
from pvblob.vmbus.transitions import ChannelState
from tests.faults import ring as raw
from tests.faults.conftest import Siege
from tests.faults.guest import DATA_GPA, RING_BYTES, RING_PFNS, RINGS_GPA, RawGuest, memfd
from tests.faults.ring import PAGE_BYTES, Ring

SEED = int(os.environ.get("PVBLOB_TEST_SEED", random.SystemRandom().getrandbits(32)))
EXAMPLES = int(os.environ.get("PVBLOB_MACHINE_EXAMPLES", "8"))
RINGS = 2 * RING_BYTES
PLACES = [(RINGS_GPA, RINGS), (DATA_GPA, 0x10000), (DATA_GPA + 0x10000, 0x1000), (0, 0x1000), (RINGS_GPA, 0x1000)]
GPADL_IDS = [1, 2, 0xE1E10]
UNKNOWN_OPERATION = 0x8007_0032
SEEN: Counter[str] = Counter()  # so that a machine that goes nowhere is noticed
# What the host sends for each message that it takes; GPADLs and openings are decided by their content.
ANSWERS: dict[type[m.Message], tuple[type[m.Message], ...]] = {
    m.RequestOffers: (m.OfferChannel, m.AllOffersDelivered),
    m.MemoryRegion: (m.MemoryRegionResult,),
    m.MemoryRegionRemove: (m.MemoryRegionRemoved,),
    m.GpadlTeardown: (m.GpadlTorndown,),
    m.ModifyChannel: (m.ModifyChannelResponse,),
    m.Unload: (m.UnloadResponse,),
}


def gpadl_headers() -> st.SearchStrategy[m.GpadlHeader]:
    """Whole rings, small GPADLs, and headers that lie."""
    whole = st.builds(
        lambda relid, gpadl_id: m.GpadlHeader(
            relid, gpadl_id, 8 + 8 * len(RING_PFNS), 1, RINGS, 0, tuple(RING_PFNS[:26])
        ),
        st.sampled_from([1, 1, 1, 2]),
        st.sampled_from(GPADL_IDS),
    )
    small = st.builds(
        lambda relid, gpadl_id, count, lie: m.GpadlHeader(
            relid, gpadl_id, 8 + 8 * count + lie, 1, 4096 * count, 0, tuple(range(count))
        ),
        st.sampled_from([1, 2, 0]),
        st.sampled_from(GPADL_IDS),
        st.integers(0, 6),
        st.sampled_from([0, 0, 0, 8]),
    )
    return st.one_of(whole, whole, small)


def messages() -> st.SearchStrategy[m.Message]:
    """Every message a guest sends, with values that meet each other often."""
    relid, gpadl_id = st.sampled_from([1, 1, 1, 1, 2, 0]), st.sampled_from(GPADL_IDS)
    place = st.sampled_from(PLACES)
    return st.one_of(
        st.builds(m.InitiateContact, st.sampled_from([0x50003, 0x50003, 0x40000])),
        st.just(m.RequestOffers()),
        place.map(lambda one: m.MemoryRegion(one[0], one[1], 1)),
        place.map(lambda one: m.MemoryRegionRemove(one[0])),
        gpadl_headers(),
        gpadl_headers(),
        st.builds(m.GpadlBody, gpadl_id, st.sampled_from([(), (1,), tuple(RING_PFNS[26:])])),
        st.builds(m.GpadlTeardown, relid, gpadl_id),
        st.builds(m.OpenChannel, relid, st.integers(0, 3), gpadl_id, st.sampled_from([0, 2, 16, 16, 31])),
        st.builds(m.CloseChannel, relid),
        st.builds(m.ModifyChannel, relid, st.integers(0, 3)),
        st.builds(m.RelidReleased, relid),
        st.just(m.Unload()),
    )


# Contact, offers, memory, GPADL, open; a channel that is open needs none.
LEGAL_STEPS = 5


class ChannelLife(RuleBasedStateMachine):
    """One guest after the other; the session knows what is legal now."""

    host: Siege

    def __init__(self) -> None:
        super().__init__()
        self.connect()

    def connect(self) -> None:
        self.guest = RawGuest(self.host.host.socket_path)
        self.session = Session(GUEST, bounds=Bounds(regions_max=256))
        self.rings = self.guest.keep(memfd(RINGS))
        self.memory = memoryview(mmap.mmap(self.rings, RINGS))
        self.talkable = False

    def teardown(self) -> None:
        """Whatever was said: one who goes the legal way is served."""
        if not (self.is_open() and self.talkable):
            self.guest.close()
            self.connect()
        for _ in range(LEGAL_STEPS):
            self.go_on()
        self.talk(1)
        self.guest.close()

    def take(self, *kinds: type[m.Message]) -> m.Message:
        """Receive one message of these kinds and let the session judge it: RemoteProtocolError is the host's defect."""
        before = len(self.guest.descriptors)
        message = self.guest.receive()
        assert isinstance(message, kinds), f"{message} came where {kinds} was due"
        self.session.receive(m.encode(message), len(self.guest.descriptors) - before)
        return message

    def descriptors_for(self, message: m.Message) -> list[int]:
        if not isinstance(message, m.MemoryRegion):
            return []
        if (message.gpa, message.length) == (RINGS_GPA, RINGS):
            return [self.rings]
        return [self.guest.keep(memfd(max(message.length, 4096)))]

    @rule(message=messages())
    def say(self, message: m.Message) -> None:
        """Send it whether it is legal or not."""
        if isinstance(message, m.MemoryRegionRemove) and self.is_open():
            return  # answered when the channel lets go: told in test_memory_attacks.py
        descriptors = self.descriptors_for(message)
        try:
            datagram = self.session.send(message)
        except LocalProtocolError:
            SEEN["refused"] += 1
            self.guest.send(m.encode(message), descriptors)
            assert "protocol error" in self.guest.refusal()
            self.guest.close()
            self.connect()
            return
        SEEN["taken"] += 1
        if isinstance(message, m.OpenChannel):
            self.prepare_rings(message)
        self.guest.send(datagram, descriptors)
        self.take_answers(message)

    def take_answers(self, message: m.Message) -> None:
        if isinstance(message, m.InitiateContact):
            response = self.take(m.VersionResponse)
            if isinstance(response, m.VersionResponse) and response.supported:
                self.take(m.HostPage)
        elif isinstance(message, m.GpadlHeader | m.GpadlBody):
            gpadl = self.session.gpadls[message.gpadl_id]
            if gpadl.assembly is not None and gpadl.assembly.complete:
                self.take(m.GpadlCreated)
        elif isinstance(message, m.OpenChannel):
            if isinstance(self.take(m.Doorbells, m.OpenChannelResult), m.Doorbells):
                self.take(m.OpenChannelResult)
                self.guest.bell, self.guest.bell_socket = self.guest.descriptors[-2:]
                SEEN["opened"] += 1
        else:
            for kind in ANSWERS.get(type(message), ()):
                self.take(kind)

    def is_open(self) -> bool:
        return self.session.channel_state(1) is ChannelState.OPEN

    def prepare_rings(self, message: m.OpenChannel) -> None:
        """Make the rings as new; whether they become this channel's is for the host to say."""
        self.talkable = False
        gpadl = self.session.gpadls.get(message.ring_gpadl_id)
        if gpadl is not None and gpadl.pfns == tuple(RING_PFNS):
            downstream = message.downstream_page_offset * PAGE_BYTES
            for at in (0, downstream):
                self.memory[at : at + PAGE_BYTES] = bytes(PAGE_BYTES)
            self.guest.sending = Ring(self.memory[:downstream])
            self.guest.receiving = Ring(self.memory[downstream:])
            self.talkable = True

    @precondition(lambda self: self.session.state.name in ("DISCONNECTED", "CONNECTED", "READY"))
    @rule()
    def go_on(self) -> None:
        """Take the next step of the legal way, so that open channels are met often."""
        channel = self.session.channel_state(1)
        step: m.Message | None = {"DISCONNECTED": m.InitiateContact(0x50003), "CONNECTED": m.RequestOffers()}.get(
            self.session.state.name
        )
        if step is None and channel is ChannelState.OFFERED:
            if RINGS_GPA not in self.session.regions:
                step = m.MemoryRegion(RINGS_GPA, RINGS, 1)
            elif 1 not in self.session.gpadls:
                self.say(m.GpadlHeader(1, 1, 8 + 8 * len(RING_PFNS), 1, RINGS, 0, tuple(RING_PFNS[:26])))
                step = m.GpadlBody(1, tuple(RING_PFNS[26:])) if 1 in self.session.gpadls else None
            else:
                step = m.OpenChannel(1, 1, 1, 16)
        if step is not None:
            self.say(step)

    @invariant()
    def what_both_remember_is_bounded(self) -> None:
        bounds = self.session.bounds
        assert len(self.session.channels) <= bounds.channels_max
        assert len(self.session.gpadls) <= bounds.gpadls_max

    @precondition(lambda self: self.is_open() and self.talkable)
    @rule(count=st.integers(1, 5))
    def talk(self, count: int) -> None:
        """An open channel answers, whatever was before."""
        SEEN["talked"] += 1
        for transaction_id in range(count):
            self.guest.put(raw.packet(raw.GPA_DIRECT, transaction_id, bytes(56), header=raw.range_header([1]), flags=1))
            assert self.guest.completion()[:2] == (transaction_id, UNKNOWN_OPERATION)


@pytest.mark.long
def test_whatever_a_guest_says_and_whenever_both_ends_agree_on_what_is_legal(siege: Siege) -> None:
    """H3, H14 to H18 over histories that hypothesis makes and shrinks."""
    print(f"PVBLOB_TEST_SEED={SEED} PVBLOB_MACHINE_EXAMPLES={EXAMPLES}")  # noqa: T201 (what repeats this run)
    machine = seed(SEED)(type("SiegedChannelLife", (ChannelLife,), {"host": siege}))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(dict(SEEN))  # noqa: T201
    assert all(SEEN[what] for what in ("taken", "refused", "opened", "talked")), SEEN
