"""The ways to read a range of a blob, one class each: a client over a server.

`open(site)` connects, `read(blob, offset, size_bytes)` returns the bytes in private or lent memory. Each class imports
its library inside `prepare`, which runs once before the clients are forked.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pvblob.blobs.auth import DEVELOPMENT_ACCOUNT, DEVELOPMENT_ACCOUNT_KEY
from pvblob.cli.fleet.corpus import CONTAINER, name

if TYPE_CHECKING:
    from typing_extensions import Buffer

ACCOUNT = DEVELOPMENT_ACCOUNT
WELL_KNOWN_KEY = b64encode(DEVELOPMENT_ACCOUNT_KEY).decode("ascii")


class Site(NamedTuple):
    """Where the servers are. http: the host's own front; nginx: None where it is not installed."""

    socket: str
    http: str
    nginx: str | None


class Reader(Protocol):
    """One connected client."""

    def read(self, blob: int, offset: int, size_bytes: int) -> Buffer:
        """Return exactly these bytes of blob number *blob*."""
        ...


class Path(NamedTuple):
    """One row of the table. server: "host" or "nginx", whose CPU counts as the server's."""

    name: str
    title: str
    server: str
    reader: type[Any]


class HttpSdk:
    """azure-storage-blob over the host's HTTP front, Shared Key, one GET for each range."""

    def __init__(self, site: Site) -> None:
        from azure.storage.blob import ContainerClient

        credential = {"account_name": ACCOUNT, "account_key": WELL_KNOWN_KEY}
        self._container = ContainerClient(f"{site.http}/{ACCOUNT}", CONTAINER, credential=credential)
        self._blobs: dict[int, Any] = {}

    @staticmethod
    def prepare() -> None:
        """Import what every client needs."""
        import azure.storage.blob  # noqa: F401

    def read(self, blob: int, offset: int, size_bytes: int) -> Buffer:
        """Return the range as `bytes`."""
        client = self._blobs.get(blob)
        if client is None:
            client = self._blobs[blob] = self._container.get_blob_client(name(blob))
        content: bytes = client.download_blob(offset=offset, length=size_bytes).readall()
        return content


class ChannelSdk(HttpSdk):
    """azure-storage-blob over the channel: the same calls, another transport, no credential."""

    def __init__(self, site: Site) -> None:
        from azure.storage.blob import ContainerClient

        from pvblob.integrations.azure_core import PvblobTransport

        url = f"https://{ACCOUNT}.blob.core.windows.net"
        self._container = ContainerClient(url, CONTAINER, transport=PvblobTransport(site.socket))
        self._blobs = {}

    @staticmethod
    def prepare() -> None:
        """Import what every client needs."""

        import pvblob.integrations.azure_core  # noqa: F401


class HttpObstore:
    """obstore's AzureStore over the host's HTTP front."""

    def __init__(self, site: Site) -> None:
        import obstore
        from obstore.store import AzureStore

        self._get_range = obstore.get_range
        self._store: Any = AzureStore(
            container_name=CONTAINER,
            account_name=ACCOUNT,
            account_key=WELL_KNOWN_KEY,
            endpoint=f"{site.http}/{ACCOUNT}",
            client_options={"allow_http": True},
        )

    @staticmethod
    def prepare() -> None:
        """Import what every client needs; obstore's threads start later, in each client."""
        import obstore.store  # noqa: F401

    def read(self, blob: int, offset: int, size_bytes: int) -> Buffer:
        """Return the range as obstore's `Bytes`."""
        return self._get_range(self._store, name(blob), start=offset, length=size_bytes)


class NginxObstore(HttpObstore):
    """obstore's HTTPStore over nginx: no authentication, static files, sendfile."""

    def __init__(self, site: Site) -> None:
        import obstore
        from obstore.store import HTTPStore

        assert site.nginx is not None, "the contest leaves this path out where there is no nginx"
        self._get_range = obstore.get_range
        self._store = HTTPStore(site.nginx, client_options={"allow_http": True})


class Channel:
    """pvblob.Client, the bytes copied out into a `bytes` of their own."""

    def __init__(self, site: Site) -> None:
        from pvblob import Client

        self._client = Client.connect(site.socket)

    @staticmethod
    def prepare() -> None:
        """Import what every client needs."""
        import pvblob.client.client  # noqa: F401

    def read(self, blob: int, offset: int, size_bytes: int) -> Buffer:
        """Return the range as `bytes`."""
        return self._client.get(CONTAINER, name(blob), offset=offset, length=size_bytes)


class ChannelView(Channel):
    """pvblob.Client, the bytes used where the host placed them."""

    def read(self, blob: int, offset: int, size_bytes: int) -> Buffer:
        """Return a view of the range in lent pages."""
        return self._client.view(CONTAINER, name(blob), offset=offset, length=size_bytes)


PATHS = {
    path.name: path
    for path in (
        Path("http-sdk", "azure-storage-blob over HTTP", "host", HttpSdk),
        Path("http-obstore", "obstore over HTTP", "host", HttpObstore),
        Path("http-nginx-obstore", "obstore over nginx", "nginx", NginxObstore),
        Path("channel", "pvblob.Client over the channel", "host", Channel),
        Path("channel-sdk", "azure-storage-blob over the channel", "host", ChannelSdk),
        Path("channel-view", "pvblob.Client, in place", "host", ChannelView),
    )
}
DEMO_PATHS = ("http-sdk", "http-obstore", "http-nginx-obstore", "channel", "channel-sdk")
