"""The HTTP proxy that connects to an endpoint in the host's place: named in the settings, or by the environment.

The proxy sees the endpoint's name and encrypted bytes: TLS is spoken with the endpoint through it. Its credential is
read anew as other secrets are, never shown, and sent to nobody but the proxy.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from pvblob import _native
from pvblob.errors import SettingsError
from pvblob.upstream.endpoint import EndpointUrl
from pvblob.upstream.secrets import Secret

NO_PROXY = "none"
_DEFAULT_PORT = 80


class Proxy:
    """A proxy at *host* and *port*, of one endpoint. credential: gives USER:PASSWORD as it is now, if there is one."""

    def __init__(self, host: str, port: int, credential: Callable[[], str] | None = None) -> None:
        self.host = host
        self.port = port
        self._credential = credential
        self._known: str | None = None

    def lead(self, connections: _native.UpstreamEndpoint) -> None:
        """Have the endpoint's *connections* go through here from now on, with today's credential.

        Raises SettingsError.
        """
        credential = self._credential() if self._credential is not None else ""
        if credential == self._known:
            return
        value = f"Basic {base64.b64encode(credential.encode()).decode()}" if credential else None
        connections.go_through(self.host, self.port, value)
        self._known = credential

    def __repr__(self) -> str:
        return f"Proxy({self.host!r}, {self.port})"


def proxy_to(url: EndpointUrl, named: str | None, secret: Secret | None = None) -> Proxy | None:
    """Return the proxy to *url*; None: there is none.

    named: its URL, "none", or None: the environment says (HTTPS_PROXY, NO_PROXY).  secret: holds USER:PASSWORD.
    Raises SettingsError.
    """
    if named is None:
        return _of_environment(url)
    if named == NO_PROXY:
        return None
    if url.scheme != "https":
        raise SettingsError(f"proxy: only endpoints of https are reached through one, {url} is not")
    host, port, credential = _parse(named, "proxy")
    if credential is not None:
        raise SettingsError("proxy: a user or password is not wanted there; proxy_credential_file names a file for it")
    return Proxy(host, port, secret.reveal if secret is not None else None)


def _of_environment(url: EndpointUrl) -> Proxy | None:
    """Return what HTTPS_PROXY and NO_PROXY say about *url*; this machine itself is never asked for through a proxy."""
    found = getproxies()
    named = found.get("https") or found.get("all")
    if url.scheme != "https" or not named or _is_loopback(url.host):
        return None
    if proxy_bypass(f"{url.host}:{url.port}"):
        return None
    host, port, credential = _parse(named if "://" in named else f"http://{named}", "HTTPS_PROXY")
    return Proxy(host, port, (lambda: credential) if credential is not None else None)


def _parse(text: str, name: str) -> tuple[str, int, str | None]:
    """Return host, port, and USER:PASSWORD if they are in it. Raises SettingsError, which does not repeat them."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise SettingsError(f"{name}: it must be a URL such as http://proxy.example:3128") from None
    if url.scheme != "http" or not url.hostname or url.path.strip("/") or url.query or url.fragment:
        raise SettingsError(f"{name}: it must be a URL such as http://proxy.example:3128; TLS to a proxy is not spoken")
    credential = None if url.username is None else f"{unquote(url.username)}:{unquote(url.password or '')}"
    return url.hostname, port or _DEFAULT_PORT, credential


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
