"""What our device says in the 120 user-defined bytes of OFFER_CHANNEL (limits) and OPEN_CHANNEL (who opens).

The host encodes `DeviceLimits` into its offer, the guest decodes it before it opens; the guest encodes `OpenUserData`
into OPEN_CHANNEL. Layouts are those of docs/wire-protocol.md. Both are claims of the peer, checked here for form only.
"""

from __future__ import annotations

from enum import IntFlag

from pvblob.errors import RemoteProtocolError
from pvblob.vmbus import layout
from pvblob.vmbus.constants import USER_DATA_BYTES
from pvblob.vmbus.layout import raw, text, u16, u32, u64

LAYOUT_VERSION = 1
NONCE_BYTES = 16
HOST_SOFTWARE_BYTES_MAX = 32
CLIENT_NAME_BYTES_MAX = 64
REQUEST_BYTES_MAX = 33_554_432  # 8192 pages, all three buffers together (azure-blob-device.md §2.5)


class Features(IntFlag):
    """What the device does beyond plain requests. Bits we do not know are kept and mean nothing."""

    CANCEL_PACKETS = 1
    CONTINUATION = 2
    RFC_9292 = 4
    CONNECTOR_DIALECT = 8


def _user_data(data: bytes, what: str) -> bytes:
    if len(data) != USER_DATA_BYTES:
        raise RemoteProtocolError(f"{what}: {len(data)} bytes of user data; there are always {USER_DATA_BYTES}")
    return bytes(data)


@layout.wire
class DeviceLimits:
    """The device's limits as the offer carries them.

    request_bytes_max: the three buffers together.  response_bytes_min: the smallest response buffer a request may
    lend.  timeout_ms_max: the longest deadline accepted.  lent_bytes_max, regions_max: memory lent by this guest.
    """

    requests_in_flight_max: int = u32(8)
    response_bytes_min: int = u32(16)
    timeout_ms_max: int = u32(20)
    lent_bytes_max: int = u64(24)
    regions_max: int = u32(32)
    request_bytes_max: int = u32(12, default=REQUEST_BYTES_MAX)
    features: int = u16(2, default=Features.RFC_9292)
    vsp_version_min: int = u16(4, default=0)
    vsp_version_max: int = u16(6, default=0)
    host_software: str = text(40, HOST_SOFTWARE_BYTES_MAX, default="")
    layout_version: int = u16(0, default=LAYOUT_VERSION)

    def encode(self) -> bytes:
        """Return the 120 bytes for OFFER_CHANNEL. Raises LocalProtocolError naming the field that does not fit."""
        return layout.pack(self, bytearray(USER_DATA_BYTES))

    @classmethod
    def decode(cls, data: bytes) -> DeviceLimits:
        """Read the limits of an offer. A newer layout is read as ours: layouts only grow (docs/wire-protocol.md, W-16).

        Raises RemoteProtocolError when the bytes cannot be limits.
        """
        limits = layout.unpack(cls, _user_data(data, "device limits"))
        if limits.layout_version < LAYOUT_VERSION:
            raise RemoteProtocolError(f"device limits: layout version {limits.layout_version}; the first is 1")
        if limits.vsp_version_min > limits.vsp_version_max:
            versions = f"{limits.vsp_version_min} to {limits.vsp_version_max}"
            raise RemoteProtocolError(f"device limits: VSP protocol versions {versions} are no range")
        for name in ("requests_in_flight_max", "request_bytes_max", "lent_bytes_max", "regions_max"):
            if getattr(limits, name) == 0:
                raise RemoteProtocolError(f"device limits: {name} is 0: no request could ever be sent")
        return limits


@layout.wire
class OpenUserData:
    """Who opens the channel. nonce: 16 random bytes per client, part of the once-only key (design rule 4).

    pid, client_name: for people who look at the host; the truth about the peer is what the socket says.
    """

    nonce: bytes = raw(0, NONCE_BYTES)
    pid: int = u32(16, default=0)
    client_name: str = text(20, CLIENT_NAME_BYTES_MAX, default="")

    def encode(self) -> bytes:
        """Return the 120 bytes for OPEN_CHANNEL. Raises LocalProtocolError naming the field that does not fit."""
        return layout.pack(self, bytearray(USER_DATA_BYTES))

    @classmethod
    def decode(cls, data: bytes) -> OpenUserData:
        """Read the user data of an OPEN_CHANNEL. Raises RemoteProtocolError if it is not 120 bytes."""
        return layout.unpack(cls, _user_data(data, "OPEN_CHANNEL user data"))
