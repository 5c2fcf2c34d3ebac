"""The guard before the backend: what one guest asks is judged by policy, and then executed.

Every guest has a `GuardedBackend` of its own, which is a `Backend` like the one behind it: the dispatcher and the HTTP
front execute requests on it and need to know nothing of policy. A denied request is answered with HTTP 403 and never
reaches the backend, nor is its body read (a batch's is: the requests in it are judged one by one).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from pvblob.access import Access, Operation
from pvblob.http import Backend, Body, Request, Response
from pvblob.vsp.audit import Audit
from pvblob.vsp.policy import Entry, Guest, Policy, decide


class Rest(Protocol):
    """What the guard must be told of the REST API; `blobs.access` is one."""

    async def asked(self, request: Request, body: Body) -> tuple[tuple[Access, ...], Body] | Response:
        """Return everything a request asks for and the body to go on with; or its answer, if that is clear already."""
        ...

    def denied(self, request: Request, reasons: Iterable[str]) -> Response:
        """Return the answer to a request that is denied."""
        ...


class CredentialCheck(Protocol):
    """Executes on a backend what the credential inside a request allows (mode "verify"); `blobs.auth` has one."""

    async def verified(self, backend: Backend, request: Request, body: Body) -> Response:
        """Verify the request's credential, then execute it; or answer as Azure answers a bad one."""
        ...


class Observer(Protocol):
    """Who measures; see `vsp.metrics`."""

    def executed(self, via: str, operation: Operation, status: int, seconds: float, received: int, sent: int) -> None:
        """Take note of one answered request: bytes of its body, bytes of its answer's content."""
        ...


class Guard:
    """What the guards of all guests share: the backend, the policy in force, and who is told.

    rest: None judges who may connect, and not what is asked.  credentials: None refuses every request of a guest in
    mode "verify".
    """

    def __init__(
        self,
        backend: Backend,
        rest: Rest | None,
        policy: Policy,
        audit: Audit,
        *,
        credentials: CredentialCheck | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.backend = backend
        self.rest = rest
        self.policy = policy
        self.audit = audit
        self.credentials = credentials
        self.observer = observer
        self._front: GuardedBackend | None = None

    def admit(self, guest: Guest) -> GuardedBackend | None:
        """Return the backend through which *guest* is served; None: no entry of the policy names it."""
        entry = self.policy.entry_for(guest)
        if entry is None:
            return None
        admitted = GuardedBackend(self, guest, entry)
        if guest.front:
            self._front = admitted
        return admitted

    def enforce(self, policy: Policy) -> None:
        """Judge by *policy* from now on. The front takes it at once, a channel's guest with its `reconsider`."""
        self.policy = policy
        if self._front is not None:
            self._front.reconsider()


class GuardedBackend:
    """The backend as one guest sees it. entry: the policy's word on this guest; a reload replaces it."""

    def __init__(self, guard: Guard, guest: Guest, entry: Entry) -> None:
        self._guard = guard
        self._via = "front" if guest.front else "channel"
        self.guest = guest
        self.entry: Entry | None = entry

    @property
    def scope(self) -> int | None:
        """The number under which the data plane may keep answers for this guest; see `Policy.scope`."""
        return None if self.entry is None else self._guard.policy.scope(self.entry)

    def reconsider(self) -> bool:
        """Take the policy now in force; False when it does not name this guest any more: everything is denied then."""
        self.entry = self._guard.policy.entry_for(self.guest)
        return self.entry is not None

    async def execute(self, request: Request, body: Body) -> Response:
        """Judge the request and execute it. Every failure is a Response; only cancellation is raised."""
        rest, observer = self._guard.rest, self._guard.observer
        if rest is None:
            return await self._guard.backend.execute(request, body)
        began_s = time.perf_counter()
        received = body.size_bytes
        operation: Operation = "unknown"
        asked = await rest.asked(request, body)
        if isinstance(asked, Response):
            response = asked
        else:
            accesses, body = asked
            if accesses:
                operation = accesses[0].operation
            response = self._denial(rest, request, accesses) or await self._permitted(rest, request, body)
        if observer is not None:
            seconds = time.perf_counter() - began_s
            observer.executed(self._via, operation, response.status, seconds, received, _size(response))
        return response

    def _denial(self, rest: Rest, request: Request, accesses: tuple[Access, ...]) -> Response | None:
        if self.entry is None:
            return self._deny(rest, request, next(iter(accesses), None), "no entry of the policy names this guest")
        for access in accesses:
            decision = decide(self.entry, access)
            if not decision.allowed:
                return self._deny(rest, request, access, decision.reason)
        return None

    def _deny(self, rest: Rest, request: Request, access: Access | None, reason: str) -> Response:
        self._guard.audit.deny(self.guest, self.entry.name if self.entry else "-", access, reason)
        return rest.denied(request, [reason if access is None else f"{access}: {reason}"])

    async def _permitted(self, rest: Rest, request: Request, body: Body) -> Response:
        guard = self._guard
        if self.entry is None or self.entry.mode == "channel" or self.guest.front:
            return await guard.backend.execute(request, body)  # the front has verified the credential itself
        if guard.credentials is None:
            return self._deny(rest, request, None, "this host holds no keys to verify credentials with")
        response = await guard.credentials.verified(guard.backend, request, body)
        if response.status in (401, 403):
            code = response.fields.get("x-ms-error-code") or "refused"
            guard.audit.deny(self.guest, self.entry.name, None, f"its credential was not accepted: {code}")
        return response


def _size(response: Response) -> int:
    content = response.content
    return len(content) if isinstance(content, bytes) else content.size_bytes
