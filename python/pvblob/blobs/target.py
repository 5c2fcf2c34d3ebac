"""Which account, container, blob and query a request names: parsed once, percent-decoded once, names validated.

Host style: `ACCOUNT.blob.…`: the first label is the account. Path style (loopback names, IP addresses, any authority
without a `blob` label): the first path segment is the account. A single path segment is a container when the query
says `restype=container`, else a blob of `$root`. Nothing here knows the catalog.
Source: Azure REST, "Naming and referencing containers, blobs, and metadata".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_plus, unquote_to_bytes, urlsplit

from pvblob.errors import PvblobError

BLOB_NAME_CHARS_MAX = 1024
ROOT_CONTAINER = "$root"

_CONTAINER = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*\Z|\$(?:root|web|logs)\Z")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}\Z")


class InvalidTarget(PvblobError, ValueError):
    """The URI names nothing: *code* is the error code to answer with."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True, frozen=True)
class Target:
    """What a URI names. blob: the decoded name as UTF-8; container None means the account itself.

    query: decoded once, keys in lower case, the first value of each.
    """

    account: str
    container: str | None
    blob: bytes | None
    query: dict[str, str]


_NO_QUERY: dict[str, str] = {}


def parse_target(authority: str, target: str) -> Target:
    """Parse a request's authority and raw target. Raises InvalidTarget."""
    path, mark, query_text = target.partition("?")
    query = parse_query(query_text) if mark else _NO_QUERY
    account, first, second = _parse_path(authority, path)
    if first is None:
        return Target(account, None, None, query)
    if second is not None:
        return Target(account, _container_name(first), _blob_name(second), query)
    if query.get("restype") == "container":
        return Target(account, _container_name(first), None, query)
    return Target(account, ROOT_CONTAINER, _blob_name(first), query)


def split_url(text: str) -> tuple[str, str, str]:
    """Split an absolute URL into scheme, authority and raw target. Raises InvalidTarget."""
    try:
        url = urlsplit(text)
    except ValueError as error:
        raise InvalidTarget("InvalidUri", f"{text[:80]!r} is no URL: {error}.") from None
    if not url.scheme or not url.netloc:
        raise InvalidTarget("InvalidUri", f"{text[:80]!r} is no absolute URL.")
    return url.scheme, url.netloc, (url.path or "/") + (f"?{url.query}" if url.query else "")


def account_in_host(authority: str) -> str | None:
    """Return the account a host-style authority names, or None when the account is in the path."""
    host = authority.rpartition("@")[2]
    if host.startswith("["):
        return None
    labels = host.partition(":")[0].lower().split(".")
    return labels[0] if "blob" in labels[1:] else None


@lru_cache(maxsize=4096)
def _parse_path(authority: str, path: str) -> tuple[str, bytes | None, bytes | None]:
    """Split a path into account, first and second part, still percent-encoded. Cached: hot targets repeat."""
    if not path.startswith("/"):
        raise InvalidTarget("InvalidUri", "The path must begin with a slash.")
    rest = path[1:]
    account = account_in_host(authority)
    if account is None:
        account, _, rest = rest.partition("/")
    if _ACCOUNT.match(account) is None:
        raise InvalidTarget("InvalidUri", f"{account[:64]!r} is not an account name (3 to 24 of a-z, 0-9).")
    container, slash, blob = rest.partition("/")
    if not container:
        if slash:
            raise InvalidTarget("InvalidUri", "The container name is empty.")
        return account, None, None
    return account, container.encode("latin-1", "replace"), blob.encode("latin-1", "replace") if blob else None


@lru_cache(maxsize=1024)
def _container_name(raw: bytes) -> str:
    name = unquote_to_bytes(raw).decode("latin-1")
    if _CONTAINER.match(name) is None:
        raise InvalidTarget("InvalidResourceName", f"{name[:80]!r} is not a container name.")
    return name


@lru_cache(maxsize=4096)
def _blob_name(raw: bytes) -> bytes:
    name = unquote_to_bytes(raw)
    try:
        characters = len(name.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidTarget("InvalidUri", "The blob name is not UTF-8 once percent-decoded.") from None
    if characters > BLOB_NAME_CHARS_MAX:
        raise InvalidTarget("InvalidUri", f"The blob name has {characters} characters; {BLOB_NAME_CHARS_MAX} may be.")
    return name


def parse_query(text: str) -> dict[str, str]:
    """Decode a query string: `+` is a space, keys are lowered, the first value of a key counts."""
    query: dict[str, str] = {}
    for part in text.split("&"):
        key, _, value = part.partition("=")
        if key:
            if "%" in value or "+" in value:
                value = unquote_plus(value)
            query.setdefault(unquote_plus(key).lower(), value)
    return query
