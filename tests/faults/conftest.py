"""A real host under siege: attackers, a bystander who must not notice, and the host's holdings before and after.

`siege` is one attack. When the test has done its worst the bystander reads while the attackers are still there, then
they leave, then the host must hold exactly what it held before, and the bystander reads again.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pvblob import Client
from tests.faults.guest import RawGuest

ROOT = Path(__file__).resolve().parents[2]
SETTLE_S = 10.0
ANONYMOUS_GROWTH_MAX_KB = 48 * 1024
LARGE = random.Random(1).randbytes(300_003)
SMALL = random.Random(2).randbytes(1_000)


class HostProcess:
    """The host of `host_process`, with its holdings as the process itself and the kernel tell them."""

    def __init__(self, directory: Path) -> None:
        self.socket_path = str(directory / "bus.sock")
        self._log = directory / "log"
        command = [sys.executable, "-W", "error", "-m", "tests.faults.host_process", self.socket_path]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, str(directory / "store")],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._line() == "ready\n", self.log()
        self.pid = self._process.pid

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def log(self) -> str:
        """Everything the host has logged."""
        return self._log.read_text("utf-8")

    def holdings(self) -> dict[str, int]:
        """What the host holds now: its own count, and descriptors, threads and shared mappings by the kernel's."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        held: dict[str, int] = json.loads(self._line())
        process = Path("/proc") / str(self.pid)
        held["descriptors"] = len(list((process / "fd").iterdir()))
        # Those that close what guests leave stay for a second.
        held["threads"] = len(list((process / "task").iterdir())) - held.pop("closers")
        held["shared_mappings"] = (process / "maps").read_text().count("/memfd:")
        return held

    def anonymous_kb(self) -> int:
        """Private memory in use, KiB."""
        found = re.search(r"RssAnon:\s+(\d+) kB", (Path("/proc") / str(self.pid) / "status").read_text())
        assert found is not None
        return int(found[1])

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(30) == 0, self.log()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Bystander:
    """An honest program on the same host. Its bytes are checked and its waiting is bounded."""

    def __init__(self, socket_path: str) -> None:
        self._client = Client.connect(socket_path, timeout_s=10.0)
        self._client.create_container("bystander")
        self._client.put("bystander", "large", LARGE)
        self._client.put("bystander", "small", SMALL)

    def read(self) -> None:
        assert self._client.get("bystander", "large") == LARGE
        assert self._client.get("bystander", "small") == SMALL

    def close(self) -> None:
        self._client.close()


class Siege:
    """One attack on the host. `guest()` makes an attacker; all of them leave when the attack is over."""

    def __init__(self, host: HostProcess, bystander: Bystander, baseline: dict[str, int]) -> None:
        self.host = host
        self.bystander = bystander
        self.baseline = baseline
        self._attackers: list[RawGuest] = []

    def connected(self) -> RawGuest:
        """Return an attacker that has said nothing yet."""
        self._attackers.append(RawGuest(self.host.socket_path))
        return self._attackers[-1]

    def guest(self) -> RawGuest:
        """Return an attacker with an open channel."""
        return self.connected().opened()

    def until(self, condition: Callable[[dict[str, int]], bool], what: str) -> dict[str, int]:
        """Wait until the host's holdings fulfil a condition."""
        deadline, pause = time.monotonic() + SETTLE_S, threading.Event()
        while not condition(held := self.host.holdings()):
            assert time.monotonic() < deadline, f"{what}: the host holds {held}, before the attack {self.baseline}"
            pause.wait(0.005)
        return held

    def end(self) -> None:
        """Send the attackers away and find the host as it was."""
        self.bystander.read()
        for attacker in self._attackers:
            attacker.close()
        try:
            self.until(lambda held: held == self.baseline, "something is left behind")
        except AssertionError:
            self.baseline.update(self.host.holdings())  # one leak fails one attack
            raise
        self.bystander.read()


@pytest.fixture(scope="session")
def host_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    host = HostProcess(tmp_path_factory.mktemp("siege"))
    yield host
    host.stop()
    assert "Traceback" not in host.log(), host.log()


@pytest.fixture(scope="session")
def bystander(host_process: HostProcess) -> Iterator[Bystander]:
    one = Bystander(host_process.socket_path)
    yield one
    one.close()


@pytest.fixture(scope="session")
def baseline(host_process: HostProcess, bystander: Bystander) -> dict[str, int]:
    """The host's holdings with the bystander alone, after one guest came and went: lazy things exist then, and the
    offload entries of what both read, which pin their bytes."""
    guest = RawGuest(host_process.socket_path).opened()
    for _ in range(3):
        assert guest.fetch("/bystander/small") == SMALL
        bystander.read()
    guest.close()
    threading.Event().wait(0.3)
    return host_process.holdings()


@pytest.fixture
def siege(host_process: HostProcess, bystander: Bystander, baseline: dict[str, int]) -> Iterator[Siege]:
    anonymous_kb = host_process.anonymous_kb()
    one = Siege(host_process, bystander, baseline)
    yield one
    one.end()
    grown_kb = host_process.anonymous_kb() - anonymous_kb
    assert grown_kb < ANONYMOUS_GROWTH_MAX_KB, f"the host's private memory grew by {grown_kb} KiB"
    assert "Traceback" not in host_process.log(), host_process.log()
