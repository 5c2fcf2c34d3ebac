"""What one end of a connection remembers: its channels, GPADLs and lent regions, each with a state.

`Session` owns one `Records`; `rules` reads it. The states move by `transitions` alone. Every collection is bounded by
`Bounds`, so a peer cannot make it grow. Nothing here judges a message.
"""

from __future__ import annotations

from pvblob.frozen import frozen
from pvblob.vmbus.transitions import ChannelState, ConnectionState, GpadlState, InterruptState, RegionState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from pvblob.vmbus.gpadl import Assembly
    from pvblob.vmbus.messages import OfferChannel
    from pvblob.vmbus.roles import Role
    from pvblob.vmbus.transitions import State

    V = TypeVar("V")


@frozen
class Bounds:
    """How much one guest may make both ends remember.

    channels_max: offers not yet released.  gpadls_max: GPADLs not yet torn down.  gpadl_pages_max: pages of one GPADL.
    regions_max: lent regions not yet taken back.
    """

    channels_max: int = 16
    gpadls_max: int = 32
    gpadl_pages_max: int = 2048
    regions_max: int = 256


class Connection:
    """The connection itself. version: agreed, or None.  proposed: of the last INITIATE_CONTACT, or None."""

    __slots__ = ("proposed", "state", "version")

    def __init__(self) -> None:
        self.state: State = ConnectionState.DISCONNECTED
        self.version: int | None = None
        self.proposed: int | None = None

    def __str__(self) -> str:
        return "the connection"


class Interrupts:
    """Where a channel's interrupts go, as a machine of its own."""

    __slots__ = ("relid", "state")

    def __init__(self, relid: int) -> None:
        self.relid = relid
        self.state: State = InterruptState.SETTLED

    def __str__(self) -> str:
        return f"the interrupt of channel {self.relid}"


class Channel:
    """One offered channel. open_id, ring_gpadl_id: of the last OPEN_CHANNEL, else None."""

    __slots__ = ("interrupts", "offer", "open_id", "relid", "ring_gpadl_id", "state")

    def __init__(self, relid: int, state: State = ChannelState.ABSENT) -> None:
        self.relid = relid
        self.offer: OfferChannel | None = None
        self.state = state
        self.open_id: int | None = None
        self.ring_gpadl_id: int | None = None
        self.interrupts = Interrupts(relid)

    def __str__(self) -> str:
        return f"channel {self.relid}"


class Gpadl:
    """One GPADL. assembly: its pages, None when it was described to a channel that was rescinded already."""

    __slots__ = ("assembly", "gpadl_id", "relid", "state")

    def __init__(self, gpadl_id: int, relid: int, state: State = GpadlState.ABSENT) -> None:
        self.gpadl_id = gpadl_id
        self.relid = relid
        self.state = state
        self.assembly: Assembly | None = None

    @property
    def pfns(self) -> tuple[int, ...]:
        """The page numbers so far, in order."""
        return self.assembly.pfns if self.assembly else ()

    def __str__(self) -> str:
        return f"GPADL {self.gpadl_id:#x}"


class Region:
    """One lent memory region. gpa, length: bytes.  flags: as in MEMORY_REGION."""

    __slots__ = ("flags", "gpa", "length", "state")

    def __init__(self, gpa: int) -> None:
        self.gpa = gpa
        self.length = 0
        self.flags = 0
        self.state: State = RegionState.ABSENT

    def __str__(self) -> str:
        return f"the memory region at {self.gpa:#x}"


Record = Connection | Channel | Interrupts | Gpadl | Region


class Records:
    """All records of one end."""

    __slots__ = ("bounds", "channels", "connection", "gpadls", "regions", "released", "role")

    def __init__(self, role: Role, bounds: Bounds) -> None:
        self.role: Role = role
        self.bounds: Bounds = bounds
        self.connection: Connection = Connection()
        self.channels: dict[int, Channel] = {}
        self.gpadls: dict[int, Gpadl] = {}
        self.regions: dict[int, Region] = {}
        # Relids that were offered and released: at most RELID_MAX of them, because offers are checked against it.
        self.released: set[int] = set()

    def channel(self, relid: int) -> Channel:
        """Return the channel's record, or a fresh one that `keep` has not taken."""
        known = self.channels.get(relid)
        if known is not None:
            return known
        return Channel(relid, state=ChannelState.RELEASED if relid in self.released else ChannelState.ABSENT)

    def gpadls_of(self, relid: int) -> list[Gpadl]:
        """Return the channel's GPADLs."""
        return [gpadl for gpadl in self.gpadls.values() if gpadl.relid == relid]

    def keep(self, record: Record) -> None:
        """Remember *record*, or forget it when its state says that it is gone."""
        if isinstance(record, Channel):
            self._keep_channel(record)
        elif isinstance(record, Gpadl):
            _keep(self.gpadls, record.gpadl_id, record, record.state is GpadlState.ABSENT)
        elif isinstance(record, Region):
            _keep(self.regions, record.gpa, record, record.state is RegionState.ABSENT)

    def _keep_channel(self, channel: Channel) -> None:
        _keep(self.channels, channel.relid, channel, channel.state is ChannelState.RELEASED)
        if channel.state is ChannelState.RELEASED:
            self.released.add(channel.relid)
        else:
            self.released.discard(channel.relid)

    def forget(self) -> None:
        """Drop everything but the connection's own state: a new contact, or the end of one."""
        self.connection.version = None
        self.channels.clear()
        self.gpadls.clear()
        self.regions.clear()
        self.released.clear()


def _keep(where: dict[int, V], key: int, value: V, gone: bool) -> None:
    if gone:
        where.pop(key, None)
    else:
        where[key] = value
