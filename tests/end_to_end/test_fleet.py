"""Many real processes at once: every byte is right, and one that is killed in mid-read leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pvblob import Client

READER = """
import hashlib, sys
from pvblob import Client
client = Client.connect(sys.argv[1])
sys.stdin.readline()
for index in range(int(sys.argv[2])):
    data = client.get("fleet", "blob")
    assert hashlib.sha256(data).hexdigest() == sys.argv[3], index
    if index == 0:
        print("reads", flush=True)
print("ok", flush=True)
"""


def reader(socket_path: str, times: int, digest: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", READER, socket_path, str(times), digest]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def let_read(one: subprocess.Popen[str]) -> None:
    assert one.stdin is not None
    one.stdin.write("\n")
    one.stdin.flush()


def resources() -> tuple[int, int, int]:
    """Descriptors, threads and shared mappings of this process, which the host runs in."""
    mappings = Path("/proc/self/maps").read_text().count("/memfd:pvblob-")
    return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir())), mappings


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, what
        pause.wait(0.01)


def test_a_hundred_processes_read_and_one_killed_in_mid_read_leaves_nothing(live_host: Any) -> None:
    """Design rule 1 and the main job: nobody else notices, and the host returns to its baseline."""
    data = os.urandom(5_000_000)
    digest = hashlib.sha256(data).hexdigest()
    with Client.connect(live_host.socket_path) as client:
        client.create_container("fleet")
        client.put("fleet", "blob", data)
        for _ in range(4):  # the data plane keeps a descriptor of each file that its offload entries read from
            client.get("fleet", "blob")
    wait_until(lambda: live_host.host.guests == 0, "the writing client did not go")
    baseline = resources()
    victims = [reader(live_host.socket_path, 100_000, digest) for _ in range(5)]
    readers = [reader(live_host.socket_path, 3, digest) for _ in range(95)]
    wait_until(lambda: live_host.host.guests == 100, "not everybody connected")
    for one in (*victims, *readers):
        let_read(one)
    for victim in victims:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "reads\n"
        victim.send_signal(signal.SIGKILL)
        assert victim.wait(30) == -signal.SIGKILL
        victim.communicate()
    for one in readers:
        assert one.communicate(timeout=90)[0] == "reads\nok\n"
        assert one.returncode == 0
    wait_until(lambda: live_host.host.guests == 0, "a guest was not forgotten")
    wait_until(
        lambda: all(now <= before for now, before in zip(resources(), baseline, strict=True)),
        f"descriptors, threads, mappings: {baseline} before",
    )
