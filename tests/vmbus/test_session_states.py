"""The transition table, pair by pair: whatever it does not list is an error that names both. See also the walk."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from pvblob.errors import LocalProtocolError, RemoteProtocolError
from pvblob.frozen import replace
from pvblob.vmbus import messages as m
from pvblob.vmbus.session import Crossed, Session
from pvblob.vmbus.transitions import (
    CROSSED,
    TRANSITIONS,
    ChannelState,
    ConnectionState,
    GpadlState,
    InterruptState,
    RegionState,
    State,
)

PairAt = Callable[[State], Any]
Examples = dict[type[m.Message], m.Message]
EVERY_TYPE = tuple(m.MESSAGE_TYPES.values())
CHANNEL_TYPES = tuple(dict.fromkeys(message for state, message in TRANSITIONS if isinstance(state, ChannelState)))
# The messages that speak of a record of this kind; of the others its state says nothing.
TYPES_OF: dict[type[State], tuple[type[m.Message], ...]] = {
    ConnectionState: EVERY_TYPE,
    ChannelState: CHANNEL_TYPES,
    InterruptState: (m.ModifyChannelResponse, m.ModifyChannel),
    GpadlState: (m.GpadlHeader, m.GpadlBody, m.GpadlCreated, m.GpadlTeardown, m.GpadlTorndown),
    RegionState: (m.MemoryRegion, m.MemoryRegionResult, m.MemoryRegionRemove, m.MemoryRegionRemoved),
}
PAIRS = [(state, message) for machine, types in TYPES_OF.items() for state, message in product(machine, types)]
ILLEGAL = [pair for pair in PAIRS if pair not in TRANSITIONS]
CROSSINGS = [pair for pair, entry in TRANSITIONS.items() if entry is CROSSED]


def name_of(value: Any) -> str:
    return value.NAME if isinstance(value, type) else f"{type(value).__name__[:-5]}-{value.name}"


def send_illegally(sender: Session, message: m.Message) -> str:
    before = repr((sender, dict(sender.channels), dict(sender.gpadls), dict(sender.regions)))
    with pytest.raises(LocalProtocolError) as error:
        sender.send(message)
    assert repr((sender, dict(sender.channels), dict(sender.gpadls), dict(sender.regions))) == before
    return str(error.value)


def states_named(session: Session) -> list[str]:
    """What an error may say about the records that `example` speaks of."""
    interrupts = [one.interrupts for one in session.channels.values()]
    records = [*session.channels.values(), *interrupts, *session.gpadls.values(), *session.regions.values()]
    return [
        f"the connection is {session.state!r}: this state does not allow it",
        f"channel 1 is {session.channel_state(1)!r}",
        *(f"{one} is {one.state!r}" for one in records),
        *(f"{gone} is ABSENT" for gone in ("GPADL 0xe1e10", "the memory region at 0x100000")),
    ]


@pytest.mark.parametrize(("state", "message"), ILLEGAL, ids=name_of)
def test_an_illegal_message_is_an_error_that_names_state_and_message(
    state: State, message: type[m.Message], pair_at: PairAt, example: Examples
) -> None:
    """H3, H17: theirs ends the connection, ours changes nothing."""
    pair = pair_at(state)
    sender, receiver = pair.ends(example[message])
    text = send_illegally(sender, example[message])
    assert message.NAME in text
    assert any(named in text for named in states_named(sender)), text
    if (receiver, state) == (pair.host, ChannelState.IGNORED):
        return  # only the guest knows that it ignores the offer
    if state is GpadlState.REVOKED and (ChannelState.RESCINDED, message) in CROSSINGS:
        return  # the channel's state decides; see below
    possible = states_named(receiver)
    with pytest.raises(RemoteProtocolError) as error:
        receiver.receive(m.encode(example[message]), message.DESCRIPTORS)
    assert message.NAME in str(error.value)
    assert any(named in str(error.value) for named in possible), error.value
    assert receiver.state is ConnectionState.FAILED


def fresh(message: m.Message) -> m.Message:
    """A header that crossed describes a GPADL we have not seen."""
    return replace(message, gpadl_id=0xE1E11) if isinstance(message, m.GpadlHeader) else message


@pytest.mark.parametrize(("state", "message"), CROSSINGS, ids=name_of)
def test_what_crossed_is_taken_quietly_and_never_sent_knowingly(
    state: State, message: type[m.Message], pair_at: PairAt, example: Examples
) -> None:
    """Design rule 3, W-27."""
    pair = pair_at(state)
    crossing = fresh(example[message])
    sender, receiver = pair.ends(crossing)
    connection, known = receiver.state, dict(receiver.channels)
    assert receiver.receive(m.encode(crossing), message.DESCRIPTORS) == Crossed(crossing)
    assert (receiver.state, dict(receiver.channels)) == (connection, known)
    assert f"is {state.name}" in send_illegally(sender, crossing)


@pytest.mark.parametrize("state", [state for machine in TYPES_OF for state in machine], ids=name_of)
def test_every_state_can_be_reached_through_both_roles(state: State, pair_at: PairAt) -> None:
    """The pair checks after every message that both ends are in the same states."""
    pair = pair_at(state)
    seen = {pair.guest.state, pair.guest.channel_state(1)}
    seen |= {one.state for one in (*pair.guest.gpadls.values(), *pair.guest.regions.values())}
    seen |= {one.interrupts.state for one in pair.guest.channels.values()}
    if state not in (GpadlState.ABSENT, RegionState.ABSENT):
        assert state in seen
