"""The host's settings: arguments over environment (`PVBLOB_*`) over a TOML file, checked before anything starts.

`load(arguments, config)` → `HostSettings`, or one `SettingsError` that names every wrong setting and its source. It
reads the environment and the file and touches nothing else; only the host process imports it, because pydantic costs
more to import than a client may take.
"""

from __future__ import annotations

import base64
import binascii
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    IPvAnyAddress,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from pvblob.errors import SettingsError
from pvblob.settings import default_socket_path
from pvblob.vsp.policy_file import Group, Mode

CONFIG_NAME = "pvblob.toml"
ENVIRONMENT_PREFIX = "PVBLOB_"


class HttpAddress(NamedTuple):
    """Where the HTTP front listens; port 0 takes a free one."""

    host: str
    port: int


def default_store_path(environ: Mapping[str, str] | None = None, uid: int | None = None) -> Path:
    """Return where blobs lie unless told otherwise: `/var/lib/pvblob` for root, else the user's data directory."""
    environ = os.environ if environ is None else environ
    if (os.geteuid() if uid is None else uid) == 0:
        return Path("/var/lib/pvblob")
    data_home = Path(environ.get("XDG_DATA_HOME", ""))
    return (data_home if data_home.is_absolute() else Path.home() / ".local" / "share") / "pvblob"


class CacheSettings(BaseModel):
    """One `[[upstream.cache]]` table: which blobs of the account are kept on the local disk, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    container: str
    prefix: str = ""
    mode: Literal["immutable", "revalidate", "off"] = "revalidate"
    max_age_s: float = Field(0.0, ge=0)


class UpstreamSettings(BaseModel):
    """One `[[upstream]]` table: an account elsewhere; see `upstream.accounts.AccountSettings` for what each means.

    The secret itself is never a setting: *_file names a file (relative: in $CREDENTIALS_DIRECTORY if it is there),
    *_env an environment variable. Exactly one of account_key_file, account_key_env, sas_file, sas_env, identity and
    authorization says how requests are authorized.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    account: str = Field(pattern=r"^[a-z0-9]{3,24}$")
    endpoint: str | None = None
    secondary_endpoint: str | None = None
    account_key_file: Path | None = None
    account_key_env: str | None = None
    sas_file: Path | None = None
    sas_env: str | None = None
    identity: Literal["default", "managed", "workload", "cli", "environment"] | None = None
    client_id: str | None = None
    authorization: Literal["guest", "none"] | None = None
    addresses: tuple[IPvAnyAddress, ...] = ()
    ca_file: Path | None = None
    proxy: str | None = None
    proxy_credential_file: Path | None = None
    proxy_credential_env: str | None = None
    connections_max: int = Field(64, ge=1, le=4096)
    connections_warm: int = Field(2, ge=0, le=256)
    requests_per_s: float | None = Field(None, gt=0)
    bytes_per_s: Annotated[ByteSize, Field(gt=0)] | None = None
    part_size: Annotated[ByteSize, Field(ge=256 << 10, le=256 << 20)] = ByteSize(8 << 20)
    parallel: int = Field(4, ge=1, le=64)
    put_block_size: Annotated[ByteSize, Field(ge=1 << 20, le=4000 << 20)] | None = None
    hedge_after_s: float | None = Field(None, gt=0)
    stall_timeout_s: float = Field(15.0, gt=0)
    cache: tuple[CacheSettings, ...] = ()
    read_ahead: bool = True

    @model_validator(mode="after")
    def _proxy_is_whole(self) -> UpstreamSettings:
        if self.proxy_credential_file and self.proxy_credential_env:
            raise ValueError(
                f"account {self.account}: proxy_credential_file and proxy_credential_env exclude each other"
            )
        if (self.proxy_credential_file or self.proxy_credential_env) and not self.proxy:
            raise ValueError(f"account {self.account}: a proxy_credential_* is for a proxy, and none is named")
        if self.proxy and self.proxy != "none" and self.addresses:
            raise ValueError(f"account {self.account}: with a proxy, which looks names up, addresses are not used")
        return self

    @model_validator(mode="after")
    def _one_credential(self) -> UpstreamSettings:
        given = [name for name in _CREDENTIALS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"account {self.account}: exactly one of {', '.join(_CREDENTIALS)} must be given, "
                f"not {' and '.join(given) or 'none'}"
            )
        return self


_CREDENTIALS = ("account_key_file", "account_key_env", "sas_file", "sas_env", "identity", "authorization")


class HostSettings(BaseSettings):
    """Everything `pvblob serve` can be told.

    socket: the control socket guests connect to.  store: directory of the embedded service.  http: `HOST:PORT` of the
    HTTP front, off when None.  durability: "fsync" acknowledges a write when it survives a power cut, "none" when it
    survives the end of the process.  polling: whether host and guests may spin for a moment before they sleep, on at
    most cores - 1.  accounts: account → base64 key, for the HTTP front and for guests in mode
    "verify".  development_account: whether the well-known key opens `devstoreaccount1` there.  policy: the file that
    says who may do what; None serves the host's own user and root.  socket_mode, socket_group: of the control socket.
    metrics: `HOST:PORT` where Prometheus may scrape, off when None.
    upstream: accounts elsewhere, the `[[upstream]]` tables.  upstream_connections_max: of all of them together.
    cache_dir, cache_size: where blocks of those that have `[[upstream.cache]]` tables are kept, and how many bytes.
    cache_guest_size: what one guest keeps of it whatever others read; None: a quarter of cache_size.
    http_certificate, http_key: PEM files; with them the front speaks HTTPS.
    offload_entries_max: how many blobs the data plane may answer reads of by itself; 0: Python answers every request.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True, validate_default=False
    )

    socket: Path = Field(default_factory=default_socket_path)
    store: Path = Field(default_factory=default_store_path)
    http: str | None = None
    durability: Literal["fsync", "none"] = "fsync"
    polling: bool = True
    accounts: dict[str, str] = Field(default_factory=dict)
    development_account: bool = True
    policy: Path | None = None
    socket_mode: Mode = 0o600
    socket_group: Group | None = None
    metrics: str | None = None
    upstream: tuple[UpstreamSettings, ...] = ()
    upstream_connections_max: int = Field(256, ge=1)
    cache_dir: Path | None = None
    cache_size: Annotated[ByteSize, Field(ge=64 << 20)] = ByteSize(10 << 30)
    cache_guest_size: Annotated[ByteSize, Field(ge=16 << 20)] | None = None
    http_certificate: Path | None = None
    http_key: Path | None = None
    offload_entries_max: int = Field(16384, ge=0, le=1 << 24)

    @field_validator("http", "metrics")
    @classmethod
    def _http_is_an_address(cls, value: str | None) -> str | None:
        if value:
            _parse_address(value)
        return value or None

    @field_validator("policy", "socket_group", mode="before")
    @classmethod
    def _empty_is_not_given(cls, value: object) -> object:
        return value or None

    @field_validator("accounts")
    @classmethod
    def _keys_are_base64(cls, value: dict[str, str]) -> dict[str, str]:
        for account, key in value.items():
            try:
                base64.b64decode(key, validate=True)
            except binascii.Error:
                raise ValueError(f"the key of account {account!r} is not base64") from None
        return value

    @model_validator(mode="after")
    def _belongs_together(self) -> HostSettings:
        names = [upstream.account for upstream in self.upstream]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"account {', '.join(twice)} is in [[upstream]] twice")
        if self.cache_dir is None and any(upstream.cache for upstream in self.upstream):
            raise ValueError("[[upstream.cache]] needs cache_dir, a directory for this host alone")
        if self.cache_guest_size is not None and self.cache_guest_size > self.cache_size:
            raise ValueError(f"cache_guest_size ({self.cache_guest_size}) is more than cache_size ({self.cache_size})")
        if (self.http_certificate is None) != (self.http_key is None):
            raise ValueError("http_certificate and http_key go together")
        return self

    @property
    def http_address(self) -> HttpAddress | None:
        """Where the HTTP front listens, None when it is off."""
        return _parse_address(self.http) if self.http else None

    @property
    def metrics_address(self) -> HttpAddress | None:
        """Where metrics are served, None when they are not."""
        return _parse_address(self.metrics) if self.metrics else None

    @property
    def account_keys(self) -> dict[str, bytes]:
        """The keys of `accounts`, decoded."""
        return {account: base64.b64decode(key) for account, key in self.accounts.items()}


def load(arguments: Mapping[str, object], config: Path | None = None) -> HostSettings:
    """Return the settings; *arguments* that are None count as not given.

    config: a TOML file that must exist; None takes `pvblob.toml` of the working directory when there is one.
    Raises SettingsError.
    """
    given: dict[str, Any] = {name: value for name, value in arguments.items() if value is not None}
    path = config or Path(CONFIG_NAME)
    from_file = _read(path, required=config is not None)

    class Sourced(HostSettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=from_file)

    try:
        return Sourced(**given)
    except ValidationError as error:
        raise SettingsError(_explain(error, given, path)) from None


def _read(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if required:
            raise SettingsError(f"settings file {path} does not exist") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"settings file {path}: {error}") from None


def _explain(error: ValidationError, arguments: Mapping[str, object], path: Path) -> str:
    """Say for each wrong setting what is wrong and where it was set."""
    lines = []
    for wrong in error.errors():
        name = str(wrong["loc"][0]) if wrong["loc"] else "settings"
        variable = ENVIRONMENT_PREFIX + name.upper()
        if name in arguments:
            where = f"--{name.replace('_', '-')}"
        elif variable in os.environ:
            where = f"${variable}"
        else:
            where = str(path)
        place = ".".join(map(str, wrong["loc"])) or name
        # What was given may be a key: a wrong one, or one put where none belongs.
        given = "" if name in _HOLD_SECRETS or not wrong["loc"] else f" = {wrong['input']!r}"
        lines.append(f"{place}{given} ({where}): {wrong['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)


_HOLD_SECRETS = frozenset({"accounts", "upstream"})


def _parse_address(text: str) -> HttpAddress:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be HOST:PORT, e.g. 127.0.0.1:10000 (port 0 takes a free one)")
    return HttpAddress(host.strip("[]"), int(port))
