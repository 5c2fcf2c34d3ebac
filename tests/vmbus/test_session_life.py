"""The life of a connection and its channels, told through both roles. Source: spec/vmbus.md §3.1, H14-H18."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pvblob.errors import HostRefused, LocalProtocolError, RemoteProtocolError
from pvblob.frozen import replace
from pvblob.vmbus import messages as m
from pvblob.vmbus.constants import (
    AZURE_BLOB_CLASS,
    RELID_MAX,
    STATUS_REFUSED,
    VERSION_4_0,
    VERSION_5_2,
    VERSION_5_3,
)
from pvblob.vmbus.gpadl import split
from pvblob.vmbus.guid import Guid
from pvblob.vmbus.records import Bounds
from pvblob.vmbus.roles import GUEST, HOST
from pvblob.vmbus.session import Crossed, Session
from pvblob.vmbus.transitions import ChannelState, ConnectionState, GpadlState, InterruptState, State

PairAt = Callable[[State], Any]
INSTANCE = Guid.of("00000000-0000-0000-0000-000000000005")
OFFER = m.OfferChannel(AZURE_BLOB_CLASS, INSTANCE, 2)
RING = 0xE1E10


# ---- versions -------------------------------------------------------------------------------------------------------


def test_the_guest_steps_down_until_the_host_supports_its_version(make_pair: Any) -> None:
    """W-6."""
    pair = make_pair(Session(GUEST, (VERSION_5_3, VERSION_5_2, VERSION_4_0)), Session(HOST, (VERSION_5_2,)))
    proposed = []
    while pair.guest.version is None:
        contact = pair.deliver(pair.guest.contact())
        proposed.append(contact.version)
        pair.deliver(pair.host.answer(contact))
    assert proposed == [VERSION_5_3, VERSION_5_2]
    assert pair.host.version == pair.guest.version == VERSION_5_2


def test_a_guest_that_runs_out_of_versions_says_which_it_speaks(make_pair: Any) -> None:
    """W-6."""
    pair = make_pair(Session(GUEST, (VERSION_5_3, VERSION_5_2)), Session(HOST, (VERSION_4_0,)))
    for _ in range(2):
        pair.deliver(pair.host.answer(pair.deliver(pair.guest.contact())))
    with pytest.raises(HostRefused, match=r"\(5\.3, 5\.2\)"):
        pair.guest.contact()


@pytest.mark.parametrize(("state", "why"), [(1, "no resources"), (2, "state 2")])
def test_a_host_that_cannot_serve_is_not_asked_for_older_versions(pair: Any, state: int, why: str) -> None:
    pair.deliver(pair.guest.contact())
    pair.deliver(m.VersionResponse(1, state))
    assert pair.guest.state is ConnectionState.DISCONNECTED
    with pytest.raises(HostRefused, match=why):
        pair.guest.contact()


def test_no_answer_to_modify_channel_exists_before_5_3(make_pair: Any) -> None:
    """H3: only messages of the version agreed."""
    pair = make_pair()
    pair.deliver_all(m.InitiateContact(VERSION_5_2), m.VersionResponse(1), m.HostPage(4096), m.RequestOffers())
    pair.deliver(replace(OFFER, relid=1))
    pair.lend(1, RING, 4)
    pair.deliver_all(m.OpenChannel(1, 1, RING, 2), m.Doorbells(1), m.OpenChannelResult(1, 1, 0))
    pair.deliver_all(m.ModifyChannel(1, 3), m.ModifyChannel(1, 4))
    with pytest.raises(LocalProtocolError, match="MODIFY_CHANNEL_RESPONSE"):
        pair.host.send(m.ModifyChannelResponse(1, 0))


def test_a_new_contact_makes_both_ends_forget(pair_at: PairAt) -> None:
    """§3.1, W-8: the server forgets older state on each contact."""
    pair = pair_at(ChannelState.OPEN)
    pair.deliver(m.MemoryRegion(0, 4096, 1))
    late = pair.host.send(m.RescindChannelOffer(1))
    pair.deliver(pair.guest.contact())
    assert not (pair.host.channels)
    assert not (pair.host.gpadls)
    assert not (pair.host.regions)
    assert not (pair.guest.channels)
    assert pair.guest.receive(late) == Crossed(m.RescindChannelOffer(1))
    pair.deliver_all(m.VersionResponse(1), m.HostPage(4096), m.RequestOffers(), replace(OFFER, relid=1))


def test_a_relid_released_before_a_new_contact_is_unknown_after_it(pair_at: PairAt) -> None:
    """W-8: a rescind for it could not have crossed anything."""
    pair = pair_at(ChannelState.RELEASED)
    pair.deliver_all(pair.guest.contact(), m.VersionResponse(1), m.HostPage(4096), m.RequestOffers())
    with pytest.raises(RemoteProtocolError, match="channel 1 is ABSENT"):
        pair.forge(m.RescindChannelOffer(1))


def test_unload_ends_in_a_state_from_which_contact_can_be_made_again(pair_at: PairAt) -> None:
    """W-28."""
    pair = pair_at(ChannelState.OPEN)
    pair.deliver(m.Unload())
    assert pair.guest.gpadls, "the memory is the host's until it answers"
    pair.deliver(m.UnloadResponse())
    assert not (pair.guest.gpadls)
    assert not (pair.guest.channels)
    assert not (pair.host.gpadls)
    pair.deliver_all(pair.guest.contact(), m.VersionResponse(1))


@pytest.mark.parametrize("state", [state for state in ConnectionState if state is not ConnectionState.REFUSED])
def test_the_host_may_refuse_a_guest_in_every_state(state: State, pair_at: PairAt) -> None:
    """W-14; also after the guest broke a rule."""
    pair = pair_at(state)
    assert pair.deliver(m.Refused.because(1, "out of descriptors")) == m.Refused(1, "out of descriptors")
    assert pair.guest.state is ConnectionState.REFUSED


def test_a_refused_guest_may_have_more_on_its_way_than_the_bounds_allow(make_pair: Any) -> None:
    """W-14: it is dropped, unread. (A guest whose GPADLs the host had torn down meanwhile may describe new ones.)"""
    pair = make_pair(host=Session(HOST, bounds=Bounds(gpadls_max=1)))
    pair.reach(GpadlState.CREATED)
    pair.deliver(m.Refused(1, "no"))
    for gpadl_id in (RING, 5):
        header = next(split(1, gpadl_id, range(3)))
        assert pair.forge(header) == Crossed(header)


# ---- who may send what ----------------------------------------------------------------------------------------------


def test_a_message_of_the_other_role_is_an_error_for_both(pair_at: PairAt) -> None:
    pair = pair_at(ConnectionState.READY)
    with pytest.raises(LocalProtocolError, match=r"GUEST cannot send ALL_OFFERS_DELIVERED .*only the host sends it"):
        pair.guest.send(m.AllOffersDelivered())
    with pytest.raises(RemoteProtocolError, match=r"GUEST received UNLOAD .*only the guest sends it"):
        pair.guest.receive(m.encode(m.Unload()))


def test_a_type_we_do_not_speak_is_an_error(pair_at: PairAt) -> None:
    """H3: no version we agree on has it."""
    pair = pair_at(ConnectionState.READY)
    with pytest.raises(LocalProtocolError, match="UNKNOWN"):
        pair.guest.send(m.Unknown(19, b""))
    with pytest.raises(RemoteProtocolError, match="UNKNOWN"):
        pair.host.receive(m.encode(m.Unknown(19, b"")))


@pytest.mark.parametrize("fd_count", [0, 1, 3])
def test_a_wrong_number_of_descriptors_is_an_error(fd_count: int, pair_at: PairAt) -> None:
    """W-2."""
    pair = pair_at(ChannelState.OPENING)
    with pytest.raises(RemoteProtocolError, match=f"DOORBELLS .*{fd_count} descriptors; it carries 2"):
        pair.forge(m.Doorbells(1), fd_count)


def test_a_broken_datagram_fails_the_session(pair_at: PairAt) -> None:
    pair = pair_at(ConnectionState.READY)
    with pytest.raises(RemoteProtocolError):
        pair.host.receive(b"\x07")
    assert pair.host.state is ConnectionState.FAILED
    with pytest.raises(RemoteProtocolError, match="FAILED"):
        pair.forge(m.Unload())


# ---- open, close, rescind -------------------------------------------------------------------------------------------


def test_an_open_succeeds_only_after_doorbells(pair_at: PairAt) -> None:
    """W-13."""
    pair = pair_at(ChannelState.OPENING)
    with pytest.raises(LocalProtocolError, match="OPENING, which does not allow this outcome"):
        pair.host.send(m.OpenChannelResult(1, 7, 0))
    with pytest.raises(RemoteProtocolError, match="OPENING, which does not allow this outcome"):
        pair.forge(m.OpenChannelResult(1, 7, 0))


def test_an_open_cannot_fail_after_doorbells(pair_at: PairAt) -> None:
    """W-13."""
    pair = pair_at(ChannelState.WIRED)
    with pytest.raises(LocalProtocolError, match="WIRED"):
        pair.host.send(m.OpenChannelResult(1, 7, 1))


def test_a_failed_open_leaves_the_channel_offered_and_its_gpadl_the_guests_to_take_back(pair_at: PairAt) -> None:
    pair = pair_at(ChannelState.OPENING)
    pair.deliver(m.OpenChannelResult(1, 7, STATUS_REFUSED))
    assert pair.guest.channel_state(1) is ChannelState.OFFERED
    pair.deliver_all(m.GpadlTeardown(1, RING), m.GpadlTorndown(RING))


def test_an_answer_to_another_open_id_is_an_error(pair_at: PairAt) -> None:
    """H18."""
    pair = pair_at(ChannelState.WIRED)
    with pytest.raises(RemoteProtocolError, match="open id 8, asked was 7"):
        pair.forge(m.OpenChannelResult(1, 8, 0))


def test_a_closed_channel_opens_again_once_its_ring_is_torn_down(pair_at: PairAt) -> None:
    """W-20; a GPADL that is not the ring's changes nothing."""
    pair = pair_at(ChannelState.OPEN)
    pair.lend(1, 99, 2)
    pair.deliver_all(m.CloseChannel(1), m.GpadlTeardown(1, 99), m.GpadlTorndown(99))
    assert pair.guest.channel_state(1) is ChannelState.CLOSING
    pair.deliver_all(m.GpadlTeardown(1, RING), m.GpadlTorndown(RING))
    assert pair.guest.channel_state(1) is ChannelState.OFFERED
    pair.lend(1, 100, 8)
    pair.deliver_all(m.OpenChannel(1, 8, 100, 4), m.Doorbells(1), m.OpenChannelResult(1, 8, 0))


def test_a_gpadl_begun_before_the_close_may_be_finished_after_it(pair_at: PairAt) -> None:
    pair = pair_at(ChannelState.OPEN)
    header, body = split(1, 99, range(30))
    pair.deliver_all(header, m.CloseChannel(1), body, m.GpadlCreated(1, 99, 0))
    assert pair.guest.gpadls[99].state is GpadlState.CREATED


def test_a_move_of_the_interrupt_that_a_close_overtook_does_not_block_the_next_open(pair_at: PairAt) -> None:
    pair = pair_at(InterruptState.MOVING)
    pair.deliver_all(m.CloseChannel(1), m.GpadlTeardown(1, RING), m.GpadlTorndown(RING))
    pair.lend(1, 99, 4)
    pair.deliver_all(m.OpenChannel(1, 8, 99, 2), m.Doorbells(1), m.OpenChannelResult(1, 8, 0), m.ModifyChannel(1, 0))


@pytest.mark.parametrize("state", [ChannelState.OPENING, ChannelState.WIRED, ChannelState.OPEN])
def test_the_ring_of_a_channel_in_use_cannot_be_torn_down(state: State, pair_at: PairAt) -> None:
    """H16, W-25."""
    pair = pair_at(state)
    with pytest.raises(LocalProtocolError, match="close it first"):
        pair.guest.send(m.GpadlTeardown(1, RING))
    with pytest.raises(RemoteProtocolError, match="close it first"):
        pair.forge(m.GpadlTeardown(1, RING))


@pytest.mark.parametrize(
    "state", [ChannelState.OPENING, ChannelState.WIRED, ChannelState.OPEN, GpadlState.PENDING, InterruptState.MOVING]
)
def test_a_rescind_answers_whatever_the_guest_waits_for(state: State, pair_at: PairAt) -> None:
    """Design rule 3, W-21: a waiting opener is woken by the rescind; no further answer comes."""
    pair = pair_at(state)
    assert pair.deliver(m.RescindChannelOffer(1)) == m.RescindChannelOffer(1)
    assert pair.guest.channel_state(1) is ChannelState.RESCINDED
    assert {one.state for one in pair.guest.gpadls.values()} == {GpadlState.REVOKED}
    for answer in (m.OpenChannelResult(1, 7, 0), m.GpadlCreated(1, RING, 0), m.ModifyChannelResponse(1, 0)):
        with pytest.raises(LocalProtocolError, match="RESCINDED"):
            pair.host.send(answer)


def test_everything_that_crossed_a_rescind_is_taken_quietly_and_the_relid_comes_back(pair_at: PairAt) -> None:
    """Design rule 3, W-22: the host ignores OPEN for a rescinded channel; a release may come late."""
    pair = pair_at(GpadlState.CREATED)
    rescind = pair.host.send(m.RescindChannelOffer(1))
    parts = split(1, 99, range(30))
    crossing = [*parts, m.OpenChannel(1, 7, RING, 32)]
    for message in crossing:
        assert pair.host.receive(pair.guest.send(message)) == Crossed(message)
    pair.guest.receive(rescind)
    assert pair.guest.releases_owed() == (m.RelidReleased(1),)
    assert pair.deliver(m.RelidReleased(1)) == m.RelidReleased(1)
    assert not (pair.guest.gpadls)
    assert not (pair.host.gpadls)
    assert not (pair.guest.releases_owed())
    pair.deliver(replace(OFFER, relid=1))


def test_a_gpadl_that_crossed_a_rescind_cannot_take_the_place_of_another(pair_at: PairAt) -> None:
    """H14: a hostile guest reuses the id of another channel's GPADL."""
    pair = pair_at(GpadlState.CREATED)
    pair.deliver_all(OFFER, m.RescindChannelOffer(2))
    with pytest.raises(RemoteProtocolError, match="GPADL 0xe1e10 exists"):
        pair.forge(next(split(2, RING, range(3))))
    assert pair.host.gpadls[RING].state is GpadlState.CREATED


def test_a_host_keeps_no_more_for_a_silent_guest_than_its_bound(make_pair: Any) -> None:
    """Design rule 3, W-22: rescinds that the guest never answers."""
    pair = make_pair(host=Session(HOST, bounds=Bounds(channels_max=3)))
    pair.reach(ConnectionState.READY)
    offered = []
    while (relid := pair.host.allocate_relid()) is not None:
        pair.deliver_all(replace(OFFER, relid=relid), m.RescindChannelOffer(relid))
        offered.append(relid)
    assert len(offered) == 3
    with pytest.raises(LocalProtocolError, match="3 channels"):
        pair.host.send(replace(OFFER, relid=9))
    pair.deliver(pair.guest.releases_owed()[0])
    assert pair.host.allocate_relid() not in (None, *offered), "the relid just released is the last to come back"


def test_relids_go_round_from_1_to_2047() -> None:
    """§4: id 0 is reserved."""
    host = Session(HOST)
    given = [host.allocate_relid() for _ in range(RELID_MAX + 1)]
    assert given == [*range(1, RELID_MAX + 1), 1]


@pytest.mark.parametrize("relid", [0, RELID_MAX + 1, 0xFFFFFFFF])
def test_a_relid_outside_its_range_is_an_error(relid: int, pair_at: PairAt) -> None:
    """H18."""
    with pytest.raises(RemoteProtocolError, match="outside 1 to 2047"):
        pair_at(ConnectionState.READY).forge(replace(OFFER, relid=relid))


def test_gpadl_ids_count_up_from_where_linux_begins_and_skip_those_in_use(pair_at: PairAt) -> None:
    """§3.2."""
    pair = pair_at(GpadlState.CREATED)
    assert [pair.guest.allocate_gpadl_id() for _ in range(2)] == [RING + 1, RING + 2]
    pair.guest._last_gpadl_id = 0xFFFFFFFF
    assert pair.guest.allocate_gpadl_id() == 1
