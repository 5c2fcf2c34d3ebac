"""Device status (HRESULT) to exception: the one table, for the guest's side. Source: design §3, blobdev::hresult."""

from __future__ import annotations

from pvblob import _native
from pvblob.errors import DeadlineExceeded, Denied, DeviceStatusError, OutOfCredits, RequestCancelled

DEADLINE = _native.HRESULT["DEADLINE"]
DENIED = _native.HRESULT["DENIED"]
INSUFFICIENT_BUFFER = _native.HRESULT["INSUFFICIENT_BUFFER"]
CANCELLED = _native.HRESULT["CANCELLED"]
QUOTA = _native.HRESULT["QUOTA"]

_NAMES = {status: name for name, status in _native.HRESULT.items()}


def raise_for_status(status: int, what: str) -> None:
    """Return for 0; else raise what the host's device status means. *what* names the request in the text."""
    if status == 0:
        return
    if status == DEADLINE:
        raise DeadlineExceeded(f"{what}: the host did not finish within the deadline")
    if status == CANCELLED:
        raise RequestCancelled(f"{what}: cancelled; nothing was executed")
    if status == QUOTA:
        raise OutOfCredits(f"{what}: the host's quota for this process is spent")
    if status == DENIED:
        raise Denied(403, "PvblobDenied", f"{what}: the host's policy refuses it")
    name = _NAMES.get(status, "unknown status")
    raise DeviceStatusError(f"{what}: device status 0x{status:08X} ({name})", status)
