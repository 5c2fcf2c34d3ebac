"""One request to one account, repeated until it has one clean outcome or its deadline is near.

The flow: wait for the account's pause and a share of its budget → authorize → send → judge → wait and repeat, or
return. Invariant: a write that may have been executed is never sent again unless it is once-only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from pvblob import _native
from pvblob.errors import SettingsError
from pvblob.http import Request
from pvblob.upstream import failures, retries
from pvblob.upstream.budget import Budget, Lease
from pvblob.upstream.credentials import Credential
from pvblob.upstream.endpoint import EndpointUrl
from pvblob.upstream.failures import GivenUp
from pvblob.upstream.forward import forwarded
from pvblob.upstream.proxies import Proxy
from pvblob.upstream.transport import NO_BODY, Answer, Part, Transport, TransportFailure

log = logging.getLogger("pvblob.upstream")

DEFAULT_DEADLINE_S = 60.0
READ_ATTEMPT_S_MAX = 30.0
REFUSAL_SAID_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Location:
    """One of an account's endpoints: where it is, its connections, and who makes them in our place."""

    url: EndpointUrl
    connections: _native.UpstreamEndpoint
    proxy: Proxy | None = None


@dataclass(slots=True)
class AttemptCounters:
    """What has happened with an account.

    attempts: requests sent.  repeated: those after a failure.  hedged: those beside a slow one.  gave_up: requests
    that ended without an answer of the service.  outcome_unknown: of these, writes.  throttled: answers 429 and 503.
    bytes_sent, bytes_received: of content.
    """

    attempts: int = 0
    repeated: int = 0
    hedged: int = 0
    gave_up: int = 0
    outcome_unknown: int = 0
    throttled: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    def received(self, size_bytes: int) -> None:
        """Count content that came."""
        self.bytes_received += size_bytes


@dataclass(slots=True)
class _Course:
    """How far one request has come."""

    write: bool
    once_only: bool
    ends_s: float
    perhaps_executed: str = ""  # why it may have been executed already
    refreshed: bool = False
    from_secondary: bool = False
    stale_secondary: bool = False

    @property
    def left_s(self) -> float:
        return self.ends_s - time.monotonic()


@dataclass(slots=True)
class Attempts:
    """Performs requests to *account*.

    secondary: read from when the primary fails (RA-GRS).  hedge_after_s: a read that has no answer after so long is
    asked a second time.
    """

    account: str
    transport: Transport
    primary: Location
    secondary: Location | None
    credential: Credential
    budget: Budget
    policy: retries.RetryPolicy = field(default_factory=retries.RetryPolicy)
    pause: retries.Pause = field(default_factory=retries.Pause)
    counters: AttemptCounters = field(default_factory=AttemptCounters)
    hedge_after_s: float | None = None
    refusal_said_s: float = float("-inf")

    async def perform(self, request: Request, part: Part, *, inline_max: int) -> Answer:
        """Return the service's answer to *request* (as the guest sent it) with *part* as its content.

        The answer holds a share of the budget until it is dropped. Raises GivenUp.
        """
        course = self._course(request)
        for attempt in range(self.policy.attempts_max):
            last = attempt == self.policy.attempts_max - 1
            try:
                answer = await self._once(request, part, course, attempt, inline_max)
            except TransportFailure as failure:
                wait_s = self._after_failure(request, course, failure, attempt, last=last)
            else:
                judged = await self._after_answer(request, course, answer, attempt, last=last)
                if judged is None:
                    return answer
                answer.drop()
                wait_s = judged
            self.counters.repeated += 1
            await asyncio.sleep(wait_s)
        raise AssertionError("the last attempt always ends the loop")

    def _course(self, request: Request) -> _Course:
        now_s = time.monotonic()
        left_s = (request.deadline_s or now_s + DEFAULT_DEADLINE_S) - now_s
        # What remains is for the answer to reach the guest before its deadline does.
        ends_s = now_s + left_s - min(0.5, left_s / 10)
        return _Course(not retries.is_read(request), retries.is_once_only(request), ends_s)

    async def _once(self, request: Request, part: Part, course: _Course, attempt: int, inline_max: int) -> Answer:
        location = self.primary
        if self.secondary is not None and attempt % 2 and not course.write and not course.stale_secondary:
            location = self.secondary
        await self._ready(request, course)
        try:
            async with asyncio.timeout(course.left_s):
                lease = await self.budget.acquire(request.guest, part.size_bytes)
        except TimeoutError:
            raise failures.unreachable(request, self.account, "every connection is in use by others") from None
        try:
            own = self.credential.guests_own
            sent = forwarded(request, location.url, self.account, part.size_bytes, guests_own=own)
            self.credential.authorize(sent)
            if location.proxy is not None:
                location.proxy.lead(location.connections)
            timeout_s = max(0.01, course.left_s if course.write else min(course.left_s, READ_ATTEMPT_S_MAX))
            self.counters.attempts += 1
            self.counters.bytes_sent += part.size_bytes
            if course.write or self.hedge_after_s is None:
                answer = await self.transport.send(location.connections, sent, part, timeout_s, inline_max)
                answer.lease = lease
            else:
                answer = await self._hedged(location, sent, timeout_s, inline_max, lease)
        except SettingsError as error:
            lease.release()
            raise failures.no_credential(request, self.account, str(error)) from None
        except BaseException:
            lease.release()
            raise
        answer.received = self._received
        if answer.content is not None:
            self._received(len(answer.content))
            answer.drop()
        course.from_secondary = location is self.secondary
        return answer

    async def _hedged(
        self, location: Location, sent: Request, timeout_s: float, inline_max: int, lease: Lease
    ) -> Answer:
        """Send a read; without an answer after `hedge_after_s`, send it again beside. The first answer counts."""

        async def send(own: Lease) -> Answer:
            try:
                answer = await self.transport.send(location.connections, sent, NO_BODY, timeout_s, inline_max)
            except BaseException:
                own.release()
                raise
            answer.lease = own
            return answer

        racing = {asyncio.ensure_future(send(lease))}
        try:
            await asyncio.wait(racing, timeout=self.hedge_after_s)
            second = None if any(task.done() for task in racing) else self.budget.acquire_at_once()
            if second is not None:
                self.counters.hedged += 1
                racing.add(asyncio.ensure_future(send(second)))
            failure: BaseException | None = None
            while racing:
                done, racing = await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    failure = task.exception()
                    if failure is None:
                        racing |= done - {task}
                        return task.result()
            assert failure is not None
            raise failure
        finally:
            await _end(racing)

    def _received(self, size_bytes: int) -> None:
        self.counters.received(size_bytes)
        self.budget.count_bytes(size_bytes)

    async def _ready(self, request: Request, course: _Course) -> None:
        if self.pause.left_s > course.left_s:
            raise failures.unreachable(request, self.account, "it asked everybody to come back later")
        await self.pause.wait(self.policy.random)
        try:
            async with asyncio.timeout(course.left_s):
                await self.credential.prepare()
        except (SettingsError, ConnectionError, TimeoutError) as error:
            raise failures.no_credential(request, self.account, str(error) or "it took too long") from None

    def _after_failure(
        self, request: Request, course: _Course, failure: TransportFailure, attempt: int, *, last: bool
    ) -> float:
        """Return how long to wait before the next attempt. Raises GivenUp."""
        if course.write and not failure.nothing_was_sent:
            course.perhaps_executed = str(failure)
        wait_s = self.policy.wait_s(attempt)
        repeatable = failure.kind not in ("unsendable", "untrusted", "local")
        if course.write and not failure.nothing_was_sent and not course.once_only:
            repeatable = False
        if repeatable and not last and wait_s < course.left_s:
            return wait_s
        raise self._give_up(failures.from_failure(request, self.account, failure, write=course.write), course)

    async def _after_answer(
        self, request: Request, course: _Course, answer: Answer, attempt: int, *, last: bool
    ) -> float | None:
        """Return None when *answer* is the outcome, else how long to wait. Raises GivenUp."""
        status = answer.status
        if course.perhaps_executed and status in retries.CONDITION_FAILED:
            # Our own first attempt, or somebody else: the condition that failed cannot tell.
            raise self._give_up(failures.unknown_outcome(request, self.account, course.perhaps_executed), course)
        if status in (401, 403) and answer.fields.get("x-ms-error-code") in _REFUSED:
            if not course.refreshed and self._is_refreshed():
                course.refreshed = True
                return 0.0
            self._say_refused(status)
            return None
        wait_s = self._wait_after(request, course, answer, attempt)
        if wait_s is not None and not last and wait_s < course.left_s:
            return wait_s
        if status == 404 and course.from_secondary:
            reason = "the primary fails, and the secondary does not have it (yet)"
            raise self._give_up(failures.unreachable(request, self.account, reason), course)
        return None

    def _wait_after(self, request: Request, course: _Course, answer: Answer, attempt: int) -> float | None:
        status = answer.status
        if status in retries.REFUSED_FOR_NOW:
            self.counters.throttled += 1
            asked_s = retries.retry_after_s(answer.fields)
            if asked_s is None:
                return self.policy.wait_s(attempt)
            self.pause.begin(asked_s)
            return self.pause.left_s
        if status in retries.PERHAPS_EXECUTED and (not course.write or course.once_only):
            if course.write:
                course.perhaps_executed = f"it answered {status} to the first attempt"
            return self.policy.wait_s(attempt)
        if status == 404 and course.from_secondary:
            course.stale_secondary = True  # what is new has not been copied there yet
            return self.policy.wait_s(0)
        return None

    def _is_refreshed(self) -> bool:
        try:
            return self.credential.refused()
        except SettingsError as error:
            log.warning("account %s refused the credential, and there is no other: %s", self.account, error)
            return False

    def _say_refused(self, status: int) -> None:
        """Tell whoever reads the log, now and then: guests are told each time, and cannot mend it."""
        now_s = time.monotonic()
        if not self.credential.guests_own and now_s - self.refusal_said_s >= REFUSAL_SAID_EVERY_S:
            self.refusal_said_s = now_s
            log.warning("account %s refuses the host's credential (%d): is it the right one?", self.account, status)

    def _give_up(self, given_up: GivenUp, course: _Course) -> GivenUp:
        self.counters.gave_up += 1
        self.counters.outcome_unknown += bool(course.write and course.perhaps_executed)
        return given_up


async def _end(tasks: set[asyncio.Task[Answer]]) -> None:
    """Cancel what runs, and let go of an answer that comes all the same."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and task.exception() is None:
            task.result().drop()


_REFUSED = frozenset({"AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation"})
