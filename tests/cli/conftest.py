"""The command line as a person runs it: a process of its own against a live host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment without any PVBLOB_ setting, with *changes*."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PVBLOB_")} | changes


@pytest.fixture
def pvblob(live_host: Any, tmp_path: Path) -> Run:
    """Run `pvblob *arguments` in tmp_path against the live host; text in and out unless binary=True."""

    def run(*arguments: str, binary: bool = False, **options: Any) -> subprocess.CompletedProcess[Any]:
        command = [sys.executable, "-m", "pvblob.cli.app", *arguments]
        given = environment(PVBLOB_SOCKET=live_host.socket_path)
        return subprocess.run(
            command, capture_output=True, text=not binary, cwd=tmp_path, env=given, timeout=60, check=False, **options
        )

    return run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `pvblob *arguments` in tmp_path and return the process; what still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **changes: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "pvblob.cli.app", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment(**changes),
            # A background job of a shell has SIGINT ignored, and so would what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()
