"""`pvblob serve`: joins the host, the embedded service and the HTTP front on one event loop, until a signal.

Settings → policy → store (locked) → HTTP front → control socket; announced only when all stand, taken down in the
opposite order. The first SIGTERM or SIGINT lets running requests end, the second ends the process at once; SIGHUP reads
the policy file again, and a broken one changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pvblob.cli import options, output
from pvblob.errors import SettingsError

if TYPE_CHECKING:
    from pvblob.blobs.auth.gate import CredentialGate
    from pvblob.blobs.service import EmbeddedService
    from pvblob.front.server import HttpFront
    from pvblob.http import Backend
    from pvblob.upstream.accounts import Accounts
    from pvblob.vsp.guard import Guard
    from pvblob.vsp.host import Host
    from pvblob.vsp.metrics import Metrics
    from pvblob.vsp.policy_file import LoadedPolicy
    from pvblob.vsp.settings import HostSettings

HELP = """Run the host: the service that answers every guest on this machine.

Every setting may also stand in pvblob.toml (or --config FILE) and in the environment as PVBLOB_SOCKET, PVBLOB_STORE,
PVBLOB_HTTP, PVBLOB_DURABILITY, PVBLOB_POLICY, PVBLOB_SOCKET_MODE, PVBLOB_SOCKET_GROUP, PVBLOB_METRICS,
PVBLOB_POLLING. Arguments win over the environment, the environment over the file.

Without a policy file only the host's own user and root are served. docs/operations.md describes the file; SIGHUP reads
it again.

Examples:

  pvblob serve

  pvblob serve --store /data/blobs --http 127.0.0.1:10000

  pvblob serve --config /etc/pvblob.toml --durability none

  pvblob serve --policy /etc/pvblob/policy.toml --socket-group blob-users --socket-mode 0660

  pvblob serve --metrics 127.0.0.1:9464

Accounts elsewhere (real Azure) are [[upstream]] tables of the settings file; SIGHUP reads their secrets again.
"""
log = logging.getLogger("pvblob.serve")

Polling = Annotated[
    bool | None,
    typer.Option("--polling/--no-polling", help="Spin for a moment before sleeping; default: yes, on idle cores."),
]
PolicyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Who may do what; default: the host's own user, everything.")
]
SocketMode = Annotated[
    str | None, typer.Option(metavar="MODE", help="Who may connect to the control socket, in octal; default: 0600.")
]
SocketGroup = Annotated[str | None, typer.Option(metavar="GROUP", help="The group the control socket belongs to.")]
MetricsAddress = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Serve metrics to Prometheus; port 0: a free one.")
]


def run(
    socket: options.Socket = None,
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the blobs lie.")] = None,
    http: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve the blobs over plain HTTP too; port 0: a free one."),
    ] = None,
    durability: Annotated[
        Literal["fsync", "none"] | None,
        typer.Option(help="fsync: a write survives a power cut. none: it survives the end of the process."),
    ] = None,
    policy: PolicyFile = None,
    socket_mode: SocketMode = None,
    socket_group: SocketGroup = None,
    metrics: MetricsAddress = None,
    polling: Polling = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Settings file; default: ./pvblob.toml.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Announce readiness as one line of JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what the host does.")] = False,
) -> None:
    """Serve until SIGTERM or SIGINT."""
    from pvblob.vsp.settings import load

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    arguments = {
        "socket": socket,
        "store": store,
        "http": http,
        "durability": durability,
        "policy": policy,
        "socket_mode": socket_mode,
        "socket_group": socket_group,
        "metrics": metrics,
        "polling": polling,
    }
    asyncio.run(serve(load(arguments, config), as_json=as_json))


async def serve(settings: HostSettings, *, as_json: bool = False) -> None:
    """Serve with *settings* until SIGTERM or SIGINT. Raises PvblobError or SettingsError when something is taken."""
    from pvblob.blobs.service import EmbeddedService

    stopped = _stop_on_signals()
    loaded = _load_policy(settings)
    async with AsyncExitStack() as stack:
        service = EmbeddedService(settings.store, durability=settings.durability)
        try:
            service.open()
        except OSError as error:
            raise SettingsError(f"store {settings.store}: {error.strerror or error}") from error
        stack.callback(service.close)
        accounts = await _open_accounts(settings, stack)
        guard = _guard(settings, accounts.router(service) if accounts else service, loaded)
        about: dict[str, Any] = {"store": str(settings.store), "durability": settings.durability}
        front = await _start_http(settings, guard, stack)
        about["http"] = front.url if front else None
        metrics = await _start_metrics(settings, guard, service, about, stack)
        host = await _start_host(settings, guard, loaded, stack)
        if metrics is not None:
            metrics.host = host
            metrics.front = front.state if front else None
        if accounts is not None:
            _join_accounts(accounts, host, metrics)
        await _start_device_sockets(host, about, front, accounts, stack)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, settings, host, accounts)
        _announce(settings, about, as_json=as_json)
        await stopped.wait()
        log.info("stopping")


async def _open_accounts(settings: HostSettings, stack: AsyncExitStack) -> Accounts | None:
    """Return the accounts elsewhere, open until *stack* ends; None when there are none. Raises SettingsError."""
    if not settings.upstream:
        return None
    from pvblob.cli.upstream import account_settings
    from pvblob.upstream.accounts import Accounts
    from pvblob.upstream.blocks import BlockStore

    tables = [account_settings(table) for table in settings.upstream]
    cache = None
    if settings.cache_dir is not None:
        guest_bytes_max = settings.cache_guest_size or settings.cache_size // 4
        cache = BlockStore(settings.cache_dir, settings.cache_size, guest_bytes_max)
    accounts = Accounts(tables, connections_max=settings.upstream_connections_max, cache=cache)
    stack.push_async_callback(accounts.close)
    await accounts.open()
    return accounts


def _load_policy(settings: HostSettings) -> LoadedPolicy:
    from pvblob.vsp.policy import built_in
    from pvblob.vsp.policy_file import LoadedPolicy, load_policy

    if settings.policy is None:
        return LoadedPolicy(built_in(os.geteuid()), ())
    return load_policy(settings.policy, front=settings.http is not None)


def _guard(settings: HostSettings, service: Backend, loaded: LoadedPolicy) -> Guard:
    from pvblob.blobs import access
    from pvblob.vsp.audit import Audit, PeerLog
    from pvblob.vsp.guard import Guard

    audit = Audit(PeerLog(logging.getLogger("pvblob.audit")))
    return Guard(service, access, loaded.policy, audit, credentials=_gate(settings))


def _gate(settings: HostSettings) -> CredentialGate:
    from pvblob.blobs.auth import DEVELOPMENT_ACCOUNT, DEVELOPMENT_ACCOUNT_KEY
    from pvblob.blobs.auth.gate import CredentialGate

    built_in = {DEVELOPMENT_ACCOUNT: DEVELOPMENT_ACCOUNT_KEY} if settings.development_account else {}
    return CredentialGate({**built_in, **settings.account_keys})


def _reload(settings: HostSettings, host: Host, accounts: Accounts | None) -> None:
    """Read secrets and the policy file again; a broken policy is logged and changes nothing."""
    if accounts is not None:
        accounts.look_again()
        log.warning("the secrets of %d accounts elsewhere are read again", len(accounts.backends))
    if settings.policy is None:
        if accounts is None:
            log.warning("SIGHUP: there is no policy file to read again")
        return
    try:
        loaded = _load_policy(settings)
    except SettingsError as error:
        log.error("the policy stays as it was: %s", error)
        return
    host.apply_policy(*loaded)
    log.warning("the policy was read again from %s: %d entries", settings.policy, len(loaded.policy.entries))


async def _start_host(settings: HostSettings, guard: Guard, loaded: LoadedPolicy, stack: AsyncExitStack) -> Host:
    from pvblob.vsp.budget import Limits
    from pvblob.vsp.host import Host

    limits = Limits()
    if settings.upstream:
        # Requests elsewhere mostly wait: those of the embedded service must not wait with them.
        running = limits.requests_running_max + settings.upstream_connections_max
        limits = replace(limits, requests_running_max=running)
    host = Host(
        guard.backend,
        settings.socket,
        guard=guard,
        limits=limits,
        sockets=loaded.sockets,
        socket_mode=settings.socket_mode,
        socket_group=settings.socket_group,
        polling=settings.polling,
        offload_entries_max=settings.offload_entries_max,
    )
    try:
        await host.start()
    except PermissionError as error:
        raise SettingsError(f"socket {settings.socket}: {error.strerror or error}") from error
    stack.push_async_callback(host.stop)
    return host


def _tls_of(settings: HostSettings) -> ssl.SSLContext | None:
    if settings.http_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.http_certificate, settings.http_key)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"http_certificate {settings.http_certificate}: {error.strerror or error}") from error
    return context


async def _start_http(settings: HostSettings, guard: Guard, stack: AsyncExitStack) -> HttpFront | None:
    address = settings.http_address
    if address is None:
        return None
    from pvblob.front.server import HttpFront
    from pvblob.vsp.policy import Guest

    backend = guard.admit(Guest(front=True))
    assert backend is not None, "load_policy has seen to it that an entry is about the front"
    front = HttpFront(
        backend,
        address.host,
        address.port,
        accounts=settings.account_keys,
        development_account=settings.development_account,
        tls=_tls_of(settings),
    )
    try:
        await front.start()
    except OSError as error:
        raise SettingsError(f"--http {settings.http}: {error.strerror or error}; choose another port") from error
    stack.push_async_callback(front.stop)
    if settings.development_account:
        log.warning("anyone who can connect to %s opens devstoreaccount1 with its well-known key", front.url)
    return front


async def _start_metrics(
    settings: HostSettings, guard: Guard, service: EmbeddedService, about: dict[str, Any], stack: AsyncExitStack
) -> Metrics | None:
    address = settings.metrics_address
    about["metrics"] = None
    if address is None:
        return None
    from pvblob.vsp.metrics import Metrics, MetricsServer

    metrics = Metrics()
    metrics.batches = service.commit_batches
    guard.observer = metrics
    server = MetricsServer(metrics, address.host, address.port)
    try:
        await server.start()
    except OSError as error:
        raise SettingsError(f"--metrics {settings.metrics}: {error.strerror or error}; choose another port") from error
    stack.push_async_callback(server.stop)
    about["metrics"] = server.url
    return metrics


def _join_accounts(accounts: Accounts, host: Host, metrics: Metrics | None) -> None:
    """Have the accounts elsewhere learn which guests are gone, and the metrics what goes on with them."""
    from pvblob.upstream.state import account_counters

    host.dispatcher.on_detached = accounts.forget_reader
    if metrics is not None:
        metrics.accounts = lambda: account_counters(accounts)


async def _start_device_sockets(
    host: Host, about: dict[str, Any], front: HttpFront | None, accounts: Accounts | None, stack: AsyncExitStack
) -> None:
    from pvblob.upstream.cache_commands import CacheCommands
    from pvblob.upstream.state import cache_state, upstream_state
    from pvblob.vsp.admin_socket import AdminSocket, admin_path
    from pvblob.vsp.guest_commands import GuestCommands
    from pvblob.vsp.status import snapshot
    from pvblob.vsp.status_socket import StatusSocket, status_path

    def state() -> dict[str, Any]:
        elsewhere = {} if accounts is None else {"upstream": upstream_state(accounts), "cache": cache_state(accounts)}
        return snapshot(host, about) | {"front": front.state() if front else None} | elsewhere

    cache = CacheCommands(accounts)
    status = StatusSocket(status_path(host.socket_path), state)
    commands = {"cache.warm": cache.warm, "cache.drop": cache.drop, "rescind": GuestCommands(host).rescind}
    admin = AdminSocket(admin_path(host.socket_path), commands)
    for socket in (status, admin):
        try:
            await socket.start()
        except SettingsError as error:
            log.warning("pvblob status, pvblob cache and pvblob rescind will not work: %s", error)
            return
        stack.push_async_callback(socket.stop)


def _announce(settings: HostSettings, about: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.json_line({"pid": os.getpid(), "socket": str(settings.socket), **about})
    else:
        output.text_line(f"channel  {settings.socket}")
        output.text_line(f"store    {settings.store} (durability: {settings.durability})")
        output.text_line(f"http     {about['http'] or 'off'}")
        for account in settings.upstream:
            output.text_line(f"upstream {account.account}: {account.endpoint or 'Azure'}")
        if about["metrics"]:
            output.text_line(f"metrics  {about['metrics']}")
        output.text_line("ready; Ctrl-C stops")
    sys.stdout.flush()


def _stop_on_signals() -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets; the second ends the process at once."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stopped.is_set():
            os._exit(128 + number)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stopped
