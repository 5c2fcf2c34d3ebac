"""Shared Key and Shared Key Lite: is this request signed with the key of the account it names?

The flow: authentication comes before the body, so only the request's head is judged: scheme and account of the
`Authorization` field, then the date (a recorded request must not work for ever), then the signature.
Invariant: the account returned is the one the request's target names; a key never opens another account.
It must not know where keys are kept, what operation is asked for, or what time it is.
Source: Azure REST, "Authorize with Shared Key".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from pvblob.blobs.auth.rejection import Rejection
from pvblob.blobs.auth.rejection import authentication_failed as _failed
from pvblob.http import Fields, Request

DEVELOPMENT_ACCOUNT = "devstoreaccount1"
# Published by Microsoft for local development; it protects nothing and opens only the account above (design rule 8).
DEVELOPMENT_ACCOUNT_KEY = base64.b64decode(
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

CLOCK_SKEW_S = 15 * 60

_CHALLENGE = "SharedKey"
_SIGNED_FIELDS = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
_SIGNED_FIELDS_LITE = ("content-md5", "content-type", "date")
# Since this version a zero Content-Length is signed as the empty string.
_ZERO_LENGTH_IS_EMPTY_SINCE = "2015-02-21"
# How the service sorts names: by these characters in this order, hyphens and apostrophes only breaking ties.
_COLLATION = {character: rank for rank, character in enumerate("!#$%&*.^_`|~+0123456789abcdefghijklmnopqrstuvwxyz")}
_TIE_BREAKERS = {"'": 1, "-": 2}

NO_CREDENTIAL = Rejection(
    401,
    "NoAuthenticationInformation",
    "Server failed to authenticate the request. Please refer to the information in the www-authenticate header.",
    challenge=_CHALLENGE,
)
_MALFORMED = Rejection(
    400,
    "InvalidAuthenticationInfo",
    "Authentication information is not given in the correct format. Check the value of Authorization header.",
)


class _Authorization(NamedTuple):
    scheme: str
    account: str
    signature: str


def authenticate(request: Request, account: str, accounts: Mapping[str, bytes], now: datetime) -> str | Rejection:
    """Return *account* when *request* is signed with its key, else the rejection to send.

    account: the account the request's target names.  accounts: name → key (raw bytes).  now: aware, UTC.
    """
    field = request.fields.get("authorization")
    if field is None:
        return NO_CREDENTIAL
    authorization = _parse(field)
    if isinstance(authorization, Rejection):
        return authorization
    if authorization.account != account:
        return _failed(f"The request is signed for account '{authorization.account}' but asks for '{account}'.")
    key = accounts.get(account)
    if key is None:
        return _failed(f"Account '{account}' is not served here.")
    return _check_date(request.fields, now) or _check_signature(request, authorization, key) or account


def string_to_sign(request: Request, account: str, *, lite: bool = False) -> str:
    """Return the text whose HMAC-SHA256 is the signature, headers in the service's order.

    Source: "Constructing the signature string"; for *lite*, "Shared Key Lite format for 2009-09-19 and later".
    """
    return _string_to_sign(request, account, lite, _in_service_order(_x_ms_fields(request.fields)))


def _parse(field: str) -> _Authorization | Rejection:
    scheme, space, credential = field.partition(" ")
    if scheme.lower() not in ("sharedkey", "sharedkeylite"):
        return _failed(f"Authorization scheme '{scheme}' is not accepted by this host: use SharedKey, or a SAS.")
    account, colon, signature = credential.strip().partition(":")
    if not (space and colon and account and signature):
        return _MALFORMED
    return _Authorization(scheme.lower(), account, signature)


def _check_date(fields: Fields, now: datetime) -> Rejection | None:
    text = fields.get("x-ms-date") or fields.get("date")
    if text is None:
        return _failed("Neither x-ms-date nor Date is given; one of them must say when the request was signed.")
    moment = _moment(text)
    if moment is None:
        return _failed(f"Request date '{text}' is not an RFC 1123 date such as 'Fri, 26 Jun 2015 23:39:12 GMT'.")
    age_s = (now - moment).total_seconds()
    if abs(age_s) > CLOCK_SKEW_S:
        complaint = "Request date header too old" if age_s > 0 else "Request date header lies in the future"
        return _failed(f"{complaint}: '{text}'. Set the clock: at most {CLOCK_SKEW_S // 60} minutes may lie between.")
    return None


def _check_signature(request: Request, authorization: _Authorization, key: bytes) -> Rejection | None:
    lite = authorization.scheme == "sharedkeylite"
    named = _x_ms_fields(request.fields)
    in_service_order = _in_service_order(named)
    # The page says "lexicographically" and some signers do that byte by byte; the service's own order differs from it
    # only for names with punctuation. Both prove knowledge of the key over the same fields.
    in_byte_order = sorted(named)
    orders = [in_service_order] if in_service_order == in_byte_order else [in_service_order, in_byte_order]
    texts = [_string_to_sign(request, authorization.account, lite, order) for order in orders]
    given = authorization.signature.encode("latin-1", "replace")
    if any(hmac.compare_digest(_sign(key, text), given) for text in texts):
        return None
    return _failed(
        f"The MAC signature found in the HTTP request '{authorization.signature}' is not the same as any computed "
        f"signature. Server used following string to sign: '{texts[0]}'."
    )


def _sign(key: bytes, text: str) -> bytes:
    return base64.b64encode(hmac.digest(key, text.encode("utf-8"), hashlib.sha256))


def _string_to_sign(request: Request, account: str, lite: bool, x_ms_fields: list[tuple[str, str]]) -> str:
    names = _SIGNED_FIELDS_LITE if lite else _SIGNED_FIELDS
    lines = [request.method, *(_as_text(_signed_value(request.fields, name)) for name in names)]
    lines += [f"{name}:{_as_text(value)}" for name, value in x_ms_fields]
    lines.append((_resource_lite if lite else _resource)(account, request.target))
    return "\n".join(lines)


def _signed_value(fields: Fields, name: str) -> str:
    value = fields.get(name) or ""
    if name == "date" and "x-ms-date" in fields:
        return ""
    if name == "content-length" and value == "0":
        version = fields.get("x-ms-version") or _ZERO_LENGTH_IS_EMPTY_SINCE
        return "" if version >= _ZERO_LENGTH_IS_EMPTY_SINCE else value
    return value


def _x_ms_fields(fields: Fields) -> list[tuple[str, str]]:
    """Return the x-ms- fields, each name once: values of a repeated name are joined by commas, as signers do."""
    joined: dict[str, str] = {}
    for name, value in fields:
        if name.startswith("x-ms-"):
            joined[name] = f"{joined[name]},{value.strip()}" if name in joined else value.strip()
    return list(joined.items())


def _in_service_order(x_ms_fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(x_ms_fields, key=lambda field: service_rank(field[0]))


@lru_cache(maxsize=1024)
def service_rank(name: str) -> tuple[list[int], list[int]]:
    """Return what the service sorts the name of an x-ms- field by."""
    ranks = [_COLLATION.get(character, 128 + ord(character)) for character in name if character not in _TIE_BREAKERS]
    return ranks, [_TIE_BREAKERS.get(character, 0) for character in name]


def _resource(account: str, target: str) -> str:
    path = target.partition("?")[0] or "/"
    lines = [f"/{account}{_as_text(path)}"]
    lines += [f"{name}:{','.join(sorted(values))}" for name, values in sorted(_query(target).items())]
    return "\n".join(lines)


def _resource_lite(account: str, target: str) -> str:
    path = target.partition("?")[0] or "/"
    component = _query(target).get("comp")
    return f"/{account}{_as_text(path)}" + (f"?comp={component[0]}" if component else "")


def _query(target: str) -> dict[str, list[str]]:
    """Return the query's decoded values by lower-case name; "+" means a space, as the service decodes it."""
    parameters: dict[str, list[str]] = {}
    for item in target.partition("?")[2].split("&"):
        if item:
            name, _, value = item.partition("=")
            parameters.setdefault(_decoded(name).lower(), []).append(_decoded(value))
    return parameters


def _decoded(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ").encode("latin-1")).decode("utf-8", "replace")


def _as_text(octets: str) -> str:
    """Read text in which each character is one byte as the signer's text: UTF-8, or ISO 8859-1 where it is not that.

    Signers hash UTF-8; some HTTP libraries then send the same text as ISO 8859-1.
    """
    if octets.isascii():
        return octets
    try:
        return octets.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return octets


@lru_cache(maxsize=64)
def _moment(text: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(text)
    except ValueError:
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed
