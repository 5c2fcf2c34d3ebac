"""Leases: what one lets happen, as pure transitions of a `Lease` over time; and what a lease id in a request must be.

    available ─acquire─► leased ─the time ends─► expired        leased ─break─► breaking ─the period ends─► broken

A lease is kept with its blob or container as text (`pack`; "" is none) and has no timer: its state follows from the
clock. Taking, breaking or ending one changes neither ETag nor Last-Modified. Times are milliseconds since 1970.
Source: Azure REST, "Lease Blob", "Lease Container": the tables "Outcomes of … attempts by lease state".
"""

from __future__ import annotations

import uuid
from typing import NamedTuple

from pvblob.blobs.answers import Pairs, Refusal
from pvblob.http import Fields

INFINITE = -1
LEASE_ID = "x-ms-lease-id"
SOURCE_LEASE_ID = "x-ms-source-lease-id"


class Codes(NamedTuple):
    """The error codes that name what is leased."""

    mismatch: str
    absent: str


OF_BLOB = Codes("LeaseIdMismatchWithBlobOperation", "LeaseNotPresentWithBlobOperation")
OF_CONTAINER = Codes("LeaseIdMismatchWithContainerOperation", "LeaseNotPresentWithContainerOperation")


class Lease(NamedTuple):
    """One lease. duration_s: INFINITE or seconds.  ends_ms: of the lease, or (broken) of the period until it is free;
    it says nothing of an infinite one."""

    id: str
    duration_s: int
    ends_ms: int
    broken: bool = False

    def pack(self) -> str:
        """Return the lease as text."""
        return f"{self.id} {self.duration_s} {self.ends_ms} {int(self.broken)}"

    def state(self, now_ms: int) -> str:
        """Return `leased`, `expired`, `breaking` or `broken`."""
        over = now_ms >= self.ends_ms
        if self.broken:
            return "broken" if over else "breaking"
        return "expired" if over and self.duration_s != INFINITE else "leased"

    def active(self, now_ms: int) -> bool:
        """Whether it keeps others from writing."""
        return self.state(now_ms) in ("leased", "breaking")


def unpack(text: str) -> Lease | None:
    """Invert `Lease.pack`."""
    if not text:
        return None
    lease_id, duration_s, ends_ms, broken = text.split(" ")
    return Lease(lease_id, int(duration_s), int(ends_ms), broken == "1")


def acquire(held: Lease | None, now_ms: int, duration_s: int, lease_id: str) -> Lease:
    """Take the lease, or (its own id) give it another duration. Refuses while somebody else has it."""
    if held is not None:
        state = held.state(now_ms)
        if state == "breaking" and held.id == lease_id:
            raise Refusal("LeaseIsBreakingAndCannotBeAcquired")
        if state == "breaking" or (state == "leased" and held.id != lease_id):
            raise Refusal("LeaseAlreadyPresent")
    return Lease(lease_id, duration_s, now_ms + duration_s * 1000)


def renew(held: Lease | None, now_ms: int, lease_id: str) -> Lease:
    """Let the lease begin anew; one that expired too, as long as nobody wrote or took it since: that removes it."""
    held = _named(held, lease_id)
    if held.broken:
        raise Refusal("LeaseIsBrokenAndCannotBeRenewed")
    return held._replace(ends_ms=now_ms + held.duration_s * 1000)


def change(held: Lease | None, now_ms: int, lease_id: str, proposed_id: str) -> Lease:
    """Give the lease another id; done already is done."""
    if held is None:
        raise Refusal("LeaseNotPresentWithLeaseOperation")
    if held.id not in (lease_id, proposed_id):
        raise Refusal("LeaseIdMismatchWithLeaseOperation")
    state = held.state(now_ms)
    if state == "breaking":
        raise Refusal("LeaseIsBreakingAndCannotBeChanged")
    if state != "leased":
        raise Refusal("LeaseNotPresentWithLeaseOperation")
    return held._replace(id=proposed_id)


def release(held: Lease | None, lease_id: str) -> None:
    """Judge the end of a lease: any state of it can be released by its id."""
    _named(held, lease_id)


def end_early(held: Lease | None, now_ms: int, period_s: int | None) -> tuple[Lease, int]:
    """Break the lease; return it, and the seconds until it is free.

    period_s: at most so long, None: for as long as it would have lasted, and an infinite one at once.
    """
    if held is None:
        raise Refusal("LeaseNotPresentWithLeaseOperation")
    left_ms = max(0, held.ends_ms - now_ms)
    if held.duration_s == INFINITE and not held.broken:
        left_ms = (period_s or 0) * 1000
    elif period_s is not None:
        left_ms = min(left_ms, period_s * 1000)
    return held._replace(ends_ms=now_ms + left_ms, broken=True), -(-left_ms // 1000)


def _named(held: Lease | None, lease_id: str) -> Lease:
    if held is None or held.id != lease_id:
        raise Refusal("LeaseIdMismatchWithLeaseOperation")
    return held


def check_read(lease: str, fields: Fields, now_ms: int, codes: Codes = OF_BLOB, name: str = LEASE_ID) -> None:
    """Judge a request that needs no lease but may name one, which must then be the active one."""
    sent = id_of(fields, name)
    if sent is not None:
        _check_id(unpack(lease), sent, now_ms, codes)


def check_write(lease: str, fields: Fields, now_ms: int, codes: Codes = OF_BLOB) -> str:
    """Judge a request that needs the active lease, if there is one; return the lease that it leaves behind.

    Writing without one ends what is left of a lease that expired or was broken: it cannot be renewed then.
    """
    held, sent = unpack(lease), id_of(fields)
    if sent is not None:
        _check_id(held, sent, now_ms, codes)
        return lease
    if held is not None and held.active(now_ms):
        raise Refusal("LeaseIdMissing")
    return ""


def _check_id(held: Lease | None, sent: str, now_ms: int, codes: Codes) -> None:
    if held is None:
        raise Refusal(codes.absent)
    if held.id != sent:
        raise Refusal(codes.mismatch)
    if not held.active(now_ms):
        raise Refusal("LeaseLost")


def id_of(fields: Fields, name: str = LEASE_ID) -> str | None:
    """Return the lease id a field holds, in the one form that ids are compared in; None without one. Refuses."""
    text = fields.get(name)
    if not text:
        return None
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise Refusal("InvalidHeaderValue", f"{name} is no GUID.") from None


def changes_by_itself(lease: str, now_ms: int) -> bool:
    """Whether time alone will change the lease's state, so that no answer that tells it can be kept."""
    held = unpack(lease)
    return held is not None and held.active(now_ms) and (held.broken or held.duration_s != INFINITE)


def described(lease: str, now_ms: int) -> tuple[str, str, str]:
    """Return status, state and duration ("" unless leased), as properties tell them."""
    held = unpack(lease)
    if held is None:
        return "unlocked", "available", ""
    state = held.state(now_ms)
    duration = ("infinite" if held.duration_s == INFINITE else "fixed") if state == "leased" else ""
    return "locked" if held.active(now_ms) else "unlocked", state, duration


_AVAILABLE: Pairs = [("x-ms-lease-status", "unlocked"), ("x-ms-lease-state", "available")]


def lease_pairs(lease: str, now_ms: int) -> Pairs:
    """Return the fields that tell of a lease in the properties of what is leased."""
    if not lease:
        return _AVAILABLE
    status, state, duration = described(lease, now_ms)
    pairs = [("x-ms-lease-status", status), ("x-ms-lease-state", state)]
    return [*pairs, ("x-ms-lease-duration", duration)] if duration else pairs


def lease_xml(lease: str, now_ms: int) -> str:
    """Return the elements that tell of a lease in a listing."""
    status, state, duration = described(lease, now_ms)
    text = f"<LeaseStatus>{status}</LeaseStatus><LeaseState>{state}</LeaseState>"
    return f"{text}<LeaseDuration>{duration}</LeaseDuration>" if duration else text
