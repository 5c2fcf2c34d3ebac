"""A blob service elsewhere, and the network to it: `pvblob serve` over TLS behind a program that delays every byte.

`open_elsewhere(corpus, directory, narrate)` yields an `Elsewhere`. The certificate is of a CA made for the run. The
network is crates/limit's pvblob-network, which counts connections and bytes; its CPU time, and the service's, are those
of machines that only the benchmark puts here, so they are measured apart.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from pvblob.cli.fleet import servers
from pvblob.cli.fleet.corpus import Corpus
from pvblob.cli.fleet.failure import ContestFailure
from pvblob.cli.fleet.fill import fill
from pvblob.cli.fleet.servers import Server, stop
from pvblob.cli.fleet.venue import Narrate
from pvblob.cli.fleet.workers.account import ACCOUNT, KEY
from pvblob.cli.fleet.workers.contract import Address

PROGRAM = "pvblob-network"
VARIABLE = "PVBLOB_NETWORK"
DELAY_MS = 5
# Ten of a hundred guests' requests are under way at once: the tenth of the connections that is to be reached.
CONNECTIONS_MAX = 10
# As `make bench` builds it, seen from python/pvblob/cli/fleet.
_BUILT = Path(__file__).resolve().parents[4] / "target" / "release" / PROGRAM


def network_program() -> str | None:
    """Return the program: `$PVBLOB_NETWORK`, the one built in this clone, or one on the path; None if there is none."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    return str(_BUILT) if _BUILT.is_file() else shutil.which(PROGRAM)


class Traffic(NamedTuple):
    """What the network has carried: connections made, bytes that came from the service, as they were encrypted."""

    connections: int
    bytes_down: int

    def since(self, before: Traffic) -> Traffic:
        """Return what was added after *before*."""
        return Traffic(self.connections - before.connections, self.bytes_down - before.bytes_down)


class Network:
    """The running program."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        self.port = int(self._line()["port"])

    def traffic(self) -> Traffic:
        """Return its counters. Raises ContestFailure when it has ended."""
        assert self._process.stdin is not None
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        return Traffic(**self._line())

    def _line(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ContestFailure(f"{PROGRAM} ended; its last words are above")
        found: dict[str, int] = json.loads(line)
        return found


class Elsewhere(NamedTuple):
    """The service and the network to it.

    address: for clients, through the network.  server: the service itself.
    """

    address: Address
    server: Server
    network: Network
    directory: Path

    def pids(self) -> list[list[int]]:
        """Return the processes of the service, and of the network."""
        return [self.server.pids(), [self.network.pid]]

    @contextmanager
    def gateway(self, *, cached: bool) -> Iterator[Server]:
        """Run a fresh host whose account lies here. cached: it keeps what it reads, in a directory that is new too."""
        key = self.directory / "account-key"
        key.write_text(KEY, "ascii")
        lines = [f'cache_dir = "{self.directory / "cache"}"'] if cached else []
        lines += ["[[upstream]]", f'account = "{ACCOUNT}"', f'account_key_file = "{key}"']
        lines += [f'endpoint = "{self.address.url}/{ACCOUNT}"', f'ca_file = "{self.address.authorities}"']
        lines += [f"connections_max = {CONNECTIONS_MAX}"]
        lines += ["[[upstream.cache]]", 'container = "*"', 'mode = "immutable"'] if cached else []
        config = self.directory / "gateway.toml"
        config.write_text("\n".join(lines) + "\n", "utf-8")
        with servers.host(self.directory, "gateway", "none", {}, config) as server:
            settings = f"pvblob serve, upstream connections_max {CONNECTIONS_MAX}"
            settings += f", cache on {servers.file_system(self.directory)}" if cached else ", no cache"
            yield server._replace(settings=settings)
        for name in ("gateway", "cache"):
            shutil.rmtree(self.directory / name, ignore_errors=True)


@contextmanager
def open_elsewhere(corpus: Corpus, directory: Path, narrate: Narrate) -> Iterator[Elsewhere]:
    """Start service and network in *directory*, and write the corpus there. Raises ServerFailure, FillFailure."""
    with ExitStack() as stack:
        narrate("starting the service elsewhere", 0, 1)
        authorities, certificate, key = _certificates(directory)
        tls = {"PVBLOB_HTTP_CERTIFICATE": str(certificate), "PVBLOB_HTTP_KEY": str(key)}
        server = stack.enter_context(servers.host(directory, "elsewhere", "none", tls))
        network = stack.enter_context(_network(int(server.addresses["azure"].url.rpartition(":")[2])))
        what = f"writing {corpus.blob_count} blobs of {corpus.blob_bytes >> 20} MiB"
        narrate(what, 0, corpus.blob_count)
        sockets = [server.addresses["channel"].socket]
        fill(corpus, sockets, None, lambda done: narrate(what, done, corpus.blob_count))
        address = Address("tls", url=f"https://127.0.0.1:{network.port}", authorities=str(authorities))
        settings = f"pvblob serve over TLS, {DELAY_MS} ms away each way"
        yield Elsewhere(address, server._replace(settings=settings), network, directory)


def _certificates(directory: Path) -> Sequence[Path]:
    """Write who may vouch for servers, and a certificate for 127.0.0.1 with its key.

    The run's CA is one more in the bundle that requests has by default: reading that is what a program's first
    connection costs.
    """
    import certifi
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    paths = [directory / name for name in ("authority.pem", "certificate.pem", "key.pem")]
    paths[0].write_bytes(Path(certifi.where()).read_bytes() + b"\n" + authority.cert_pem.bytes())
    paths[1].write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(paths[2])
    return paths


@contextmanager
def _network(port: int) -> Iterator[Network]:
    program = network_program()
    assert program is not None
    process = subprocess.Popen(
        [program, str(port), str(DELAY_MS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield Network(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        stop(process)
