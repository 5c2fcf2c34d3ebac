"""How requests to an account are authorized: the host's credential takes the place of whatever the guest sent.

`authorize` is called for every attempt, last of all, for a signature covers the date and the fields. It must be quick:
what takes time (a token) is had before.
Source: Azure REST, "Authorize requests to Azure Storage".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Protocol
from urllib.parse import parse_qsl

from pvblob.blobs.auth import string_to_sign
from pvblob.errors import SettingsError
from pvblob.http import Request
from pvblob.upstream.secrets import Secret

# What a guest's own shared access signature consists of; all of it goes when the host's credential takes its place.
_SAS_PARAMETERS = frozenset(
    """
    sv ss srt sp st se spr sig sip sr si skoid sktid skt ske sks skv skdutid saoid suoid scid sdd ses sduoid
    rscc rscd rsce rscl rsct
    """.split()  # noqa: SIM905 - thirty short words
)


class Credential(Protocol):
    """What authorizes requests. guests_own: what the guest sent is passed on as it is."""

    guests_own: bool

    async def prepare(self) -> None:
        """Have ready what `authorize` needs. Raises SettingsError or ConnectionError when it cannot be had."""
        ...

    def authorize(self, request: Request) -> None:
        """Put the credential into *request*, which is otherwise complete. Raises SettingsError."""
        ...

    def refused(self) -> bool:
        """The service did not accept the credential; tell whether another attempt may have a better one."""
        ...


class SharedKey:
    """An account key: each request is signed."""

    guests_own = False

    def __init__(self, account: str, key: Secret) -> None:
        self._account = account
        self._key = key
        self._used = b""

    async def prepare(self) -> None:
        """Check that there is a key."""
        self._used = self._decoded()

    def authorize(self, request: Request) -> None:
        """Date and sign *request*."""
        key = self._used = self._decoded()
        request.fields.discard("date")
        request.fields.set("x-ms-date", format_datetime(datetime.now(UTC), usegmt=True))
        text = string_to_sign(request, self._account).encode("utf-8")
        signature = base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode()
        request.fields.set("authorization", f"SharedKey {self._account}:{signature}")

    def refused(self) -> bool:
        """Look for another key; there is one if somebody has replaced it."""
        self._key.look_again()
        return self._decoded() != self._used

    def _decoded(self) -> bytes:
        try:
            return base64.b64decode(self._key.reveal(), validate=True)
        except binascii.Error:
            raise SettingsError(f"the account key in {self._key} is not base64") from None


class SharedAccessSignature:
    """A SAS token: appended to each request's query."""

    guests_own = False

    def __init__(self, token: Secret) -> None:
        self._token = token
        self._used = ""

    async def prepare(self) -> None:
        """Check that there is a token."""
        if "sig" not in dict(parse_qsl(self._text())):
            raise SettingsError(f"{self._token!r} holds no shared access signature (a query string with 'sig')")

    def authorize(self, request: Request) -> None:
        """Append the token."""
        self._used = self._text()
        mark = "&" if "?" in request.target else "?"
        request.target = f"{request.target}{mark}{self._used}"

    def refused(self) -> bool:
        """Look for another token."""
        self._token.look_again()
        return self._text() != self._used

    def _text(self) -> str:
        return self._token.reveal().lstrip("?")


class Anonymous:
    """No credential: containers that are public."""

    guests_own = False

    async def prepare(self) -> None:
        """Nothing is needed."""

    def authorize(self, request: Request) -> None:
        """Leave *request* as it is."""

    def refused(self) -> bool:
        """There is no other."""
        return False


class PassThrough(Anonymous):
    """The guest's own credential, passed on. A signature covers the path: the guest must call the endpoint as it is."""

    guests_own = True


def strip_guests_credential(request: Request) -> None:
    """Take what the guest sent to authorize *request* out of it."""
    for name in ("authorization", "date", "x-ms-date"):
        request.fields.discard(name)
    path, mark, query = request.target.partition("?")
    if mark and "sig=" in query:
        kept = [item for item in query.split("&") if item.partition("=")[0].lower() not in _SAS_PARAMETERS]
        request.target = path + ("?" + "&".join(kept) if kept else "")
