"""The gate: who signed a request, and the execution of exactly what that credential allows.

The flow: `authenticate` looks at the head alone and gives a `Grant` or the `Rejection` to answer with; `execute` then
holds the request to the grant: every request in a batch, the source of a copy, no overwrite where a SAS only creates.
The HTTP front calls the two one after the other, guests over a channel in mode "verify" come by `verified`.
A body is read only where it is a batch that came with a SAS. Nothing here knows policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pvblob.blobs.access import BATCHES, copy_source, key_of, single_target, sub_requests
from pvblob.blobs.answers import Refusal, invalid_target, refuse
from pvblob.blobs.auth.rejection import Rejection
from pvblob.blobs.auth.sas import Origin, Token, read_token
from pvblob.blobs.auth.shared_key import NO_CREDENTIAL
from pvblob.blobs.auth.shared_key import authenticate as authenticate_shared_key
from pvblob.blobs.target import InvalidTarget, Target, account_in_host
from pvblob.frozen import replace
from pvblob.http import Backend, Body, Fields, Request, Response

CHANNEL = Origin(encrypted=True, address=None)
_OVERWRITE = Rejection(403, "UnauthorizedBlobOverwrite", "This request is not authorized to perform blob overwrites.")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a verified credential opens: *account*, all of it when token is None (its key was used)."""

    account: str
    token: Token | None = None


class CredentialGate:
    """Verifies credentials against the keys of accounts. keys: account → key (raw bytes).  clock: gives aware UTC."""

    def __init__(self, keys: Mapping[str, bytes], clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._keys = keys
        self._clock = clock

    def authenticate(self, request: Request, origin: Origin) -> Grant | Rejection:
        """Return what the credential in the request's head opens; what the request asks for is judged by `execute`.

        A SAS is held to the request's own operation at once, so that nothing more is done for one it does not allow.
        """
        if "authorization" in request.fields or "sig=" not in request.target.lower():
            verdict = authenticate_shared_key(request, _account(request), self._keys, self._clock())
            return verdict if isinstance(verdict, Rejection) else Grant(verdict)
        try:
            target = single_target(request)
        except InvalidTarget as error:
            return Rejection(400, error.code, str(error))
        return self._with_token(request, target, origin)

    def _with_token(self, request: Request, target: Target, origin: Origin) -> Grant | Rejection:
        if "sig" not in target.query:
            return NO_CREDENTIAL
        token = read_token(target, target.account, self._keys, self._clock(), origin)
        if isinstance(token, Rejection):
            return token
        # A batch needs a token that reaches the place it is sent to; what it holds is judged request by request.
        refusal = None if key_of(request.method, target) in BATCHES else token.refusal(request, target)
        return refusal or Grant(target.account, token)

    async def verified(self, backend: Backend, request: Request, body: Body, origin: Origin = CHANNEL) -> Response:
        """Authenticate the request and execute what its credential allows; every failure is a Response."""
        grant = self.authenticate(request, origin)
        if isinstance(grant, Rejection):
            return grant.response(request)
        return await self.execute(backend, request, body, grant, origin)

    async def execute(self, backend: Backend, request: Request, body: Body, grant: Grant, origin: Origin) -> Response:
        """Execute *request* on *backend* as far as *grant*, given for it, allows. Every failure is a Response."""
        try:
            rejection = self._judge_source(request, grant, origin)
            if rejection is None and grant.token is not None:
                target = single_target(request)
                if key_of(request.method, target) in BATCHES:
                    body, rejection = await self._judge_batch(request, target, body, origin)
                elif rejection is None:
                    return await _execute_on_terms(backend, request, body, target, grant.token)
        except Refusal as refusal:
            return refuse(request, refusal)
        except InvalidTarget as error:
            return invalid_target(request, error)
        return await backend.execute(request, body) if rejection is None else rejection.response(request)

    def _judge_source(self, request: Request, grant: Grant, origin: Origin) -> Rejection | None:
        """Say why the source of a copy may not be read: only the account's own key needs no word in its URL for it."""
        source = copy_source(request)
        if source is None:
            return None
        target = single_target(source)
        if grant.token is None and target.account == grant.account:
            return None
        verdict = self._with_token(source, target, origin)
        if not isinstance(verdict, Rejection):
            return None
        detail = f"The source needs a SAS of its own that allows to read it. {verdict.code}: {verdict.detail}"
        return Rejection(403, "CannotVerifyCopySource", "The copy source could not be verified.", detail=detail)

    async def _judge_batch(
        self, request: Request, target: Target, body: Body, origin: Origin
    ) -> tuple[Body, Rejection | None]:
        """Hold every request of a batch to the credential it carries itself; the first that fails fails the batch."""
        body, parts = await sub_requests(request, target, body)
        for part in parts:
            if part.target is None:
                return body, Rejection(400, "InvalidInput", f"{part.request.target[:80]!r} does not belong here.")
            if "authorization" in part.request.fields:
                verdict: Grant | str | Rejection = authenticate_shared_key(
                    part.request, part.target.account, self._keys, self._clock()
                )
            else:
                verdict = self._with_token(part.request, part.target, origin)
            if isinstance(verdict, Rejection):
                return body, verdict
        return body, None


async def _execute_on_terms(backend: Backend, request: Request, body: Body, target: Target, token: Token) -> Response:
    """Execute a request that *token* allows: without overwriting, if it only creates; with the fields it sets."""
    only_creates = token.only_creates(request, target)
    conditional = request.fields.get("if-none-match") == "*"
    if only_creates and not conditional:
        fields = Fields(request.fields)
        fields.set("if-none-match", "*")
        request = replace(request, fields=fields)
    response = await backend.execute(request, body)
    if only_creates and not conditional and response.status in (409, 412):
        code = response.fields.get("x-ms-error-code")
        if code in ("BlobAlreadyExists", "ConditionNotMet", "TargetConditionNotMet"):
            return _OVERWRITE.response(request)
    if token.overrides and target.blob is not None and request.method in ("GET", "HEAD") and response.status < 300:
        for name, value in token.overrides:
            response.fields.set(name, value)
    return response


def _account(request: Request) -> str:
    """Return the account the target names, as `blobs.target` will read it: a key must not open another account."""
    path = request.target.partition("?")[0]
    return account_in_host(request.authority) or path[1:].partition("/")[0]
