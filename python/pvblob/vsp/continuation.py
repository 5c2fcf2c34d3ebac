"""Bodies bigger than a packet (design rule 6): kept answers that are fetched in pieces, uploads that arrive in pieces.

Both are known by the guest's channel and the request's GUID, both end with the deadline of their last packet or with
the channel, and both are bounded per guest and, by `budget.Shares`, for all guests together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from pvblob import _native
from pvblob.vsp.bodies import PiecedBody, PieceError
from pvblob.vsp.budget import Limits, Shares
from pvblob.vsp.delivery import HeldContent

KEPT_ANSWERS_MAX = 1024
UPLOADS_MAX = 256


class QuotaSpent(Exception):
    """The guest holds its share of what the host spends on all guests (0x800705AA)."""


class Spent:
    """What all channels together have begun and keep; one per host."""

    def __init__(self, limits: Limits) -> None:
        self.uploads: Shares[int] = Shares(limits.uploads_max, limits.upload_bytes_max)
        self.kept: Shares[int] = Shares(limits.kept_answers_max, limits.kept_bytes_max)


@dataclass(slots=True)
class _Kept:
    held: HeldContent
    expiry: asyncio.TimerHandle


@dataclass(slots=True)
class _Upload:
    body: PiecedBody
    task: asyncio.Task[None]
    expiry: asyncio.TimerHandle

    def end(self, status: int) -> None:
        """Cancel the execution; a piece that waits is completed with *status*."""
        self.body.cancelled_status = status
        self.task.cancel()


class Continuations:
    """What one channel, named by *channel*, has begun and not finished.

    spooled_bytes_max: of its uploads together, where policy says less than its share of the host.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, channel: int, spent: Spent, spooled_bytes_max: int | None = None
    ) -> None:
        self.spooled_bytes_max = spooled_bytes_max
        self._loop = loop
        self._channel = channel
        self._spent = spent
        self._kept: dict[bytes, _Kept] = {}
        self._uploads: dict[bytes, _Upload] = {}

    # ---- kept answers

    def keep(self, guid: bytes, held: HeldContent, timeout_s: float) -> None:
        """Keep an answer's content for later pieces, at most *timeout_s* from its last use."""
        self.release(guid)
        shares, private_bytes = self._spent.kept, held.private_bytes
        # Who keeps more than its share loses its own oldest, never another guest's.
        while self._kept and not (len(self._kept) < KEPT_ANSWERS_MAX and shares.may_take(self._channel, private_bytes)):
            self.release(next(iter(self._kept)))
        shares.take(self._channel, private_bytes)
        self._kept[guid] = _Kept(held, self._loop.call_later(timeout_s, self.release, guid))

    def kept(self, guid: bytes, timeout_s: float) -> HeldContent | None:
        """Return the content kept under *guid* and prolong its life."""
        kept = self._kept.get(guid)
        if kept is None:
            return None
        kept.expiry.cancel()
        kept.expiry = self._loop.call_later(timeout_s, self.release, guid)
        return kept.held

    def release(self, guid: bytes) -> None:
        """Let go of the content kept under *guid*, if any."""
        kept = self._kept.pop(guid, None)
        if kept is not None:
            kept.expiry.cancel()
            self._spent.kept.give(self._channel, kept.held.private_bytes)
            kept.held.let_go()

    # ---- uploads

    def begin(
        self, guid: bytes, body: PiecedBody, run: Callable[[], Coroutine[Any, Any, None]], timeout_s: float
    ) -> None:
        """Start executing an upload whose first piece has been fed to *body*.

        Raises PieceError when its GUID is in use, QuotaSpent beyond the bounds.
        """
        if guid in self._uploads:
            raise PieceError("an upload of this GUID is in progress")
        if len(self._uploads) >= UPLOADS_MAX:
            raise QuotaSpent(f"{UPLOADS_MAX} uploads of this guest are in progress")
        begun_bytes = sum(upload.body.size_bytes for upload in self._uploads.values())
        if self.spooled_bytes_max is not None and begun_bytes + body.size_bytes > self.spooled_bytes_max:
            raise QuotaSpent(f"policy lets this guest have {self.spooled_bytes_max} bytes of uploads under way")
        if not self._spent.uploads.may_take(self._channel, body.size_bytes):
            raise QuotaSpent(f"an upload of {body.size_bytes} bytes is more than this guest's share of the host")
        self._spent.uploads.take(self._channel, body.size_bytes)
        task = self._loop.create_task(run())
        self._uploads[guid] = _Upload(body, task, self._loop.call_later(timeout_s, self._expire, guid))
        task.add_done_callback(lambda _task: self._ended(guid))

    def _ended(self, guid: bytes) -> None:
        upload = self._uploads.pop(guid, None)
        if upload is not None:
            upload.expiry.cancel()
            self._spent.uploads.give(self._channel, upload.body.size_bytes)

    def feed(self, guid: bytes, piece: _native.HostRequest, offset: int, timeout_s: float) -> None:
        """Hand a later piece to its upload. Raises PieceError when there is none or the piece does not continue it."""
        upload = self._uploads.get(guid)
        if upload is None:
            raise PieceError("no upload of this GUID is in progress: it ended, expired, or never began")
        upload.body.feed(piece, offset)
        upload.expiry.cancel()
        upload.expiry = self._loop.call_later(timeout_s, self._expire, guid)

    def _expire(self, guid: bytes) -> None:
        self._uploads[guid].end(_native.HRESULT["DEADLINE"])

    def cancel_piece(self, request_id: int) -> bool:
        """Cancel the upload whose unanswered piece is this request; True when there is one."""
        for upload in self._uploads.values():
            if upload.body.waiting is not None and upload.body.waiting.id == request_id:
                upload.end(_native.HRESULT["CANCELLED"])
                return True
        return False

    def waiting(self) -> Iterator[_native.HostRequest]:
        """Yield the pieces of uploads that have arrived and are not acknowledged."""
        for upload in self._uploads.values():
            if upload.body.waiting is not None:
                yield upload.body.waiting

    def counts(self) -> tuple[int, int]:
        """Return (answers kept, uploads begun)."""
        return len(self._kept), len(self._uploads)

    def close(self) -> None:
        """Let go of everything: the channel ended."""
        for guid in list(self._kept):
            self.release(guid)
        for upload in self._uploads.values():
            upload.expiry.cancel()
            upload.end(_native.HRESULT["CANCELLED"])
