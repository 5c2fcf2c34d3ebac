"""What a REST request amounts to: operation class and targets for policy, permission letters for SAS tokens.

`asked(request, body)` gives every `Access` a request asks for: its own, the source of a copy, and each request inside a
batch. The table holds the operations of Azure's Blob service, not only those implemented here; what is not in it is
"unknown". Nothing here judges.
Source: Azure REST, "Operations on blobs", "Create a service SAS", "Create an account SAS".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote_plus

from pvblob.access import Access, Operation
from pvblob.blobs import batch
from pvblob.blobs.answers import Refusal, invalid_target, refuse
from pvblob.blobs.auth.rejection import Rejection
from pvblob.blobs.copy_source import COPY_SOURCE
from pvblob.blobs.target import InvalidTarget, Target, parse_target, split_url
from pvblob.http import Body, BytesBody, Fields, Request, Response

Key = tuple[str, str, str | None, str | None]  # method, level, restype, comp
_JUDGED_PARAMETERS = ("restype", "comp", "prefix", "snapshot", "versionid")


class Kind(NamedTuple):
    """One operation. service, account: permission letters of which a service or account SAS must hold one.

    An empty string: no such SAS allows the operation.
    """

    operation: Operation
    service: str
    account: str


_READ = Kind("read", "r", "r")
_READ_CONTAINER = Kind("read", "", "r")
_WRITE = Kind("write", "w", "w")
_WRITE_CONTAINER = Kind("write", "", "w")
_CREATE = Kind("write", "cw", "cw")
_KEY_ONLY_READ = Kind("read", "", "")
_KEY_ONLY_WRITE = Kind("write", "", "")

KINDS: dict[Key, Kind] = {
    ("GET", "account", None, "list"): Kind("list", "", "l"),
    ("GET", "account", None, "blobs"): Kind("list", "", "f"),
    ("GET", "account", "service", "properties"): _READ_CONTAINER,
    ("PUT", "account", "service", "properties"): _WRITE_CONTAINER,
    ("GET", "account", "service", "stats"): _READ_CONTAINER,
    ("PUT", "container", "container", None): Kind("write", "", "cw"),
    ("DELETE", "container", "container", None): Kind("delete", "", "d"),
    ("PUT", "container", "container", "metadata"): _WRITE_CONTAINER,
    ("GET", "container", "container", "acl"): _KEY_ONLY_READ,
    ("HEAD", "container", "container", "acl"): _KEY_ONLY_READ,
    ("PUT", "container", "container", "acl"): _KEY_ONLY_WRITE,
    ("PUT", "container", "container", "lease"): Kind("write", "", "wd"),
    ("PUT", "container", "container", "undelete"): _WRITE_CONTAINER,
    ("GET", "container", "container", "list"): Kind("list", "l", "l"),
    ("GET", "container", "container", "blobs"): Kind("list", "f", "f"),
    ("GET", "blob", None, "blocklist"): _READ,
    ("GET", "blob", None, "pagelist"): _READ,
    ("GET", "blob", None, "tags"): Kind("read", "t", "t"),
    ("POST", "blob", None, "query"): _READ,
    ("PUT", "blob", None, None): _CREATE,
    ("PUT", "blob", None, "snapshot"): _CREATE,
    ("PUT", "blob", None, "incrementalcopy"): _CREATE,
    ("PUT", "blob", None, "appendblock"): Kind("write", "aw", "aw"),
    ("PUT", "blob", None, "lease"): Kind("write", "w", "wd"),
    ("PUT", "blob", None, "tags"): Kind("write", "t", "t"),
    ("PUT", "blob", None, "immutabilityPolicies"): Kind("write", "i", "i"),
    ("DELETE", "blob", None, "immutabilityPolicies"): Kind("write", "i", "i"),
    ("PUT", "blob", None, "legalhold"): Kind("write", "i", "i"),
    ("DELETE", "blob", None, None): Kind("delete", "d", "d"),
}
for _comp in ("block", "blocklist", "metadata", "properties", "tier", "page", "copy", "seal", "expiry", "undelete"):
    KINDS["PUT", "blob", None, _comp] = _WRITE
for _method in ("GET", "HEAD"):
    for _comp_or_none in (None, "metadata"):
        KINDS[_method, "blob", None, _comp_or_none] = _READ
        KINDS[_method, "container", "container", _comp_or_none] = _READ_CONTAINER
    for _level in ("account", "container", "blob"):
        KINDS[_method, _level, "account", "properties"] = _READ
# A batch asks for nothing of its own: the requests in it do.
BATCHES = frozenset({("POST", "account", None, "batch"), ("POST", "container", "container", "batch")})


class SubRequest(NamedTuple):
    """One request of a batch: as sent, and the target it names inside the batch's account; None if it names none."""

    request: Request
    target: Target | None


def key_of(method: str, target: Target) -> Key:
    """Return the table's key for a request."""
    level = "blob" if target.blob is not None else "account" if target.container is None else "container"
    return method, level, target.query.get("restype"), target.query.get("comp") or None


def access(method: str, target: Target) -> Access:
    """Return what a request asks of the target it names, other targets and batches aside."""
    kind = KINDS.get(key_of(method, target))
    account, container, blob, query = target.account, target.container, target.blob, target.query
    if kind is None:
        return Access("unknown", account, container, blob)
    if kind.operation != "list":
        return Access(kind.operation, account, container, blob)
    if container is None and query.get("comp") == "blobs":  # tells of blobs in any container, under any name
        return Access("list", account)
    # Finding blobs by their tags names no prefix: it is a listing of everything there.
    prefix = query.get("prefix", "") if query.get("comp") == "list" else ""
    return Access("list", account, container, None, prefix.encode("utf-8", "surrogateescape"))


def copy_source(request: Request) -> Request | None:
    """Return the reading of a copy's source as a request of its own, None when *request* copies nothing.

    Raises InvalidTarget when the source is no URL.
    """
    url = request.fields.get(COPY_SOURCE)
    if url is None:
        return None
    return Request("GET", *split_url(url), Fields())


async def asked(request: Request, body: Body) -> tuple[tuple[Access, ...], Body] | Response:
    """Return everything *request* asks for, and the body to execute it with; or the answer, if it cannot be executed.

    The body of a batch is read here, for the requests in it are judged before any of them is executed.
    """
    try:
        target = single_target(request)
        if key_of(request.method, target) in BATCHES:
            body, parts = await sub_requests(request, target, body)
            nothing = Access("unknown", target.account, target.container)
            return tuple(access(p.request.method, p.target) if p.target else nothing for p in parts), body
        own = access(request.method, target)
        source = copy_source(request)
        if source is None:
            return (own,), body
        return (own, access("GET", single_target(source))), body
    except Refusal as refusal:
        return refuse(request, refusal)
    except InvalidTarget as error:
        return invalid_target(request, error)


def single_target(request: Request) -> Target:
    """Parse the request's target; one that could be read in two ways names nothing. Raises InvalidTarget."""
    target = parse_target(request.authority, request.target)
    if target.query:
        _refuse_doubles(request.target)
    return target


def _refuse_doubles(target: str) -> None:
    """Of a parameter given twice one service takes the first and another the last. Raises InvalidTarget."""
    names = [unquote_plus(part.partition("=")[0]).lower() for part in target.partition("?")[2].split("&")]
    for name in _JUDGED_PARAMETERS:
        if names.count(name) > 1:
            raise InvalidTarget("InvalidQueryParameterValue", f"The query parameter {name} is given twice.")


async def sub_requests(request: Request, target: Target, body: Body) -> tuple[Body, list[SubRequest]]:
    """Read a batch's body; return it as private bytes, and the requests in it. Raises Refusal."""
    parts, content = await batch.read_batch(request, body)
    return BytesBody(content), [SubRequest(part.request, _inner_target(target, part.request)) for part in parts]


def _inner_target(outer: Target, request: Request) -> Target | None:
    try:
        _refuse_doubles(request.target)
        return batch.sub_target(outer, request)
    except (InvalidTarget, Refusal):
        return None


def denied(request: Request, reasons: Iterable[str]) -> Response:
    """Answer a request that policy denies; why HTTP's 403 and not a device status: docs/decisions."""
    text = "This request is not authorized to perform this operation using this permission:"
    return Rejection(403, "AuthorizationPermissionMismatch", f"{text} {'; '.join(reasons)}.").response(request)
