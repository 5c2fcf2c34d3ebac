"""Where an account's endpoint is, and how a guest's request is addressed to it.

A guest writes an account's name into the host (`ACCOUNT.blob.…`) or into the path; an endpoint may want the other
style. What comes after the account is passed on byte by byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from pvblob.blobs.target import InvalidTarget, account_in_host, split_url
from pvblob.errors import SettingsError
from pvblob.http import Request

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class EndpointUrl:
    """A parsed endpoint.

    scheme: "http" or "https".  host, port: to connect to.  authority: value of Host.  prefix: path before the
    container, without a slash at its end: "" in host style, "/ACCOUNT" in path style.
    """

    scheme: str
    host: str
    port: int
    authority: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> EndpointUrl:
        """Parse a URL such as `https://contoso.blob.core.windows.net`. Raises SettingsError."""
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError as error:
            raise SettingsError(f"endpoint {text!r}: {error}") from None
        if url.scheme not in _DEFAULT_PORTS or not url.hostname:
            raise SettingsError(f"endpoint {text!r} must be a URL such as https://contoso.blob.core.windows.net")
        if url.query or url.fragment or url.username is not None:
            raise SettingsError(f"endpoint {url.hostname}: a query, fragment or user is not wanted; a SAS has settings")
        authority = url.netloc.rpartition("@")[2]
        return cls(url.scheme, url.hostname, port or _DEFAULT_PORTS[url.scheme], authority, url.path.rstrip("/"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.prefix}"


def account_of(authority: str, target: str) -> str:
    """Return the account a request names, "" when it names none."""
    return account_in_host(authority) or target.partition("?")[0][1:].partition("/")[0]


def target_at(endpoint: EndpointUrl, authority: str, target: str) -> str:
    """Return the raw target at *endpoint* of what a guest calls *target* at *authority*."""
    if account_in_host(authority) is None:
        path, mark, query = target.partition("?")
        target = path[1:].partition("/")[2]
        target = f"/{target}{mark}{query}"
    return endpoint.prefix + target


def url_at(endpoint: EndpointUrl, account: str, url: str) -> str:
    """Return *url* as it is called at *endpoint* if it names something of *account*, else *url* itself."""
    try:
        _, authority, target = split_url(url)
    except InvalidTarget:
        return url
    if account_of(authority, target) != account:
        return url
    return f"{endpoint.scheme}://{endpoint.authority}{target_at(endpoint, authority, target)}"


def url_for(request: Request, endpoint: EndpointUrl, account: str, url: str) -> str:
    """Return *url* as the guest that sent *request* writes it if it lies at *endpoint*, else *url* itself."""
    base = str(endpoint)
    if not url.startswith(f"{base}/"):
        return url
    prefix = "" if account_in_host(request.authority) else f"/{account}"
    return f"{request.scheme}://{request.authority}{prefix}{url[len(base) :]}"
