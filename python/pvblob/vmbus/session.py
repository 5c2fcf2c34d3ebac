"""Channel life, sans-I/O: one end of a connection that turns messages into datagrams and back, and knows what may come.

    host process                                     guest process
    Session(HOST).send(message) ── datagram, Bus ──► Session(GUEST).receive(datagram, descriptor count)

Both ends walk the one table in `transitions`. A session never waits, reads no clock and owns no descriptor or memory:
whoever drives it sends what it returns and acts on what it reports. Ours to send wrongly is LocalProtocolError and
changes nothing; theirs is RemoteProtocolError and ends the connection. Not for use by two threads at once.
"""

from __future__ import annotations

from types import MappingProxyType

from pvblob.errors import HostRefused, LocalProtocolError, RemoteProtocolError
from pvblob.frozen import frozen
from pvblob.vmbus import messages as m
from pvblob.vmbus import rules
from pvblob.vmbus.constants import FIRST_GPADL_ID, RELID_MAX, VERSION_5_3
from pvblob.vmbus.gpadl import Assembly
from pvblob.vmbus.messages import Message
from pvblob.vmbus.records import Bounds, Channel, Gpadl, Record, Records, Region
from pvblob.vmbus.roles import GUEST, HOST, Role
from pvblob.vmbus.rules import Illegal
from pvblob.vmbus.transitions import (
    CROSSED,
    TRANSITIONS,
    ChannelState,
    ConnectionState,
    Either,
    GpadlState,
    State,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VERSIONS = (VERSION_5_3,)
_LOW_RESOURCES = 1


@frozen
class IgnoredOffer:
    """An offer that the guest does not want. reply: to be sent at once, so that the host gets its relid back.

    Without it the relid stays taken for ever, the defect of the Linux series (azure-blob-device.md §6).
    """

    message: m.OfferChannel
    reply: m.RelidReleased
    reason: str


@frozen
class Crossed:
    """A message that crossed one of ours: nothing is to be done but to close descriptors that came with it."""

    message: Message


Received = Message | IgnoredOffer | Crossed
Moves = list[tuple[Record, State]]


class Session:
    """One end of a connection.

    role: GUEST or HOST.  versions: those we speak, the best first.  bounds: what one guest may make us remember.
    """

    def __init__(self, role: Role, versions: Sequence[int] = VERSIONS, bounds: Bounds | None = None) -> None:
        self.role = role
        self.versions = tuple(versions)
        self._records = Records(role, bounds or Bounds())
        self._untried = list(self.versions)
        self._unable: int | None = None
        self._last_relid = 0
        self._last_gpadl_id = FIRST_GPADL_ID - 1

    def __repr__(self) -> str:
        return f"Session({self.role!r}, {self.state!r}, {len(self.channels)} channels)"

    # ---- what is known ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The connection's state, a `ConnectionState`."""
        return self._records.connection.state

    @property
    def version(self) -> int | None:
        """The version agreed, or None."""
        return self._records.connection.version

    @property
    def bounds(self) -> Bounds:
        """What one guest may make us remember."""
        return self._records.bounds

    @property
    def channels(self) -> Mapping[int, Channel]:
        """The channels offered and not yet released, by relid. To be read, not changed."""
        return MappingProxyType(self._records.channels)

    @property
    def gpadls(self) -> Mapping[int, Gpadl]:
        """The GPADLs that exist, by id. To be read, not changed."""
        return MappingProxyType(self._records.gpadls)

    @property
    def regions(self) -> Mapping[int, Region]:
        """The lent regions, by guest address in bytes. To be read, not changed."""
        return MappingProxyType(self._records.regions)

    def channel_state(self, relid: int) -> State:
        """Return the state of a channel, known or not: a `ChannelState`."""
        return self._records.channel(relid).state

    def releases_owed(self) -> tuple[m.RelidReleased, ...]:
        """Return what the guest must still send: one release per ignored offer and per rescinded channel."""
        owing = (ChannelState.IGNORED, ChannelState.RESCINDED)
        return tuple(m.RelidReleased(one.relid) for one in self.channels.values() if one.state in owing)

    # ---- ids and versions -------------------------------------------------------------------------------------------

    def allocate_relid(self) -> int | None:
        """Return a relid the host may offer, or None when as many are unreleased as `bounds` allow.

        Relids go round, so that one which was just released is the last to be used again.
        """
        if len(self.channels) >= self.bounds.channels_max:
            return None
        for step in range(RELID_MAX):
            relid = (self._last_relid + step) % RELID_MAX + 1
            if relid not in self.channels:
                self._last_relid = relid
                return relid
        return None

    def allocate_gpadl_id(self) -> int:
        """Return an id for a GPADL that the guest has never used on this connection, counted up from Linux's first."""
        self._last_gpadl_id = self._last_gpadl_id % 0xFFFFFFFF + 1
        while self._last_gpadl_id in self.gpadls:
            self._last_gpadl_id = self._last_gpadl_id % 0xFFFFFFFF + 1
        return self._last_gpadl_id

    def contact(self) -> m.InitiateContact:
        """Return the guest's next proposal: its best version that this host has not declined.

        Raises HostRefused when the host declined all of them, or said that it cannot serve us.
        """
        if self._unable is not None:
            why = "has no resources for another guest" if self._unable == _LOW_RESOURCES else f"state {self._unable}"
            raise HostRefused(f"the host speaks our version but cannot serve us now ({why}); try again later")
        if not self._untried:
            ours = ", ".join(f"{version >> 16}.{version & 0xFFFF}" for version in self.versions)
            raise HostRefused(f"the host speaks none of our VMBus versions ({ours}): one side needs an update")
        return m.InitiateContact(self._untried[0])

    def answer(self, contact: m.InitiateContact) -> m.VersionResponse:
        """Return the host's answer to a proposal: supported if the version is exactly one of ours."""
        return m.VersionResponse(supported=int(contact.version in self.versions))

    # ---- the two directions -----------------------------------------------------------------------------------------

    def send(self, message: Message) -> bytes:
        """Return the datagram of *message* and move to the state after it.

        Raises LocalProtocolError naming state and message if it may not be sent now; nothing has changed then.
        """
        try:
            rules.check_sender(self._records, message, sending=True)
            moves, crossed_at = self._moves(message)
            if crossed_at is not None:
                at = f"{crossed_at} is {crossed_at.state!r}"
                raise Illegal(f"{at}; the peer would take it for one that crossed its own message")
            datagram = m.encode(message)
        except Illegal as broken:
            raise LocalProtocolError(f"{self.role!r} cannot send {message.NAME} {self._where()}: {broken}") from broken
        self._commit(message, moves)
        return datagram

    def receive(self, datagram: bytes, fd_count: int = 0) -> Received:
        """Return the message in *datagram* and move to the state after it.

        fd_count: descriptors that came with it; they stay the caller's. An offer the guest does not want comes as
        `IgnoredOffer`; what merely crossed one of our messages as `Crossed`.
        Raises RemoteProtocolError naming state and message; the connection is FAILED then.
        """
        try:
            message = m.decode(datagram)
            return self._received(message, fd_count)
        except RemoteProtocolError:
            self._records.connection.state = ConnectionState.FAILED
            raise

    def _received(self, message: Message, fd_count: int) -> Received:
        try:
            rules.check_sender(self._records, message, sending=False)
            if fd_count != m.descriptors_expected(message):
                expected = m.descriptors_expected(message)
                raise Illegal(f"it came with {fd_count} descriptors; it carries {expected}")
            moves, crossed_at = self._moves(message)
            if crossed_at is not None:
                self._note_crossed(message, crossed_at)
                return Crossed(message)
        except Illegal as broken:
            text = f"{self.role!r} received {message.NAME} {self._where()}: {broken}"
            raise RemoteProtocolError(text) from broken
        ignored = self._ignored(message)
        self._commit(message, moves)
        return ignored or message

    def _where(self) -> str:
        return f"while the connection is {self.state!r}"

    # ---- walking the table ------------------------------------------------------------------------------------------

    def _moves(self, message: Message) -> tuple[Moves, Record | None]:
        """Return each record that *message* moves, with its next state; or the record whose state says it crossed.

        Raises Illegal for a message that the table or a rule forbids. Nothing has changed yet.
        """
        moves: Moves = []
        decisions: list[tuple[Record, Either]] = []
        for record in self._addressed(message):
            entry = TRANSITIONS.get((record.state, type(message)))
            if entry is None:
                whole = record is self._records.connection
                raise Illegal("this state does not allow it" if whole else f"{record} is {record.state!r}")
            if entry is CROSSED:
                return [], record
            if isinstance(entry, Either):
                decisions.append((record, entry))
            elif isinstance(entry, State):
                moves.append((record, entry))
        rules.check(self._records, message)
        for record, entry in decisions:
            next_state = entry.yes if rules.decide(self._records, message) else entry.no
            if next_state is None:
                raise Illegal(f"{record} is {record.state!r}, which does not allow this outcome")
            moves.append((record, next_state))
        return moves, None

    def _addressed(self, message: Message) -> list[Record]:
        """Return the records that *message* speaks of, the widest first; fresh ones for what is not known."""
        found: list[Record] = [self._records.connection]
        gpadl_id = getattr(message, "gpadl_id", None)
        gpadl = self._records.gpadls.get(gpadl_id) if gpadl_id is not None else None
        relid = getattr(message, "relid", gpadl.relid if gpadl else None)
        if relid is not None:
            found.append(self._records.channel(relid))
        if isinstance(message, m.OpenChannel | m.ModifyChannel | m.ModifyChannelResponse):
            found.append(self._records.channel(message.relid).interrupts)
        if isinstance(message, m.OpenChannel):
            ring = message.ring_gpadl_id
            found.append(self._records.gpadls.get(ring) or Gpadl(ring, message.relid))
        elif isinstance(message, m.RescindChannelOffer | m.RelidReleased):
            found.extend(self._records.gpadls_of(message.relid))
        elif gpadl_id is not None:
            found.append(gpadl or Gpadl(gpadl_id, relid or 0))
        gpa = getattr(message, "gpa", None)
        if gpa is not None:
            found.append(self._records.regions.get(gpa) or Region(gpa))
        return found

    def _commit(self, message: Message, moves: Moves) -> None:
        for record, next_state in moves:
            self._absorb(message, record)
            record.state = next_state
            self._records.keep(record)
        if isinstance(message, m.InitiateContact):
            self._records.forget()
            self._records.connection.proposed = message.version
        elif isinstance(message, m.VersionResponse):
            self._agree(message)
        elif isinstance(message, m.UnloadResponse):
            self._records.forget()

    def _absorb(self, message: Message, record: Record) -> None:
        """Take into *record* what *message* says about it."""
        if isinstance(record, Channel) and isinstance(message, m.OfferChannel):
            record.offer = message
        elif isinstance(record, Channel) and isinstance(message, m.OpenChannel):
            record.open_id, record.ring_gpadl_id = message.open_id, message.ring_gpadl_id
        elif isinstance(record, Gpadl) and isinstance(message, m.GpadlHeader):
            record.assembly = Assembly(message, self.bounds.gpadl_pages_max)
        elif isinstance(record, Gpadl) and isinstance(message, m.GpadlBody) and record.assembly is not None:
            record.assembly.add(message)
        elif isinstance(record, Region) and isinstance(message, m.MemoryRegion):
            record.length, record.flags = message.length, message.flags

    def _agree(self, response: m.VersionResponse) -> None:
        connection = self._records.connection
        if connection.state is ConnectionState.AGREED:
            connection.version = connection.proposed
        elif response.supported:
            self._unable = response.state
        elif connection.proposed in self._untried:
            self._untried.remove(connection.proposed)

    def _ignored(self, message: Message) -> IgnoredOffer | None:
        if self.role is HOST or not isinstance(message, m.OfferChannel):
            return None
        reason = rules.ignored_because(self._records, message)
        return IgnoredOffer(message, m.RelidReleased(message.relid), reason) if reason else None

    def _note_crossed(self, message: Message, crossed_at: Record) -> None:
        """Remember the id of a GPADL described to a rescinded channel: its bodies follow and name no channel."""
        if isinstance(message, m.GpadlHeader) and isinstance(crossed_at, Channel):
            if message.gpadl_id in self.gpadls:
                raise Illegal(f"GPADL {message.gpadl_id:#x} exists")
            rules.check(self._records, message)
            self._records.keep(Gpadl(message.gpadl_id, message.relid, GpadlState.REVOKED))


__all__ = ["GUEST", "HOST", "VERSIONS", "Bounds", "Crossed", "IgnoredOffer", "Received", "Role", "Session"]
