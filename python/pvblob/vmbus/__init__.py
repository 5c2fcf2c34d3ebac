"""CHANNEL LIFE: the messages that make, open, close and end channels, and the socket that carries them.

`messages` (bytes ↔ messages) → `session` (what may come when; one table, both roles) → `bus` (datagrams and
descriptors over a Unix socket). All but `bus` is sans-I/O. Rings, packets and memory are the data plane's.
"""

from __future__ import annotations

from pvblob.vmbus.constants import (
    AZURE_BLOB_CLASS,
    PAGE_BYTES,
    STATUS_REFUSED,
    STATUS_SUCCESS,
    STATUS_UNSUCCESSFUL,
    VERSION_5_3,
    VPCI_CLASS,
    VPCI_TWIN_INSTANCES,
)
from pvblob.vmbus.guid import Guid
from pvblob.vmbus.messages import Message, decode, descriptors_expected, encode
from pvblob.vmbus.records import Bounds, Channel, Gpadl, Region
from pvblob.vmbus.roles import GUEST, HOST, Role
from pvblob.vmbus.session import Crossed, IgnoredOffer, Received, Session
from pvblob.vmbus.transitions import ChannelState, ConnectionState, GpadlState, InterruptState, RegionState
from pvblob.vmbus.user_data import DeviceLimits, Features, OpenUserData

__all__ = [
    "AZURE_BLOB_CLASS",
    "GUEST",
    "HOST",
    "PAGE_BYTES",
    "STATUS_REFUSED",
    "STATUS_SUCCESS",
    "STATUS_UNSUCCESSFUL",
    "VERSION_5_3",
    "VPCI_CLASS",
    "VPCI_TWIN_INSTANCES",
    "Bounds",
    "Channel",
    "ChannelState",
    "ConnectionState",
    "Crossed",
    "DeviceLimits",
    "Features",
    "Gpadl",
    "GpadlState",
    "Guid",
    "IgnoredOffer",
    "InterruptState",
    "Message",
    "OpenUserData",
    "Received",
    "Region",
    "RegionState",
    "Role",
    "Session",
    "decode",
    "descriptors_expected",
    "encode",
]
