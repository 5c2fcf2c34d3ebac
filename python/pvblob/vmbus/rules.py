"""What the transition table cannot say: which outcome a message is, and whether its values fit what is remembered.

`Session` asks `decide` for the outcome of an `Either`, and `check` before anything moves. Both only read. A broken rule
is `Illegal`, whose text completes "GUEST cannot send X: …"; the session turns it into the local or remote error.
"""

from __future__ import annotations

from pvblob.vmbus import messages as m
from pvblob.vmbus.constants import (
    PAGE_BYTES,
    RELID_MAX,
    STATUS_SUCCESS,
    VERSION_5_3,
    VPCI_CLASS,
    VPCI_TWIN_INSTANCES,
)
from pvblob.vmbus.gpadl import Assembly, GpadlError
from pvblob.vmbus.roles import GUEST, HOST
from pvblob.vmbus.transitions import ChannelState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pvblob.vmbus.records import Records

# Messages that exist only from some version on (H3); the others exist in every version we know.
VERSION_MIN: dict[type[m.Message], int] = {m.ModifyChannelResponse: VERSION_5_3}


class Illegal(Exception):
    """A rule is broken; the text says which."""


# ---- outcomes -------------------------------------------------------------------------------------------------------


def ignored_because(records: Records, offer: m.OfferChannel) -> str | None:
    """Return why a guest does not want *offer*, or None. Source: azure-blob-device.md §6; vmbus.md §4."""
    if offer.class_id == VPCI_CLASS and offer.instance_id in VPCI_TWIN_INSTANCES:
        return "it is the vPCI twin of the Azure Blob device"
    if offer.sub_channel_index == 0 and _primary_known(records, offer):
        return "it repeats a primary channel that is known"
    if offer.sub_channel_index and not _primary_known(records, offer):
        # The guest may have released the primary while this was on its way.
        return "its primary channel is not known"
    return None


def _primary_known(records: Records, offer: m.OfferChannel) -> bool:
    identity = (offer.class_id, offer.instance_id, 0)
    return any(
        (known.class_id, known.instance_id, known.sub_channel_index) == identity
        for channel in records.channels.values()
        if channel.state is not ChannelState.RESCINDED and (known := channel.offer) is not None
    )


def _is_ring_of_closing(records: Records, message: m.GpadlTorndown) -> bool:
    channel = records.channels.get(records.gpadls[message.gpadl_id].relid)
    return channel is not None and channel.ring_gpadl_id == message.gpadl_id


_DECISIONS: dict[type[m.Message], Callable[[Records, Any], bool]] = {
    m.VersionResponse: lambda _, message: message.supported != 0 and message.state == 0,
    m.OfferChannel: lambda records, offer: records.role is HOST or ignored_because(records, offer) is None,
    m.OpenChannelResult: lambda _, message: message.status == STATUS_SUCCESS,
    m.GpadlHeader: lambda records, header: Assembly(header, records.bounds.gpadl_pages_max).complete,
    m.GpadlBody: lambda records, body: records.gpadls[body.gpadl_id].assembly.would_complete(body),  # type: ignore[union-attr]
    m.GpadlCreated: lambda _, message: message.status == STATUS_SUCCESS,
    m.GpadlTorndown: _is_ring_of_closing,
    m.ModifyChannel: lambda records, _: (records.connection.version or 0) >= VERSION_5_3,
    m.MemoryRegionResult: lambda _, message: message.status == STATUS_SUCCESS,
}


def decide(records: Records, message: m.Message) -> bool:
    """Return which outcome *message* is: True for the first name in `transitions.DECIDES`."""
    try:
        return _DECISIONS[type(message)](records, message)
    except GpadlError as error:
        raise Illegal(str(error)) from error


# ---- values ---------------------------------------------------------------------------------------------------------


def _check_offer(records: Records, offer: m.OfferChannel) -> None:
    if not 1 <= offer.relid <= RELID_MAX:
        raise Illegal(f"relid {offer.relid} lies outside 1 to {RELID_MAX}")
    if len(records.channels) >= records.bounds.channels_max:
        raise Illegal(f"{records.bounds.channels_max} channels are offered and not released; that is the bound")
    if records.role is HOST and _primary_known(records, offer) == (offer.sub_channel_index == 0):
        wrong = "lacks its primary" if offer.sub_channel_index else "is offered already"
        raise Illegal(f"instance {offer.instance_id}, sub-channel {offer.sub_channel_index}, {wrong}")


def _check_header(records: Records, header: m.GpadlHeader) -> None:
    if len(records.gpadls) >= records.bounds.gpadls_max:
        raise Illegal(f"{records.bounds.gpadls_max} GPADLs exist; that is the bound")


def _check_gpadl_channel(records: Records, message: m.GpadlCreated | m.GpadlTeardown) -> None:
    owner = records.gpadls[message.gpadl_id].relid
    if owner != message.relid:
        raise Illegal(f"GPADL {message.gpadl_id:#x} belongs to channel {owner}, not {message.relid}")


def _check_teardown(records: Records, message: m.GpadlTeardown) -> None:
    _check_gpadl_channel(records, message)
    channel = records.channels[message.relid]
    in_use = channel.state in (ChannelState.OPENING, ChannelState.WIRED, ChannelState.OPEN)
    if in_use and channel.ring_gpadl_id == message.gpadl_id:
        raise Illegal(f"GPADL {message.gpadl_id:#x} holds the rings of channel {message.relid}; close it first (H16)")


def _check_open(records: Records, message: m.OpenChannel) -> None:
    gpadl = records.gpadls[message.ring_gpadl_id]
    assembly = gpadl.assembly
    if gpadl.relid != message.relid or assembly is None:
        raise Illegal(f"the ring's GPADL belongs to channel {gpadl.relid}, not {message.relid}")
    if assembly.byte_offset != 0 or assembly.byte_count % PAGE_BYTES != 0:
        raise Illegal("the ring's GPADL must consist of whole pages (H15)")
    # Each ring needs its control page and at least one data page.
    if not 2 <= message.downstream_page_offset <= len(assembly.pfns) - 2:
        where = f"page {message.downstream_page_offset} of {len(assembly.pfns)}"
        raise Illegal(f"the second ring would begin at {where}; each ring needs two pages (H15)")


def _check_open_result(records: Records, message: m.OpenChannelResult) -> None:
    asked = records.channels[message.relid].open_id
    if asked != message.open_id:
        raise Illegal(f"it answers open id {message.open_id}, asked was {asked} (H18)")


def _check_region(records: Records, message: m.MemoryRegion) -> None:
    if message.gpa % PAGE_BYTES or message.length % PAGE_BYTES or message.length == 0:
        raise Illegal(f"{message.length:#x} bytes at {message.gpa:#x} are not whole pages")
    if message.gpa + message.length > 1 << 64:
        raise Illegal(f"{message.length:#x} bytes at {message.gpa:#x} pass the end of the address space")
    if len(records.regions) >= records.bounds.regions_max:
        raise Illegal(f"{records.bounds.regions_max} regions are lent; that is the bound")
    for other in records.regions.values():
        if other.gpa < message.gpa + message.length and message.gpa < other.gpa + other.length:
            raise Illegal(f"{message.length:#x} bytes at {message.gpa:#x} overlap {other}")


_CHECKS: dict[type[m.Message], Callable[[Records, Any], None]] = {
    m.OfferChannel: _check_offer,
    m.GpadlHeader: _check_header,
    m.GpadlCreated: _check_gpadl_channel,
    m.GpadlTeardown: _check_teardown,
    m.OpenChannel: _check_open,
    m.OpenChannelResult: _check_open_result,
    m.MemoryRegion: _check_region,
}


def check(records: Records, message: m.Message) -> None:
    """Raise Illegal when the values of *message* do not fit. The table has found the message legal in its state."""
    known_from = VERSION_MIN.get(type(message), 0)
    if known_from > (records.connection.version or known_from):
        raise Illegal(f"version {records.connection.version:#x} does not have it")
    one = _CHECKS.get(type(message))
    if one is not None:
        one(records, message)


def check_sender(records: Records, message: m.Message, sending: bool) -> None:
    """Raise Illegal when *message* is not one that our role sends, or that the peer's does."""
    sender = records.role if sending else records.role.peer
    if message.SENDER is None:
        raise Illegal("the versions we speak do not have this type")
    if message.SENDER is not sender:
        raise Illegal(f"only the {'guest' if message.SENDER is GUEST else 'host'} sends it")
