"""Every state of a connection and every move between states: one table, used by both roles.

Two rules: all transitions live here, and this file does not know its role. Both ends keep the same machines and move
them by the same messages, one when it sends and the other when it receives; which role sends a message is the message's
own property. A pair that is not in the table is illegal. `Session` walks the table, `diagram` draws it.

Messages of the two directions may cross on the wire. `CROSSED` marks what an honest peer may still send because it had
not yet seen ours: the receiver takes it quietly; sending it knowingly is an error.
"""

from __future__ import annotations

from enum import Enum

from pvblob.frozen import frozen
from pvblob.vmbus import messages as m
from pvblob.vmbus.messages import Message
from pvblob.vmbus.roles import GUEST, HOST, Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class State(Enum):
    """Base of the states: the value says in words what the state means."""

    def __repr__(self) -> str:
        return self.name


class ConnectionState(State):
    """One per connection."""

    DISCONNECTED = "no version agreed"
    CONTACTING = "a version is proposed"
    RECONTACTING = "a version is proposed anew; what belongs to the older contact may still arrive"
    AGREED = "version agreed, host page outstanding"
    CONNECTED = "version agreed, offers not requested"
    OFFERING = "offers requested"
    READY = "all offers delivered"
    UNLOADING = "the guest leaves"
    REFUSED = "the host refused the guest: the end"
    FAILED = "a rule was broken: the end"


class ChannelState(State):
    """One per relid (H17)."""

    ABSENT = "never offered"
    OFFERED = "offered, not open"
    IGNORED = "offered, and the guest will only release it"
    OPENING = "open requested"
    WIRED = "doorbells handed over, result outstanding"
    OPEN = "open"
    CLOSING = "closed, ring memory not yet taken back"
    RESCINDED = "rescinded, not yet released"
    RELEASED = "released; the relid may be offered anew"


class InterruptState(State):
    """One per channel: where its interrupts go."""

    SETTLED = "no move outstanding"
    MOVING = "MODIFY_CHANNEL unanswered"


class GpadlState(State):
    """One per GPADL id."""

    ABSENT = "unknown or gone"
    ASSEMBLING = "page numbers outstanding"
    PENDING = "complete, host's answer outstanding"
    CREATED = "lent to the host"
    TEARING_DOWN = "taken back, host still holds it"
    REVOKED = "ended by the rescind of its channel"


class RegionState(State):
    """One per lent memory region."""

    ABSENT = "unknown or gone"
    PENDING = "lent, host's answer outstanding"
    LENT = "lent to the host"
    REMOVING = "taken back, host still holds it"


class Mark(Enum):
    """What a table entry may say instead of a next state."""

    CROSSED = "taken quietly: it crossed ours"

    def __repr__(self) -> str:
        return self.name


CROSSED = Mark.CROSSED


@frozen
class Either:
    """Two outcomes of one message; None = this outcome is illegal here. What decides is in `DECIDES`, in words."""

    yes: State | None
    no: State | None


if TYPE_CHECKING:
    Next = State | Either | Mark
    Table = Mapping[tuple[State, type[Message]], Next]

# What decides an Either, per message: what to call yes, and no. `rules.decide` holds the predicates.
DECIDES: dict[type[Message], tuple[str, str]] = {
    m.VersionResponse: ("supported", "not supported"),
    m.OfferChannel: ("wanted", "ignored by the guest"),
    m.OpenChannelResult: ("ok", "failed"),
    m.GpadlHeader: ("complete", "more to come"),
    m.GpadlBody: ("complete", "more to come"),
    m.GpadlCreated: ("ok", "failed"),
    m.GpadlTorndown: ("of the rings", "of other memory"),
    m.ModifyChannel: ("from 5.3 on", "before 5.3"),
    m.MemoryRegionResult: ("ok", "failed"),
}

GPADL_MESSAGES = (m.GpadlHeader, m.GpadlBody, m.GpadlCreated, m.GpadlTeardown, m.GpadlTorndown)
REGION_MESSAGES = (m.MemoryRegion, m.MemoryRegionResult, m.MemoryRegionRemove, m.MemoryRegionRemoved)
CHANNEL_MESSAGES = (
    m.RescindChannelOffer,
    m.RelidReleased,
    m.OpenChannel,
    m.Doorbells,
    m.OpenChannelResult,
    m.CloseChannel,
    m.ModifyChannel,
    m.ModifyChannelResponse,
    *GPADL_MESSAGES,
)


def sent_by(role: Role) -> tuple[type[Message], ...]:
    """Return every message type that *role* sends."""
    return tuple(cls for cls in m.MESSAGE_TYPES.values() if cls.SENDER is role)


def _stay(state: State, *types: type[Message]) -> dict[tuple[State, type[Message]], Next]:
    return {(state, one): state for one in types}


def _crossed(state: State, *types: type[Message]) -> dict[tuple[State, type[Message]], Next]:
    return {(state, one): CROSSED for one in types}


_C, _K, _I, _G, _R = ConnectionState, ChannelState, InterruptState, GpadlState, RegionState

_CONNECTION: Table = {
    # What belongs to an older contact, or crossed our UNLOAD or REFUSED; the entries below override.
    **_crossed(_C.RECONTACTING, *sent_by(HOST)),
    **_crossed(_C.UNLOADING, *(one for one in sent_by(HOST) if one is not m.VersionResponse)),
    **_crossed(_C.REFUSED, *sent_by(GUEST)),
    (_C.DISCONNECTED, m.InitiateContact): _C.CONTACTING,
    (_C.CONTACTING, m.VersionResponse): Either(_C.AGREED, _C.DISCONNECTED),
    (_C.RECONTACTING, m.VersionResponse): Either(_C.AGREED, _C.DISCONNECTED),
    (_C.AGREED, m.HostPage): _C.CONNECTED,
    (_C.CONNECTED, m.RequestOffers): _C.OFFERING,
    (_C.OFFERING, m.AllOffersDelivered): _C.READY,
    **{(state, m.InitiateContact): _C.RECONTACTING for state in (_C.AGREED, _C.CONNECTED, _C.OFFERING, _C.READY)},
    (_C.UNLOADING, m.InitiateContact): _C.RECONTACTING,
    **{(state, m.Unload): _C.UNLOADING for state in (_C.AGREED, _C.CONNECTED, _C.OFFERING, _C.READY)},
    (_C.UNLOADING, m.UnloadResponse): _C.DISCONNECTED,
    **{(state, m.Refused): _C.REFUSED for state in _C if state is not _C.REFUSED},
    **_stay(_C.CONNECTED, *REGION_MESSAGES),
    **_stay(_C.OFFERING, *REGION_MESSAGES, m.OfferChannel, *CHANNEL_MESSAGES),
    **_stay(_C.READY, *REGION_MESSAGES, m.OfferChannel, *CHANNEL_MESSAGES),
}

_CHANNEL: Table = {
    (_K.ABSENT, m.OfferChannel): Either(_K.OFFERED, _K.IGNORED),
    (_K.RELEASED, m.OfferChannel): Either(_K.OFFERED, _K.IGNORED),
    (_K.IGNORED, m.RelidReleased): _K.RELEASED,
    (_K.OFFERED, m.RelidReleased): _K.RELEASED,
    (_K.OFFERED, m.OpenChannel): _K.OPENING,
    (_K.OPENING, m.Doorbells): _K.WIRED,
    (_K.OPENING, m.OpenChannelResult): Either(None, _K.OFFERED),
    (_K.WIRED, m.OpenChannelResult): Either(_K.OPEN, None),
    (_K.OPEN, m.CloseChannel): _K.CLOSING,
    (_K.CLOSING, m.GpadlTorndown): Either(_K.OFFERED, _K.CLOSING),
    **{
        (state, m.RescindChannelOffer): _K.RESCINDED
        for state in (_K.OFFERED, _K.IGNORED, _K.OPENING, _K.WIRED, _K.OPEN, _K.CLOSING)
    },
    (_K.RESCINDED, m.RelidReleased): _K.RELEASED,
    **_stay(_K.OFFERED, *GPADL_MESSAGES),
    **_stay(_K.OPENING, *GPADL_MESSAGES),
    **_stay(_K.WIRED, *GPADL_MESSAGES),
    **_stay(_K.OPEN, *GPADL_MESSAGES, m.ModifyChannel, m.ModifyChannelResponse),
    **_stay(_K.CLOSING, m.GpadlBody, m.GpadlCreated, m.GpadlTeardown, m.ModifyChannelResponse),
    **_crossed(_K.RESCINDED, m.OpenChannel, m.CloseChannel, m.ModifyChannel),
    **_crossed(_K.RESCINDED, m.GpadlHeader, m.GpadlBody, m.GpadlTeardown),
    **_crossed(_K.RELEASED, m.RescindChannelOffer),
}

_INTERRUPT: Table = {
    **_stay(_I.SETTLED, m.OpenChannel),
    (_I.MOVING, m.OpenChannel): _I.SETTLED,
    (_I.SETTLED, m.ModifyChannel): Either(_I.MOVING, _I.SETTLED),
    (_I.MOVING, m.ModifyChannelResponse): _I.SETTLED,
}

_GPADL: Table = {
    (_G.ABSENT, m.GpadlHeader): Either(_G.PENDING, _G.ASSEMBLING),
    (_G.ASSEMBLING, m.GpadlBody): Either(_G.PENDING, _G.ASSEMBLING),
    (_G.PENDING, m.GpadlCreated): Either(_G.CREATED, _G.ABSENT),
    (_G.CREATED, m.GpadlTeardown): _G.TEARING_DOWN,
    (_G.TEARING_DOWN, m.GpadlTorndown): _G.ABSENT,
    **_stay(_G.CREATED, m.OpenChannel),
    **{
        (state, m.RescindChannelOffer): _G.REVOKED for state in (_G.ASSEMBLING, _G.PENDING, _G.CREATED, _G.TEARING_DOWN)
    },
    (_G.REVOKED, m.RelidReleased): _G.ABSENT,
}

_REGION: Table = {
    (_R.ABSENT, m.MemoryRegion): _R.PENDING,
    (_R.PENDING, m.MemoryRegionResult): Either(_R.LENT, _R.ABSENT),
    (_R.LENT, m.MemoryRegionRemove): _R.REMOVING,
    (_R.REMOVING, m.MemoryRegionRemoved): _R.ABSENT,
}

TRANSITIONS: Table = {**_CONNECTION, **_CHANNEL, **_INTERRUPT, **_GPADL, **_REGION}
MACHINES: tuple[type[State], ...] = (_C, _K, _I, _G, _R)
