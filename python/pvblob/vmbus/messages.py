"""Channel messages: one frozen class per message, byte-exact to and from datagrams.

The bus carries datagrams, `decode` makes a message of each, `Session` judges whether it may come now. A message is
self-contained: this module knows no state, no socket and no memory. Offsets are those of spec/vmbus.md §3 (types 1-29)
and docs/wire-protocol.md (types from 0x1001, our own: what a hypervisor would do).
"""

from __future__ import annotations

from pvblob.errors import LocalProtocolError, RemoteProtocolError
from pvblob.frozen import dataclass_transform
from pvblob.vmbus import layout
from pvblob.vmbus.constants import (
    DATAGRAM_BYTES_MAX,
    HEADER_BYTES,
    OWN_TYPES,
    REFUSED_TEXT_BYTES_MAX,
    REGION_SEALED,
    USER_DATA_BYTES,
    VMBUS_TYPES,
)
from pvblob.vmbus.layout import guid, payload_to_end, raw, text_to_end, u8, u16, u32, u64, u64_to_end
from pvblob.vmbus.roles import GUEST, HOST, Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar, TypeVar

    from pvblob.vmbus.guid import Guid

    M = TypeVar("M", bound="Message")


class Message:
    """Base of every message. The four class variables say what the tables of the specification say."""

    __slots__ = ()
    TYPE: ClassVar[int]
    NAME: ClassVar[str]
    SENDER: ClassVar[Role | None]
    SIZE_MIN: ClassVar[int]
    DESCRIPTORS: ClassVar[int] = 0


MESSAGE_TYPES: dict[int, type[Message]] = {}


@dataclass_transform(
    frozen_default=True, field_specifiers=(u8, u16, u32, u64, guid, raw, text_to_end, u64_to_end, payload_to_end)
)
def _message(number: int, sender: Role, size_min: int, descriptors: int = 0) -> Callable[[type[M]], type[M]]:
    """Register a message: wire type, who sends it, its minimum length in bytes, the descriptors it carries."""

    def register(cls: type[M]) -> type[M]:
        made = layout.wire(cls)
        made.TYPE, made.SENDER, made.SIZE_MIN, made.DESCRIPTORS = number, sender, size_min, descriptors
        made.NAME = "".join("_" + char if char.isupper() else char.upper() for char in cls.__name__).lstrip("_")
        MESSAGE_TYPES[number] = made
        return made

    return register


# ---- connection -----------------------------------------------------------------------------------------------------


@_message(14, GUEST, 40)
class InitiateContact(Message):
    """Propose a version; the host forgets whatever it knew. target_info: SINT, VTL and feature flags from 5.0 on."""

    version: int = u32(8)
    target_vp: int = u32(12, default=0)
    target_info: int = u64(16, default=0)
    monitor_page_1: int = u64(24, default=0)
    monitor_page_2: int = u64(32, default=0)


@_message(15, HOST, 16)
class VersionResponse(Message):
    """Answer to INITIATE_CONTACT. state: 0 ok, 1 low resources, 2 other. connection_id: the version before 5.0."""

    supported: int = u8(8)
    state: int = u8(9, default=0)
    connection_id: int = u32(12, default=0)


@_message(16, GUEST, 8)
class Unload(Message):
    """The guest leaves."""


@_message(17, HOST, 8)
class UnloadResponse(Message):
    """The host has forgotten the guest."""


# ---- offers ---------------------------------------------------------------------------------------------------------


@_message(3, GUEST, 8)
class RequestOffers(Message):
    """Ask for the offers, once per contact."""


@_message(1, HOST, 196)
class OfferChannel(Message):
    """Offer a channel. user_data: 120 bytes, for our device `user_data.DeviceLimits`."""

    class_id: Guid = guid(8)
    instance_id: Guid = guid(24)
    relid: int = u32(184)
    user_data: bytes = raw(60, USER_DATA_BYTES, default=bytes(USER_DATA_BYTES))
    flags: int = u16(56, default=0)
    mmio_megabytes: int = u16(58, default=0)
    sub_channel_index: int = u16(180, default=0)
    mmio_megabytes_optional: int = u16(182, default=0)
    monitor_id: int = u8(188, default=0)
    monitor_allocated: int = u8(189, default=0)
    dedicated_interrupt: int = u16(190, default=1)
    connection_id: int = u32(192, default=0)


@_message(4, HOST, 8)
class AllOffersDelivered(Message):
    """The answer to REQUEST_OFFERS is complete; more may be offered at any time."""


@_message(2, HOST, 12)
class RescindChannelOffer(Message):
    """The channel is gone: everything outstanding on it is over."""

    relid: int = u32(8)


@_message(13, GUEST, 12)
class RelidReleased(Message):
    """The guest will not use this relid again until it is offered anew."""

    relid: int = u32(8)


# ---- one channel ----------------------------------------------------------------------------------------------------


@_message(5, GUEST, 148)
class OpenChannel(Message):
    """Open a channel whose two rings lie in a GPADL. downstream_page_offset: first page of the host → guest ring.

    user_data: 120 bytes, for our device `user_data.OpenUserData`.
    """

    relid: int = u32(8)
    open_id: int = u32(12)
    ring_gpadl_id: int = u32(16)
    downstream_page_offset: int = u32(24)
    user_data: bytes = raw(28, USER_DATA_BYTES, default=bytes(USER_DATA_BYTES))
    target_vp: int = u32(20, default=0)


@_message(6, HOST, 20)
class OpenChannelResult(Message):
    """Answer to OPEN_CHANNEL. status: 0 ok."""

    relid: int = u32(8)
    open_id: int = u32(12)
    status: int = u32(16)


@_message(7, GUEST, 12)
class CloseChannel(Message):
    """Close a channel; no answer exists."""

    relid: int = u32(8)


@_message(22, GUEST, 16)
class ModifyChannel(Message):
    """Move the channel's interrupts to another virtual processor."""

    relid: int = u32(8)
    target_vp: int = u32(12)


@_message(24, HOST, 16)
class ModifyChannelResponse(Message):
    """Answer to MODIFY_CHANNEL, from version 5.3 on. status: 0 ok."""

    relid: int = u32(8)
    status: int = u32(12)


# ---- GPADL ----------------------------------------------------------------------------------------------------------


@_message(8, GUEST, 28)
class GpadlHeader(Message):
    """Describe guest memory, first part: one range and its first page numbers (at most 26).

    range_buffer_bytes: 8 + 8 per page of the whole range.  byte_count, byte_offset: the range, in bytes.
    The specification's minimum is 20; ours is 28, because a header without its range says nothing.
    """

    relid: int = u32(8)
    gpadl_id: int = u32(12)
    range_buffer_bytes: int = u16(16)
    range_count: int = u16(18)
    byte_count: int = u32(20)
    byte_offset: int = u32(24)
    pfns: tuple[int, ...] = u64_to_end(28)


@_message(9, GUEST, 16)
class GpadlBody(Message):
    """Describe guest memory, next part: further page numbers (at most 28), perhaps followed by junk."""

    gpadl_id: int = u32(12)
    pfns: tuple[int, ...] = u64_to_end(16)
    message_number: int = u32(8, default=0)


@_message(10, HOST, 20)
class GpadlCreated(Message):
    """Answer to a complete GPADL. status: 0 ok."""

    relid: int = u32(8)
    gpadl_id: int = u32(12)
    status: int = u32(16)


@_message(11, GUEST, 16)
class GpadlTeardown(Message):
    """Take memory back from the host."""

    relid: int = u32(8)
    gpadl_id: int = u32(12)


@_message(12, HOST, 12)
class GpadlTorndown(Message):
    """The host touches the memory no more: the guest may reuse it."""

    gpadl_id: int = u32(8)


# ---- ours: what a hypervisor would do -------------------------------------------------------------------------------


@_message(0x1001, GUEST, 32, descriptors=1)
class MemoryRegion(Message):
    """Lend memory: guest addresses gpa .. gpa + length (bytes, page multiples) are this descriptor's bytes.

    flags: bit 0 set = sealed; clear = data buffers only (design rule 1).  file_page: the page of the descriptor where
    they begin; 0 for sealed memory.
    """

    gpa: int = u64(8)
    length: int = u64(16)
    flags: int = u32(24)
    file_page: int = u32(28, default=0)

    @property
    def sealed(self) -> bool:
        """Whether rings, requests and responses may lie here."""
        return bool(self.flags & REGION_SEALED)


@_message(0x1002, HOST, 20)
class MemoryRegionResult(Message):
    """Answer to MEMORY_REGION. status: 0 ok."""

    gpa: int = u64(8)
    status: int = u32(16)


@_message(0x1003, GUEST, 16)
class MemoryRegionRemove(Message):
    """Take a lent region back."""

    gpa: int = u64(8)


@_message(0x1004, HOST, 16)
class MemoryRegionRemoved(Message):
    """The host has let go of the region."""

    gpa: int = u64(8)


@_message(0x1005, HOST, 12, descriptors=2)
class Doorbells(Message):
    """Guest → host eventfd, then the guest's end of the host → guest socket; just before OPEN_CHANNEL_RESULT ok."""

    relid: int = u32(8)


@_message(0x1006, HOST, 16, descriptors=1)
class HostPage(Message):
    """The read-only page with polling grants, right after VERSION_RESPONSE. length: bytes."""

    length: int = u64(8)


@_message(0x1007, HOST, 12)
class Refused(Message):
    """The host does not serve this guest; the connection ends. text: why, at most 200 bytes of UTF-8."""

    status: int = u32(8)
    text: str = text_to_end(12, REFUSED_TEXT_BYTES_MAX)

    @classmethod
    def because(cls, status: int, reason: str) -> Refused:
        """Make a refusal of any *reason*: unprintable characters are replaced, what is too long is cut."""
        return cls(status, layout.printable(reason, REFUSED_TEXT_BYTES_MAX))


@layout.wire
class Unknown(Message):
    """A type in a known range that we do not speak: kept as it came. payload: the bytes after the 8-byte header."""

    type: int = u32(0)
    payload: bytes = payload_to_end(HEADER_BYTES)


Unknown.SENDER, Unknown.SIZE_MIN, Unknown.NAME = None, HEADER_BYTES, "UNKNOWN"


def descriptors_expected(message: Message) -> int:
    """Return how many descriptors must accompany *message*."""
    return message.DESCRIPTORS


def encode(message: Message) -> bytes:
    """Return the datagram of *message*: its minimum length, plus what runs to its end.

    Raises LocalProtocolError naming the field that does not fit, or when the whole would pass 240 bytes.
    """
    fixed = bytearray(message.SIZE_MIN)
    if not isinstance(message, Unknown):
        fixed[0:4] = message.TYPE.to_bytes(4, "little")
    elif message.type not in VMBUS_TYPES and message.type not in OWN_TYPES:
        raise LocalProtocolError(f"message type {message.type:#x} lies outside every range")
    datagram = layout.pack(message, fixed)
    if len(datagram) > DATAGRAM_BYTES_MAX:
        size = f"{len(datagram)} bytes; at most {DATAGRAM_BYTES_MAX} fit a datagram"
        raise LocalProtocolError(f"{message.NAME} of {size}")
    return datagram


def decode(datagram: bytes) -> Message:
    """Return the message in *datagram*, a private copy (H1). More bytes than the type needs are ignored.

    Raises RemoteProtocolError naming type, length and minimum (H2).
    """
    if not HEADER_BYTES <= len(datagram) <= DATAGRAM_BYTES_MAX:
        bounds = f"a message has {HEADER_BYTES} to {DATAGRAM_BYTES_MAX}"
        raise RemoteProtocolError(f"datagram of {len(datagram)} bytes; {bounds}")
    number = int.from_bytes(datagram[0:4], "little")
    cls = MESSAGE_TYPES.get(number, Unknown)
    what = f"message type {number:#x} ({cls.NAME}) of {len(datagram)} bytes"
    if cls is Unknown and number not in VMBUS_TYPES and number not in OWN_TYPES:
        raise RemoteProtocolError(f"{what}: the type lies outside every range")
    if len(datagram) < cls.SIZE_MIN:
        raise RemoteProtocolError(f"{what}: its minimum is {cls.SIZE_MIN}")
    try:
        return layout.unpack(cls, bytes(datagram))
    except layout.FieldError as error:
        raise RemoteProtocolError(f"{what}, minimum {cls.SIZE_MIN}: {error}") from error
