"""Fixtures of the end-to-end tests: a host process that serves an embedded store over HTTP."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def http_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a host with an empty store; give its URL. It must end cleanly."""
    script = Path(__file__).with_name("host.py")
    command = [sys.executable, "-W", "error", str(script), str(tmp_path_factory.mktemp("store"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdin is not None
        assert host.stdout is not None
        try:
            url = host.stdout.readline().strip()
            assert url, "the host did not start"
            yield url
        finally:
            host.stdin.close()
            assert host.wait(30) == 0
