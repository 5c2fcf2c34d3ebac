"""Host-accelerated blob access: processes hand Azure Blob requests to a host service through shared memory.

The public names are here; each is imported when it is first used, so that `import pvblob` costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers know the name; typing itself takes a third of what a client needs
if TYPE_CHECKING:
    from pvblob.client.aclient import AsyncClient as AsyncClient
    from pvblob.client.client import Client as Client
    from pvblob.client.properties import BlobPrefix as BlobPrefix
    from pvblob.client.properties import BlobProperties as BlobProperties
    from pvblob.client.properties import ContainerProperties as ContainerProperties
    from pvblob.client.properties import FoundBlob as FoundBlob
    from pvblob.client.properties import Written as Written
    from pvblob.errors import AlreadyExists as AlreadyExists
    from pvblob.errors import BlobError as BlobError
    from pvblob.errors import Busy as Busy
    from pvblob.errors import ChannelError as ChannelError
    from pvblob.errors import Conflict as Conflict
    from pvblob.errors import DeadlineExceeded as DeadlineExceeded
    from pvblob.errors import Denied as Denied
    from pvblob.errors import DeviceGone as DeviceGone
    from pvblob.errors import HostRefused as HostRefused
    from pvblob.errors import HostUnavailable as HostUnavailable
    from pvblob.errors import InvalidRange as InvalidRange
    from pvblob.errors import NotFound as NotFound
    from pvblob.errors import PreconditionFailed as PreconditionFailed
    from pvblob.errors import PvblobError as PvblobError

_HOME = {
    "Client": "pvblob.client.client",
    "AsyncClient": "pvblob.client.aclient",
    "BlobPrefix": "pvblob.client.properties",
    "BlobProperties": "pvblob.client.properties",
    "ContainerProperties": "pvblob.client.properties",
    "FoundBlob": "pvblob.client.properties",
    "Written": "pvblob.client.properties",
} | dict.fromkeys(
    (
        "AlreadyExists",
        "BlobError",
        "Busy",
        "ChannelError",
        "Conflict",
        "DeadlineExceeded",
        "Denied",
        "DeviceGone",
        "HostRefused",
        "HostUnavailable",
        "InvalidRange",
        "NotFound",
        "PreconditionFailed",
        "PvblobError",
    ),
    "pvblob.errors",
)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'pvblob' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next use finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
