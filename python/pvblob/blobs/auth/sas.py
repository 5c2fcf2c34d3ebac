"""Shared access signatures: is this token signed with the account's key, is it valid now, and what does it allow?

The flow: `read_token(target, …)` checks signature, time, protocol and address and gives a `Token`; `Token.refusal`
says whether it allows one operation. Service SAS (a container, a directory, a blob, a snapshot, a version) and account
SAS of versions 2015-04-05 and later. What cannot be verified here is refused with its reason: user delegation SAS
(signed with a key that only Azure hands out) and stored access policies (this service keeps none).
Source: Azure REST, "Create a service SAS", "Create an account SAS".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from pvblob.blobs.access import KINDS, key_of
from pvblob.blobs.auth.rejection import Rejection
from pvblob.blobs.auth.rejection import authentication_failed as _failed
from pvblob.blobs.target import Target
from pvblob.http import Request

_VERSION_MIN = "2015-04-05"
_VERSION = re.compile(r"\d{4}-\d\d-\d\d\Z")
_WITH_RESOURCE_SINCE = "2018-11-09"  # signed resource and snapshot time joined the text to sign
_WITH_ENCRYPTION_SCOPE_SINCE = "2020-12-06"
_OVERRIDES = {
    "rscc": "cache-control",
    "rscd": "content-disposition",
    "rsce": "content-encoding",
    "rscl": "content-language",
    "rsct": "content-type",
}
_RESOURCE_TYPES = {"account": "s", "container": "c", "blob": "o"}
_PUT_BLOB = ("PUT", "blob", None, None)


class Origin(NamedTuple):
    """Where a request came from. encrypted: nobody could listen.  address: of the client, None over a channel."""

    encrypted: bool
    address: str | None


@dataclass(frozen=True, slots=True)
class Token:
    """A verified token. resource: `sr` of a service SAS, None for an account SAS.

    overrides: response fields it sets on what is read with it.
    """

    permissions: frozenset[str]
    resource: str | None
    resource_types: frozenset[str]
    overrides: tuple[tuple[str, str], ...]

    def refusal(self, request: Request, target: Target) -> Rejection | None:
        """Return why the token does not allow *request*, None when it does. *target* lies in the token's resource."""
        key = key_of(request.method, target)
        kind = KINDS.get(key)
        if self.resource is None and _RESOURCE_TYPES[key[1]] not in self.resource_types:
            return _mismatch("ResourceType", "resource type")
        letters = "" if kind is None else kind.account if self.resource is None else kind.service
        if not letters:
            text = "This request is not authorized to perform this operation."
            return Rejection(403, "AuthorizationFailure", text, detail="No SAS of this kind allows it.")
        if self.permissions.isdisjoint(letters):
            return _mismatch("Permission", "permission", f"It needs one of '{letters}'.")
        if any(name in request.fields for name in ("x-ms-tags", "x-ms-if-tags")) and "t" not in self.permissions:
            return _mismatch("Permission", "permission", "Tags need 't'.")
        return None

    def only_creates(self, request: Request, target: Target) -> bool:
        """Whether *request*, which it allows, must not overwrite a blob."""
        return key_of(request.method, target) == _PUT_BLOB and "w" not in self.permissions


def read_token(
    target: Target, account: str, keys: Mapping[str, bytes], now: datetime, origin: Origin
) -> Token | Rejection:
    """Verify the token in *target*'s query; its permissions are not judged yet. keys: account → key (raw bytes)."""
    query = target.query
    key = keys.get(account)
    if key is None:
        return _failed(f"Account '{account}' is not served here.")
    text = _string_to_sign(target, account)
    if isinstance(text, Rejection):
        return text
    expected = base64.b64encode(hmac.digest(key, text.encode("utf-8", "surrogateescape"), hashlib.sha256))
    given = query["sig"].replace(" ", "+").encode("utf-8", "replace")
    if not hmac.compare_digest(expected, given):
        return _failed(f"Signature did not match. String to sign used was {text}")
    return _check_validity(query, now) or _check_origin(query, origin) or _token(query)


def _string_to_sign(target: Target, account: str) -> str | Rejection:
    query = target.query
    version = query.get("sv", "")
    if _VERSION.match(version) is None or version < _VERSION_MIN:
        return _failed(f"sv is '{version}'; this host verifies versions from {_VERSION_MIN} on.")
    if "skoid" in query:
        return _failed(
            "A user delegation SAS cannot be verified by this host: use a SAS signed with the account's key."
        )
    if "si" in query:
        return _failed("Stored access policies (si) are not kept by this host: put permission and expiry into the SAS.")
    if "ss" in query or "srt" in query:
        names = ["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"]
        if version >= _WITH_ENCRYPTION_SCOPE_SINCE:
            names.append("ses")
        return "\n".join([account, *(query.get(name, "") for name in names), ""])
    resource = _canonical_resource(target, account)
    if isinstance(resource, Rejection):
        return resource
    return "\n".join(_service_lines(query, version, resource))


def _service_lines(query: dict[str, str], version: str, resource: str) -> list[str]:
    def value(name: str) -> str:
        return query.get(name, "")

    lines = [value("sp"), value("st"), value("se"), resource, value("si"), value("sip"), value("spr"), version]
    if version >= _WITH_RESOURCE_SINCE:
        moment = {"bs": "snapshot", "bv": "versionid"}.get(value("sr"))
        lines += [value("sr"), value(moment) if moment else ""]
    if version >= _WITH_ENCRYPTION_SCOPE_SINCE:
        lines.append(value("ses"))
    return lines + [value(name) for name in _OVERRIDES]


def _canonical_resource(target: Target, account: str) -> str | Rejection:
    """Return the resource the token must have been signed for, if it is to open *target*."""
    kind = target.query.get("sr", "")
    if target.container is None:
        return _failed("A service SAS does not reach the account itself.")
    container = f"/blob/{account}/{target.container}"
    if kind == "c":
        return container
    if target.blob is None:
        return _failed(f"A SAS for sr='{kind}' does not reach its container.")
    name = target.blob.decode("utf-8", "replace")
    if kind == "d":
        depth = target.query.get("sdd", "")
        segments = name.split("/")
        if not (depth.isascii() and depth.isdigit() and len(depth) < 4) or not int(depth) < len(segments):
            return _failed(f"sdd='{depth}' is not the depth of a directory above this blob.")
        return "/".join([container, *segments[: int(depth)]]) if int(depth) else container
    if kind not in ("b", "bs", "bv"):
        return _failed(f"sr is '{kind}'; this host verifies b, bs, bv, c and d, and account SAS (ss, srt).")
    versioned = target.query.get("snapshot") or target.query.get("versionid")
    if kind == "b" and versioned:
        return _failed("A SAS for a blob (sr=b) opens neither its snapshots nor its versions.")
    return f"{container}/{name}"


def _check_validity(query: dict[str, str], now: datetime) -> Rejection | None:
    start, expiry = _moment(query.get("st")), _moment(query.get("se"))
    if expiry is None:
        return _failed("se (the expiry) is missing or is no ISO 8601 time such as 2026-01-31T12:00:00Z.")
    if query.get("st") and start is None:
        return _failed("st (the start) is no ISO 8601 time such as 2026-01-31T12:00:00Z.")
    if now > expiry or (start is not None and now < start):
        times = f"Start [{query.get('st', '')}] - Expiry [{query['se']}] - Current [{now:%Y-%m-%dT%H:%M:%SZ}]"
        return _failed(f"Signature not valid in the specified time frame: {times}")
    return None


def _check_origin(query: dict[str, str], origin: Origin) -> Rejection | None:
    if query.get("spr", "https,http") == "https" and not origin.encrypted:
        return _mismatch("Protocol", "protocol", "The SAS wants HTTPS, and this front speaks plain HTTP.")
    addresses = query.get("sip")
    if addresses and not _is_within(origin.address, addresses):
        detail = f"The SAS is for {addresses}; the request came from {origin.address or 'a channel, without address'}."
        return _mismatch("SourceIP", "source IP", detail)
    return None


def _is_within(address: str | None, wanted: str) -> bool:
    first, _, last = wanted.partition("-")
    try:
        asked = int(ipaddress.IPv4Address(address or ""))
        return int(ipaddress.IPv4Address(first)) <= asked <= int(ipaddress.IPv4Address(last or first))
    except ValueError:
        return False


def _token(query: dict[str, str]) -> Token | Rejection:
    resource = None if "ss" in query or "srt" in query else query.get("sr")
    if resource is None and "b" not in query.get("ss", ""):
        return _mismatch("Service", "service", "ss does not contain b (blob).")
    overrides = tuple((field, query[name]) for name, field in _OVERRIDES.items() if query.get(name))
    if not all(value.isascii() and value.isprintable() for _, value in overrides):
        return _failed("The response fields of a SAS (rscc, rscd, rsce, rscl, rsct) must be printable ASCII.")
    return Token(frozenset(query.get("sp", "")), resource, frozenset(query.get("srt", "")), overrides)


def _moment(text: str | None) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed


def _mismatch(what: str, words: str, detail: str = "") -> Rejection:
    text = f"This request is not authorized to perform this operation using this {words}."
    return Rejection(403, f"Authorization{what}Mismatch", text, detail=detail)
