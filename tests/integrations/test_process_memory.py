"""Freed memory is kept for the next response. Counted in page faults, which are the same on a busy machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pvblob.integrations.process_memory import FREED_BYTES_KEPT, keep_freed_memory

# What the SDK does with a range of 4 MiB: the body, a BytesIO that grows to hold it, and both gone.
PROGRAM = """
import io, pickle, resource, sys
from pvblob.integrations.azure_core import PvblobTransport

made = PvblobTransport("/nowhere", freed_bytes_kept=int(sys.argv[1]))
if sys.argv[2] == "restored":
    made = pickle.loads(pickle.dumps(made))

def response(size):
    stream = io.BytesIO()
    stream.write(b"\\1" * size)
    stream.getvalue()

def faults(size, rounds=8):
    response(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        response(size)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // rounds

print(faults(4 << 20), faults(32 << 20))
"""
PAGES = (4 << 20) // 4096
SET_BY_USER = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def faults_per_response(freed_bytes_kept: int, how: str = "made", **environ: str) -> tuple[int, int]:
    """Return the page faults of a response of 4 MiB and of one of 32 MiB, in a process of their own."""
    environment = {name: value for name, value in os.environ.items() if name not in SET_BY_USER} | environ
    command = [sys.executable, "-c", PROGRAM, str(freed_bytes_kept), how]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    small, large = map(int, printed.split())
    return small, large


@pytest.mark.parametrize("how", ["made", "restored"])
def test_responses_are_built_in_memory_that_was_used_before(how: str) -> None:
    """baseline.md, point 3: fresh memory costs more than the channel."""
    small, large = faults_per_response(FREED_BYTES_KEPT, how)
    assert small < PAGES // 100
    assert large < PAGES // 100


def test_without_it_every_response_takes_fresh_pages() -> None:
    """The measure can fail: 0 leaves malloc alone."""
    small, _ = faults_per_response(0)
    assert small > PAGES // 2


def test_what_the_user_has_set_wins() -> None:
    small, _ = faults_per_response(FREED_BYTES_KEPT, MALLOC_TRIM_THRESHOLD_="131072")
    assert small > PAGES // 2
    assert not keep_freed_memory(FREED_BYTES_KEPT, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"})
    assert not keep_freed_memory(0, {})
