"""What the upstream tests are made of: a CA, the service elsewhere, a host that serves its account."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trustme

ACCOUNT = "elsewhere1"
GUEST_URL = f"https://{ACCOUNT}.blob.core.windows.net"


class Authority:
    """A CA of the test's own. A certificate is for 127.0.0.1 and localhost."""

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self._directory = directory
        self.file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, name: str = "server", *hosts: str, **options: object) -> Path:
        """Write a certificate with its key, for *hosts* too; return the file."""
        path = self._directory / f"{name}.pem"
        self._ca.issue_cert("127.0.0.1", "localhost", *hosts, **options).private_key_and_cert_chain_pem.write_to_path(
            path
        )
        return path


@dataclass
class Elsewhere:
    """The service elsewhere. `restart` keeps its port and its blobs."""

    directory: Path
    certificate: Path
    key: str = field(default_factory=lambda: base64.b64encode(os.urandom(64)).decode())
    url: str = ""
    _process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        script = Path(__file__).with_name("service.py")
        port = [self.url.rpartition(":")[2]] if self.url else []
        arguments = [self.directory / "elsewhere", self.certificate, ACCOUNT, self.key, *port]
        command = [sys.executable, "-W", "error", str(script), *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "the service did not start"

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.communicate(timeout=30)
            assert process.returncode == 0

    @property
    def endpoint(self) -> str:
        return f"{self.url}/{ACCOUNT}"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@dataclass
class ServingHost:
    """`pvblob serve` in a process of its own; its log goes to a file."""

    directory: Path
    settings: str
    log: Path = field(init=False)
    ready: dict[str, object] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = None

    @property
    def socket_path(self) -> Path:
        return self.directory / "bus.sock"

    def start(self, **environment: str) -> None:
        self.directory.mkdir(exist_ok=True)
        self.log = self.directory / "host.log"
        config = self.directory / "pvblob.toml"
        config.write_text(
            f'socket = "{self.socket_path}"\nstore = "{self.directory / "store"}"\ndurability = "none"\n'
            + self.settings
        )
        command = [
            sys.executable,
            "-X",
            "dev",
            "-m",
            "pvblob.cli.app",
            "serve",
            "--json",
            "-v",
            "--config",
            str(config),
        ]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **environment}
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.log.read_text()
        self.ready = json.loads(line)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        process.communicate(timeout=30)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
            assert process.returncode == 0, self.log.read_text()


def upstream_table(endpoint: str, ca_file: Path, **settings: object) -> str:
    """Return an `[[upstream]]` table of the test account; a setting that is None is left out."""
    table = {"account": ACCOUNT, "endpoint": endpoint, "ca_file": str(ca_file), **settings}
    lines = [f"{name} = {json.dumps(value)}" for name, value in table.items() if value is not None]
    return "\n[[upstream]]\n" + "\n".join(lines) + "\n"


@contextlib.contextmanager
def serving_through(port: int, directory: Path, elsewhere: Elsewhere, authority: Authority) -> Iterator[ServingHost]:
    """A host in *directory* that reaches the account elsewhere by *port* of this machine: a proxy's."""
    directory.mkdir(exist_ok=True)
    key_file = directory / "key"
    key_file.write_text(elsewhere.key)
    endpoint = f"https://127.0.0.1:{port}/{ACCOUNT}"
    host = ServingHost(directory, upstream_table(endpoint, authority.file, account_key_file=str(key_file)))
    host.start()
    try:
        yield host
    finally:
        host.stop()
