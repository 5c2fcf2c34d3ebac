"""`abfs://`, `abfss://` and `az://` through the host: programs written for adlfs run unchanged after `install()`.

    from pvblob.integrations.fsspec_abfs import install
    install()                                             # from now on, in this process
    pandas.read_parquet("abfs://data@contoso.dfs.core.windows.net/2026/x.parquet")

The host holds the credentials, so those a program still passes are not used: what this process may do is the host's
policy. URLs are adlfs's: `abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/BLOB`, or `abfs://CONTAINER/BLOB` with
`account_name` or `$AZURE_STORAGE_ACCOUNT_NAME`.
"""

from __future__ import annotations

import os
from typing import Any

import fsspec
from fsspec.utils import stringify_path

from pvblob.client.operations import DEVELOPMENT_ACCOUNT
from pvblob.integrations.fsspec import PvblobFileSystem

PROTOCOLS = ("abfs", "abfss", "az")
# Options of adlfs that say how to reach and convince Azure: here that is the host's business.
_HOSTS_BUSINESS = frozenset(
    {
        "account_key",
        "credential",
        "sas_token",
        "client_id",
        "client_secret",
        "tenant_id",
        "anon",
        "location_mode",
        "account_host",
        "request_session",
        "socket_timeout",
        "timeout",
        "connection_timeout",
        "read_timeout",
        "max_concurrency",
        "loop",
        "asynchronous",
    }
)


class AbfsFileSystem(PvblobFileSystem):
    """`PvblobFileSystem` under adlfs's names.

    account_name: default that of the URL, of the connection string, of the environment, the development account.
    """

    protocol = PROTOCOLS

    def __init__(
        self,
        account_name: str | None = None,
        *,
        connection_string: str | None = None,
        socket_path: str | None = None,
        timeout_s: float = 60.0,
        **storage_options: Any,
    ) -> None:
        connection_string = connection_string or os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
        account = account_name or _account_in(connection_string) or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
        options = {name: value for name, value in storage_options.items() if name not in _HOSTS_BUSINESS}
        super().__init__(socket_path, account=account or DEVELOPMENT_ACCOUNT, timeout_s=timeout_s, **options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = stringify_path(path)
        scheme, separator, rest = text.partition("://")
        if separator and scheme in PROTOCOLS:
            authority, slash, blob = rest.partition("/")
            text = authority.partition("@")[0] + slash + blob
        return text.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: Any) -> dict[str, str]:
        authority = stringify_path(path).partition("://")[2].partition("/")[0]
        account = authority.partition("@")[2].partition(".")[0]
        return {"account_name": account} if account else {}

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path, its account included."""
        container, blob = self._split(name)
        return f"abfs://{container}@{self.account}.dfs.core.windows.net/{blob}"


def _account_in(connection_string: str | None) -> str | None:
    parts = (part.partition("=") for part in (connection_string or "").split(";"))
    known = {name.strip().lower(): value for name, _, value in parts}
    if known.get("usedevelopmentstorage", "").lower() == "true":
        return DEVELOPMENT_ACCOUNT
    return known.get("accountname")


def install() -> None:
    """Let fsspec open `abfs://`, `abfss://` and `az://` through the host, in this process, whatever it did before."""
    for protocol in PROTOCOLS:
        fsspec.register_implementation(protocol, AbfsFileSystem, clobber=True)
