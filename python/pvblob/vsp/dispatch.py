"""From the data plane's queue to the backend and back: one task per request, exactly one completion each.

The engine's descriptor wakes the loop; a batch of events is taken; each request is a task with its deadline, which
waits for its guest's turn first: whoever has many requests in flight waits for itself, not others for it.
Every path out of a task completes its request (design rule 4), with a device status when the link is to blame and
with an HTTP answer when the service is. This module knows no ring and no socket.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import NamedTuple

from pvblob import _native
from pvblob.http import METADATA_NAMES, Backend, Body, Fields, OnceKey, Request
from pvblob.vsp.bodies import BodyPool, ChannelBody, PiecedBody, PieceError
from pvblob.vsp.budget import Limits, Shares
from pvblob.vsp.continuation import Continuations, QuotaSpent, Spent
from pvblob.vsp.delivery import (
    BODY_LENGTH,
    BODY_OFFSET,
    BODY_RECEIVED,
    BODY_RELEASE,
    RESPONSE_BYTES_MIN,
    RESUBMISSION,
    Delivery,
)
from pvblob.vsp.offload import Offload
from pvblob.vsp.turnstile import Turnstile

log = logging.getLogger("pvblob.vsp")

EVENTS_PER_TURN = 256
# Requests of one guest taken per turn of the loop: no more than the turnstile lets in. Each costs the loop about as
# much as an answer does, and another guest's request that comes meanwhile waits for all of them.
EVENTS_PER_GUEST = 1
_STATUS = _native.HRESULT
_READS = frozenset({"GET", "HEAD"})


@dataclass(slots=True)
class GuestContext:
    """What a channel's requests run as: the guest's identity, its client's nonce, and what it has begun.

    scope: the policy scope whose offload entries answer it; None: none do.  weight: its share, 1.0 is an ordinary one.
    """

    guest: str
    nonce: bytes
    backend: Backend
    continuations: Continuations
    scope: int | None
    weight: float
    requests: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Running:
    request: _native.HostRequest
    began_s: float
    task: asyncio.Task[None]
    deadline: asyncio.TimerHandle
    is_let_in: bool = False  # else it waits for its guest's turn
    status: int = _STATUS["CANCELLED"]  # what to say if the task ends by cancellation


class InFlight(NamedTuple):
    """A request that has no completion yet. age_s: since it was taken off the ring.

    state: "queued" in its channel's lane, "waiting" for its guest's turn, "running", "storing" a piece of an upload, or
    "reading": its bytes are read from files, by the data plane alone.
    """

    request: _native.HostRequest
    age_s: float
    state: str


@dataclass(slots=True)
class Counters:
    """What has happened since the host began."""

    requests: int = 0
    malformed: int = 0
    cancelled: int = 0
    expired: int = 0
    refused: int = 0
    internal: int = 0


class Dispatcher:
    """Takes requests off *engine*, executes each on its guest's backend, completes it. Belongs to one asyncio loop.

    executor: threads that move bodies, *threads* of them.  limits: what is spent on all guests together.
    """

    def __init__(
        self,
        engine: _native.HostEngine,
        executor: Executor,
        *,
        threads: int,
        timeout_s_max: float,
        limits: Limits,
        on_channel_failed: Callable[[int, str], None],
    ) -> None:
        self._engine = engine
        # Twice the threads, of which one guest may take half: it keeps all of them busy, and another's turn is next.
        movers: Shares[int] = Shares(2 * threads, limits.body_bytes_running_max)
        self._pool = BodyPool(executor, Turnstile(movers, self._weight_of))
        self._timeout_s_max = timeout_s_max
        self._on_channel_failed = on_channel_failed
        self._loop = asyncio.get_running_loop()
        self._guests: dict[int, GuestContext] = {}
        self._running: dict[int, _Running] = {}
        running: Shares[int] = Shares(limits.requests_running_max, limits.body_bytes_running_max)
        self.turnstile = Turnstile(running, self._weight_of)
        filling: Shares[int] = Shares(limits.requests_running_max, limits.fill_bytes_max)
        self._delivery = Delivery(Turnstile(filling, self._weight_of))
        self.spent = Spent(limits)
        self.offload = Offload(engine)
        self.counters = Counters()
        self.on_detached: Callable[[int], None] = lambda _channel: None  # told which `Request.reader` is gone
        self._loop.add_reader(engine.fileno(), self._take)

    # ---- channels

    def attach(
        self,
        channel: int,
        guest: str,
        nonce: bytes,
        backend: Backend,
        scope: int | None = None,
        *,
        weight: float = 1.0,
        spooled_bytes_max: int | None = None,
    ) -> None:
        """Serve the requests of *channel* (the engine's key) as *guest*, on its own view of the backend.

        scope: the policy scope whose offload entries answer it, as given to the engine; None: none do.
        weight: its share of the host's time, against 1.0 of others.  spooled_bytes_max: of its uploads in pieces.
        """
        continuations = Continuations(self._loop, channel, self.spent, spooled_bytes_max)
        self._guests[channel] = GuestContext(guest, nonce, backend, continuations, scope, weight)

    def _weight_of(self, channel: int) -> float:
        context = self._guests.get(channel)
        return 1.0 if context is None else context.weight

    def set_scope(self, channel: int, scope: int | None) -> None:
        """Have the entries of another policy scope answer *channel* from now on."""
        self._engine.set_scope(channel, scope)
        context = self._guests.get(channel)
        if context is not None:
            context.scope = scope

    def set_shares(self, channel: int, weight: float, spooled_bytes_max: int | None) -> None:
        """Change what `attach` said of a channel's shares, for what comes from now on."""
        context = self._guests.get(channel)
        if context is not None:
            context.weight = weight
            context.continuations.spooled_bytes_max = spooled_bytes_max

    def retire_scopes(self) -> None:
        """Let go of the entries of policy scopes that answer nobody any more."""
        self.offload.retire_all_but({context.scope for context in self._guests.values()})

    def detach(self, channel: int) -> None:
        """Forget a channel: cancel what runs for it, let go of what is kept for it."""
        context = self._guests.pop(channel, None)
        if context is not None:
            context.continuations.close()
            for request_id in list(context.requests):
                self._cancel(request_id, _STATUS["CANCELLED"])
            self.on_detached(channel)

    async def close(self) -> None:
        """Stop taking requests, cancel what runs and wait for its end."""
        for channel in list(self._guests):
            self.detach(channel)
        tasks = [running.task for running in self._running.values()]
        if tasks:
            await asyncio.wait(tasks)
        await self._pool.settle()
        self._loop.remove_reader(self._engine.fileno())
        self._take()

    # ---- what goes on

    def in_flight(self) -> Iterator[InFlight]:
        """Yield the requests that Python holds, the oldest first; then pieces of uploads that wait to be stored."""
        now_s = self._loop.time()
        for running in self._running.values():
            state = "running" if running.is_let_in else "waiting"
            yield InFlight(running.request, now_s - running.began_s, state)
        for context in self._guests.values():
            for piece in context.continuations.waiting():
                if piece.id not in self._running:
                    yield InFlight(piece, piece.age_s, "storing")

    def activity(self, channel: int) -> dict[str, int]:
        """Return what a channel has begun and not finished, by name; queued: requests and cancels not yet taken."""
        context = self._guests.get(channel)
        if context is None:
            return {}
        kept, uploads = context.continuations.counts()
        begun = {"in_flight": len(context.requests), "queued": self._engine.queued(channel)}
        return {**begun, "kept_answers": kept, "uploads": uploads}

    # ---- events

    def _take(self) -> None:
        for kind, value in self._engine.take(EVENTS_PER_TURN, EVENTS_PER_GUEST):
            if kind == _native.EVENT_REQUEST:
                self._begin(value)
            elif kind == _native.EVENT_FILLED:
                self._delivery.filled(value)
            elif kind == _native.EVENT_STORED:
                self._pool.stored(*value)
            elif kind == _native.EVENT_RELEASED:
                self.offload.released(value)
            elif kind == _native.EVENT_CANCEL:
                self.counters.cancelled += 1
                self._cancel(value, _STATUS["CANCELLED"])
            else:
                channel, reason = value
                self._on_channel_failed(channel, reason)

    def _begin(self, request: _native.HostRequest) -> None:
        context = self._guests.get(request.channel)
        if context is None:
            return  # the channel was closed between the ring and here: nobody waits for a completion
        self.counters.requests += 1
        waited_s = request.age_s
        timeout_s = max(0.0, self._timeout_s(request) - waited_s)
        task = self._loop.create_task(self._serve(context, request, timeout_s))
        deadline = self._loop.call_later(timeout_s, self._expire, request.id)
        self._running[request.id] = _Running(request, self._loop.time() - waited_s, task, deadline)
        context.requests.add(request.id)
        task.add_done_callback(lambda _task: self._ended(context, request.id))

    def _timeout_s(self, request: _native.HostRequest) -> float:
        timeout_s = request.timeout_ms / 1000
        return min(timeout_s, self._timeout_s_max) if timeout_s else self._timeout_s_max

    def _ended(self, context: GuestContext, request_id: int) -> None:
        self._running.pop(request_id).deadline.cancel()
        context.requests.discard(request_id)

    def _expire(self, request_id: int) -> None:
        self.counters.expired += 1
        self._cancel(request_id, _STATUS["DEADLINE"])

    def _cancel(self, request_id: int, status: int) -> None:
        running = self._running.get(request_id)
        if running is not None:
            running.status = status
            running.task.cancel()
        else:
            any(context.continuations.cancel_piece(request_id) for context in self._guests.values())

    # ---- one request

    async def _serve(self, context: GuestContext, request: _native.HostRequest, timeout_s: float) -> None:
        channel, size_bytes = request.channel, request.data_valid
        try:
            await self.turnstile.enter(channel, size_bytes)
            self._running[request.id].is_let_in = True
            try:
                await self._execute(context, request, timeout_s)
            finally:
                self.turnstile.leave(channel, size_bytes)
        except QuotaSpent as spent:
            self.counters.refused += 1
            log.debug("refused an upload: %s", spent)
            request.complete(_STATUS["QUOTA"], b"")
        except PieceError as broken:
            self.counters.malformed += 1
            log.debug("refused a piece of an upload: %s", broken)
            request.complete(_STATUS["MALFORMED"], b"")
        except asyncio.CancelledError:
            request.complete(self._cancelled_status(request), b"")
        except Exception:
            self.counters.internal += 1
            log.exception("a request failed inside the host")
            request.complete(_STATUS["INTERNAL"], b"")

    def _cancelled_status(self, request: _native.HostRequest) -> int:
        running = self._running.get(request.id)
        return running.status if running is not None else _STATUS["CANCELLED"]

    async def _execute(self, context: GuestContext, native: _native.HostRequest, timeout_s: float) -> None:
        method, scheme, authority, target, pairs, content = native.head()
        control = {name: value for name, value in pairs if name.startswith("pvblob-") and name != METADATA_NAMES}
        if control:
            pairs = [pair for pair in pairs if pair[0] not in control]
        request = Request(method, scheme, authority, target, Fields.lowered(pairs))
        if BODY_RELEASE in control:
            context.continuations.release(native.guid)
            native.complete(0, _native.encode_response(200, [("content-length", "0")], b""))
        elif BODY_LENGTH in control:
            await self._upload_piece(context, native, request, control, timeout_s)
        elif BODY_OFFSET in control:
            await self._download_piece(context, native, _number(control, BODY_OFFSET), timeout_s)
        else:
            body = ChannelBody(native, content, self._pool)
            await self._run(context, native, request, body, RESUBMISSION in control, timeout_s)

    async def _run(
        self,
        context: GuestContext,
        native: _native.HostRequest,
        request: Request,
        body: Body,
        resubmission: bool,
        timeout_s: float,
    ) -> None:
        if request.method not in _READS:
            if native.response_capacity < RESPONSE_BYTES_MIN:
                native.complete(_STATUS["INSUFFICIENT_BUFFER"], b"", RESPONSE_BYTES_MIN)
                return
            request.once = once_key(context.guest, context.nonce, native.guid, request, body.size_bytes, resubmission)
        request.guest, request.reader = context.guest, native.channel
        request.deadline_s = self._loop.time() + timeout_s
        scope = context.scope if native.wants_offload else None
        ruling = None if scope is None else self.offload.ruling(scope)
        request.wants_offload = ruling is not None
        response = await context.backend.execute(request, body)
        if response.offer is not None and ruling is not None:
            self.offload.install(ruling, request, response.offer)
        answered = body.waiting or native if isinstance(body, PiecedBody) else native
        held = await self._delivery.answer(answered, request.method, response)
        if held is not None:
            context.continuations.keep(native.guid, held, timeout_s)

    # ---- bodies in pieces (design rule 6)

    async def _download_piece(
        self, context: GuestContext, native: _native.HostRequest, offset: int, timeout_s: float
    ) -> None:
        held = context.continuations.kept(native.guid, timeout_s)
        if held is None or offset > held.size_bytes:
            answer = [("content-length", "0"), ("x-ms-error-code", "PvblobAnswerNotKept")]
            native.complete(0, _native.encode_response(410, answer, b""))
        elif await self._delivery.piece(native, held, offset):
            context.continuations.release(native.guid)

    async def _upload_piece(
        self,
        context: GuestContext,
        native: _native.HostRequest,
        request: Request,
        control: dict[str, str],
        timeout_s: float,
    ) -> None:
        offset, size_bytes = _number(control, BODY_OFFSET), _number(control, BODY_LENGTH)
        if offset:
            context.continuations.feed(native.guid, native, offset, timeout_s)
            return
        body = PiecedBody(size_bytes, self._pool, _acknowledge)
        body.feed(native, 0)
        resubmission = RESUBMISSION in control

        async def run() -> None:
            try:
                await self._run(context, native, request, body, resubmission, timeout_s)
            except asyncio.CancelledError:
                (body.waiting or native).complete(body.cancelled_status, b"")
            except Exception:
                log.exception("an upload failed inside the host")
                (body.waiting or native).complete(_STATUS["INTERNAL"], b"")

        context.continuations.begin(native.guid, body, run, timeout_s)


def _acknowledge(piece: _native.HostRequest, stored_bytes: int) -> None:
    fields = [("content-length", "0"), (BODY_RECEIVED, str(stored_bytes))]
    piece.complete(0, _native.encode_response(202, fields, b""))


def _number(control: dict[str, str], name: str) -> int:
    text = control.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise PieceError(f"{name}: {text!r} is not a number of bytes")
    return int(text)


def once_key(guest: str, nonce: bytes, guid: bytes, request: Request, body_bytes: int, resubmission: bool) -> OnceKey:
    """Return the key that makes a write once-only; its digest covers the head and the body's length (design rule 4)."""
    head = repr((request.method, request.authority, request.target, request.fields.pairs(), body_bytes))
    return OnceKey(guest, nonce, guid, hashlib.sha256(head.encode()).digest(), resubmission)
