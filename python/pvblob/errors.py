"""The whole error tree: what can go wrong on the link, in the protocol, and as a blob operation's own answer.

`PvblobError` has three branches. `ChannelError`: the link; what became of the operation is unknown unless the class
says otherwise. `ProtocolError`: somebody broke the rules, we (`LocalProtocolError`) or they (`RemoteProtocolError`).
`BlobError`: the service's own answer. Each leaf is also the builtin it resembles, so `except FileNotFoundError` works.
This module imports nothing, and every part of pvblob may import it.
"""

from __future__ import annotations

REASON_FIELD = "x-pvblob-reason"
"""The field with an error's text where the answer may have no body (HEAD); Azure has its code there and no text.

Its value is ASCII; other characters, control characters and backslashes are escaped as in a Python string literal."""


class PvblobError(Exception):
    """Base of every error pvblob raises on purpose."""


class SettingsError(PvblobError, ValueError):
    """A setting is missing or wrong; the text names the setting, its source and what would be accepted."""


# ---- the link -------------------------------------------------------------------------------------------------------


class ChannelError(PvblobError, OSError):
    """The link to the host failed."""


class HostUnavailable(ChannelError, ConnectionError):
    """No host answers on the socket: nothing was sent.

    listens: whether one listens there all the same (overloaded, or just ending), so that it is worth waiting for.
    """

    def __init__(self, *text: str, listens: bool = False) -> None:
        super().__init__(*text)
        self.listens = listens


class HostRefused(ChannelError, PermissionError):
    """The host answered and declined to serve this process; the text is the host's reason."""


class DeviceGone(ChannelError, ConnectionError):
    """The channel ended (host stopped, rescind) while the request was pending; its outcome is unknown."""


class ChannelCorrupt(ChannelError):
    """The peer wrote something impossible into the shared ring; the channel is closed."""


class DeadlineExceeded(ChannelError, TimeoutError):
    """The request's deadline passed; its outcome is unknown unless it is a read."""


class RequestCancelled(ChannelError):
    """The host confirmed the cancel: nothing was executed."""


class OutOfCredits(ChannelError):
    """The host's quota for this guest is spent (HRESULT 0x800705AA); nothing was executed."""


class LentMemoryExhausted(ChannelError, MemoryError):
    """Lent memory is spent: the text names the views the program holds and the pages in quarantine."""


# ---- the rules ------------------------------------------------------------------------------------------------------


class ProtocolError(PvblobError):
    """A message or packet broke the rules of the channel."""


class LocalProtocolError(ProtocolError):
    """Our side asked for something the state does not allow: a bug in the caller."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something the state or the format does not allow; the connection ends."""


class DeviceStatusError(ProtocolError):
    """The host completed a request with a device status that says the request was malformed or refused.

    status: the HRESULT (unsigned 32 bits) of the completion, see `pvblob.vsc.status`.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


# ---- the operation's own answer -------------------------------------------------------------------------------------


class BlobError(PvblobError):
    """The blob service answered with an error status.

    status: HTTP status.  code: the value of `x-ms-error-code` (e.g. `BlobNotFound`).  message: the service's text.
    Source: Azure REST, "Status and error codes".
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message


class NotFound(BlobError, FileNotFoundError):
    """404: the blob or container does not exist."""


class AlreadyExists(BlobError, FileExistsError):
    """409: a blob or container of this name exists."""


class Conflict(BlobError):
    """409 for any other reason: the resource's state forbids the operation."""


class PreconditionFailed(BlobError):
    """412, or 304 to a conditional read: a condition header did not hold."""


class InvalidRange(BlobError, ValueError):
    """416: the range lies outside the blob."""


class Denied(BlobError, PermissionError):
    """401 or 403: authentication or policy refuses the operation."""


class Busy(BlobError):
    """429 or 503: the service asks to come back later."""


class NotImplementedByHost(BlobError, NotImplementedError):
    """501: the host does not implement this operation."""


_BY_STATUS: dict[int, type[BlobError]] = {
    304: PreconditionFailed,
    401: Denied,
    403: Denied,
    404: NotFound,
    409: Conflict,
    412: PreconditionFailed,
    416: InvalidRange,
    429: Busy,
    501: NotImplementedByHost,
    503: Busy,
}
_ALREADY_EXISTS = frozenset({"BlobAlreadyExists", "ContainerAlreadyExists", "ResourceAlreadyExists"})


def blob_error(status: int, code: str, message: str) -> BlobError:
    """Return the `BlobError` leaf for an error answer (status >= 300 and code as sent in `x-ms-error-code`)."""
    if code in _ALREADY_EXISTS:
        return AlreadyExists(status, code, message)
    return _BY_STATUS.get(status, BlobError)(status, code, message)
