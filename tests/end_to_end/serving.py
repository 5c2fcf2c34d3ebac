"""`pvblob serve` as a process of its own, for tests of what it promises to users: settings, policy, signals, status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PVBLOB = [sys.executable, "-W", "error", "-m", "pvblob.cli.app"]


class Serving:
    """A host process with a store and a socket in *directory*. Its log is in `log`; it must end cleanly."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.socket = str(directory / "bus.sock")
        self.log = directory / "serve.log"
        self.killed = False
        command = [*PVBLOB, "serve", "--json", "--durability", "none", "--store", str(directory / "store")]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--socket", self.socket, *arguments], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the host did not start: {self.log.read_text()}"
        self.ready: dict[str, Any] = json.loads(line)

    @property
    def url(self) -> str:
        """The URL of the development account over the HTTP front."""
        return f"{self.ready['http']}/devstoreaccount1"

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it as a crash would; it leaves behind whatever it leaves behind."""
        self.process.kill()
        self.process.wait()
        self.killed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            if not self.killed:
                self.signal(signal.SIGTERM)
                assert self.process.wait(30) == 0, self.log.read_text()


def pvblob(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the command line to its end."""
    return subprocess.run([*PVBLOB, *arguments], capture_output=True, text=True, timeout=60, check=False)
