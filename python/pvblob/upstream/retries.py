"""When an attempt is repeated: what may be, after what, and how long to wait.

A read may always be repeated. A write may when nothing of it was sent, when the service says that it did nothing (429,
503), or when a condition makes a second execution impossible (design rule 4). Waits have full jitter; a Retry-After
holds for everybody who uses the account.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from pvblob.blobs.target import parse_query
from pvblob.http import Fields, Request

# The service did not begin. Source: Azure REST, "Status and error codes" (ServerBusy).
REFUSED_FOR_NOW = frozenset({429, 503})
# It may have begun.
PERHAPS_EXECUTED = frozenset({408, 500, 502, 504})
# How a condition shows, at the second attempt, that the first one may have been executed.
CONDITION_FAILED = frozenset({404, 409, 412})

_RETRY_AFTER_S_MAX = 300.0
_ETAG_STAYS = frozenset({"lease", "tier", "tags", "snapshot", "copy", "undelete"})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How waits grow: the n-th is uniform between 0 and min(wait_s_max, wait_s_first · 2ⁿ)."""

    wait_s_first: float = 0.1
    wait_s_max: float = 5.0
    attempts_max: int = 12
    random: random.Random = field(default_factory=random.Random)

    def wait_s(self, attempt: int) -> float:
        """Return how long to wait after attempt number *attempt* (from 0)."""
        return self.random.uniform(0, min(self.wait_s_max, self.wait_s_first * 2**attempt))


class Pause:
    """A time in which nobody asks an account for anything, because it said so."""

    def __init__(self) -> None:
        self._until_s = float("-inf")
        self.begun = 0

    def begin(self, seconds: float) -> None:
        """Ask for nothing for *seconds* from now."""
        until_s = time.monotonic() + min(seconds, _RETRY_AFTER_S_MAX)
        if until_s > self._until_s:
            self._until_s = until_s
            self.begun += 1

    @property
    def left_s(self) -> float:
        """Seconds until the end, 0 when there is no pause."""
        return max(0.0, self._until_s - time.monotonic())

    async def wait(self, spread: random.Random) -> None:
        """Wait for the end. Who waited goes on spread over a tenth of the pause, not all at once."""
        left_s = self.left_s
        if left_s:
            await asyncio.sleep(left_s + spread.uniform(0, min(1.0, left_s / 10)))


def retry_after_s(fields: Fields) -> float | None:
    """Return what Retry-After says in seconds from now, None when it says nothing. Source: RFC 9110 §10.2.3."""
    text = fields.get("retry-after")
    if text is None:
        return None
    if text.strip().isascii() and text.strip().isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def is_read(request: Request) -> bool:
    """Say whether executing *request* twice changes nothing."""
    return request.method in ("GET", "HEAD")


def is_once_only(request: Request) -> bool:
    """Say whether *request*, a write, carries what makes a second execution impossible or without effect.

    A block is put under its id, an append names its position; a condition on the ETag fails once the write has changed
    it, if the operation changes it at all.
    """
    query = parse_query(request.target.partition("?")[2])
    operation = query.get("comp")
    if request.method == "PUT" and operation == "block" and "blockid" in query:
        return True
    if "x-ms-blob-condition-appendpos" in request.fields:
        return True
    conditional = "if-match" in request.fields or request.fields.get("if-none-match") == "*"
    return conditional and request.method in ("PUT", "DELETE") and operation not in _ETAG_STAYS
