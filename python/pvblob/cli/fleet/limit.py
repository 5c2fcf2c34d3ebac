"""The program of crates/limit as a contestant: client and server in one, without Python, for the same files.

It is started anew for each task, because its processes are made for a number of clients and a block size.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pvblob.cli.fleet.corpus import Corpus
from pvblob.cli.fleet.counters import cpu_s, machine_busy_s
from pvblob.cli.fleet.failure import ContestFailure
from pvblob.cli.fleet.measurement import Measurement, Order
from pvblob.cli.fleet.page_cache import drop_page_cache
from pvblob.cli.fleet.paths import Path as ContestPath
from pvblob.cli.fleet.servers import stop
from pvblob.cli.fleet.workers.contract import Task

PROGRAM = "pvblob-limit"
VARIABLE = "PVBLOB_LIMIT"
# crates/limit as `make bench` builds it, seen from python/pvblob/cli/fleet.
_BUILT = Path(__file__).resolve().parents[4] / "target" / "release" / PROGRAM
_MODES = {"copy": ("spin", "copy"), "in-place": ("spin", "in-place"), "copy-blocking": ("block", "copy")}


def limit_program() -> str | None:
    """Return the program: `$PVBLOB_LIMIT`, the one built in this clone, or one on the path; None if there is none."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    return str(_BUILT) if _BUILT.is_file() else shutil.which(PROGRAM)


class Limit:
    """The program, running for one task at a time."""

    def __init__(self, path: ContestPath, corpus: Corpus, files: Path) -> None:
        self.path = path
        self._corpus = corpus
        self._files = files
        self._task: Task | None = None
        self._process: subprocess.Popen[str] | None = None
        self._host: list[int] = []
        self._clients: list[int] = []

    @classmethod
    @contextmanager
    def starting(cls, path: ContestPath, corpus: Corpus, files: Path) -> Iterator[Limit]:
        """Yield the contestant; what runs is ended on leaving."""
        limit = cls(path, corpus, files)
        try:
            yield limit
        finally:
            limit.leave()

    def await_standing(self) -> None:
        """Return at once: its processes start with their first task. Raises ContestFailure when it is not built."""
        if limit_program() is None:
            raise ContestFailure(f"{PROGRAM} is not built: make bench, or cargo build --release -p limit")

    def measure(self, order: Order) -> Measurement:
        """Have its clients carry out the order. Their first block was compared with the file when they started."""
        process = self._at_work(order.task)
        assert process.stdin is not None
        if order.cold:
            drop_page_cache(Path(order.cold))
        before = cpu_s(self._clients), cpu_s(self._host), machine_busy_s()
        process.stdin.write(f"run {order.seconds}\n")
        process.stdin.flush()
        found = self._line(process)
        after = cpu_s(self._clients), cpu_s(self._host), machine_busy_s()
        spent = after[0] - before[0], after[1] - before[1], after[2] - before[2]
        return Measurement.of(
            found["seconds"], found["requests"], order.task.block_bytes, spent, [(b, n) for b, n in found["latencies"]]
        )

    def _at_work(self, task: Task) -> subprocess.Popen[str]:
        if self._process is not None and self._task == task:
            return self._process
        self.leave()
        self._task = task
        self._process = self._start(task)
        standing = self._line(self._process)
        self._host, self._clients = [standing["host_pid"]], standing["client_pids"]
        return self._process

    def _start(self, task: Task) -> subprocess.Popen[str]:
        program = limit_program()
        assert program is not None
        numbers = (task.blobs, task.blob_bytes, task.clients, task.block_bytes, task.in_flight)
        return subprocess.Popen(
            [program, str(self._files), *map(str, numbers), *_MODES[self.path.class_name]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _line(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise ContestFailure(f"{self.path.title}: {PROGRAM} ended; its last words are above")
        found: dict[str, Any] = json.loads(line)
        return found

    def leave(self) -> None:
        """End the program."""
        if self._process is not None:
            process, self._process = self._process, None
            assert process.stdin is not None
            process.stdin.close()
            stop(process)
