"""Lease Blob and Lease Container: five actions of one request, each read from its fields before anything is changed.

Source: Azure REST, "Lease Blob", "Lease Container".
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from pvblob.blobs import leases
from pvblob.blobs.answers import Call, Pairs, Refusal, answer, etag, http_date
from pvblob.blobs.blob_changes import found_blob
from pvblob.blobs.conditions import Conditions
from pvblob.blobs.leases import Lease
from pvblob.blobs.mutation import Transaction
from pvblob.blobs.store import Store, container_in
from pvblob.http import Fields, Response

DURATION_S_MIN, DURATION_S_MAX = 15, 60
BREAK_PERIOD_S_MAX = 60
_PROPOSED_ID = "x-ms-proposed-lease-id"

# The lease that is left, the status, and the fields to answer with.
Outcome = tuple[Lease | None, int, Pairs]
Action = Callable[[Lease | None, int], Outcome]


def _acquire(fields: Fields) -> Action:
    duration_s = _seconds(fields, "x-ms-lease-duration")
    if duration_s is None:
        raise Refusal("MissingRequiredHeader", "x-ms-lease-duration is missing.")
    if duration_s != leases.INFINITE and not DURATION_S_MIN <= duration_s <= DURATION_S_MAX:
        raise Refusal("InvalidHeaderValue", f"A lease lasts {DURATION_S_MIN} to {DURATION_S_MAX} seconds, or -1.")
    lease_id = leases.id_of(fields, _PROPOSED_ID) or str(uuid.uuid4())
    return lambda held, now_ms: _with_id(leases.acquire(held, now_ms, duration_s, lease_id), 201)


def _renew(fields: Fields) -> Action:
    lease_id = _required(fields, leases.LEASE_ID)
    return lambda held, now_ms: _with_id(leases.renew(held, now_ms, lease_id), 200)


def _change(fields: Fields) -> Action:
    lease_id, proposed_id = _required(fields, leases.LEASE_ID), _required(fields, _PROPOSED_ID)
    return lambda held, now_ms: _with_id(leases.change(held, now_ms, lease_id, proposed_id), 200)


def _release(fields: Fields) -> Action:
    lease_id = _required(fields, leases.LEASE_ID)

    def act(held: Lease | None, now_ms: int) -> Outcome:
        leases.release(held, lease_id)
        return None, 200, []

    return act


def _break(fields: Fields) -> Action:
    period_s = _seconds(fields, "x-ms-lease-break-period")
    if period_s is not None and not 0 <= period_s <= BREAK_PERIOD_S_MAX:
        raise Refusal("InvalidHeaderValue", f"A break period is 0 to {BREAK_PERIOD_S_MAX} seconds.")

    def act(held: Lease | None, now_ms: int) -> Outcome:
        lease, left_s = leases.end_early(held, now_ms, period_s)
        return lease, 202, [("x-ms-lease-time", str(left_s))]

    return act


_ACTIONS: dict[str, Callable[[Fields], Action]] = {
    "acquire": _acquire,
    "renew": _renew,
    "change": _change,
    "release": _release,
    "break": _break,
}


def action_of(fields: Fields) -> Action:
    """Return what the request wants done with a lease. Refuses."""
    name = fields.get("x-ms-lease-action")
    if not name:
        raise Refusal("MissingRequiredHeader", "x-ms-lease-action is missing.")
    action = _ACTIONS.get(name.lower())
    if action is None:
        raise Refusal("InvalidHeaderValue", f"x-ms-lease-action is one of {', '.join(_ACTIONS)}.")
    return action(fields)


def _with_id(lease: Lease, status: int) -> Outcome:
    return lease, status, [("x-ms-lease-id", lease.id)]


def _required(fields: Fields, name: str) -> str:
    lease_id = leases.id_of(fields, name)
    if lease_id is None:
        raise Refusal("MissingRequiredHeader", f"{name} is missing.")
    return lease_id


def _seconds(fields: Fields, name: str) -> int | None:
    text = fields.get(name)
    if not text:
        return None
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 4):
        raise Refusal("InvalidHeaderValue", f"{name} is no number of seconds.")
    return int(text)


async def lease_blob(store: Store, call: Call) -> Response:
    """Lease Blob: acquire 201, renew, change and release 200, break 202. ETag and Last-Modified stay."""
    act = action_of(call.fields)

    def apply(transaction: Transaction) -> Response:
        container_id = container_in(transaction, call).id
        row = found_blob(transaction, call, container_id)
        lease, status, pairs = act(leases.unpack(row.lease), transaction.now_ms)
        assert call.target.blob is not None
        transaction.write_lease(container_id, call.target.blob, lease.pack() if lease else "")
        return answer(call.request, status, [*_head(row.version, row.modified), *pairs])

    return await store.commit(call, apply)


async def lease_container(store: Store, call: Call) -> Response:
    """Lease Container: as Lease Blob; it guards the container against being deleted, and nothing in it."""
    act, conditions = action_of(call.fields), Conditions.parse(call.fields)

    def apply(transaction: Transaction) -> Response:
        row = container_in(transaction, call)
        if conditions is not None:
            conditions.check_write(row.version, row.modified)
        lease, status, pairs = act(leases.unpack(row.lease), transaction.now_ms)
        text = lease.pack() if lease else ""
        transaction.connection.execute("UPDATE containers SET lease = ? WHERE id = ?", (text, row.id))
        return answer(call.request, status, [*_head(row.version, row.modified), *pairs])

    return await store.commit(call, apply)


def _head(version: int, modified: int) -> Pairs:
    return [("etag", etag(version)), ("last-modified", http_date(modified))]
