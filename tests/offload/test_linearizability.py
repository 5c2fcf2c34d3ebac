"""Design §7: writes and reads, through entries and through Python, are one register, in real time, across processes."""

from __future__ import annotations

import multiprocessing
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.offload.conftest import Stage
from tests.offload.histories import Read, Write, begin_together, check, count, read, write

WRITES = 200
CONTAINERS = ("one", "two")
ROUTES = ("offloaded", "offloaded", "python")


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let the host's threads take turns often: between any two steps of an install a commit may come."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(2e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_every_read_returns_the_latest_write_in_real_time_order(make_stage: Callable[..., Stage]) -> None:
    """Installs race with commits all the time here, and freed space is written again at once: see `histories`."""
    stage, seed = make_stage(), random.SystemRandom().randrange(1 << 32)
    path = stage.host.socket_path
    context, processes = multiprocessing.get_context("spawn"), len(CONTAINERS) * (1 + len(ROUTES))
    shared = context.Barrier(processes), {name: context.Event() for name in CONTAINERS}
    for name in CONTAINERS:
        stage.client.create_container(name)
    with ProcessPoolExecutor(processes, context, begin_together, shared) as pool:
        writing = {name: pool.submit(write, path, name, WRITES, seed + at) for at, name in enumerate(CONTAINERS)}
        reading = {name: [pool.submit(read, path, name, route) for route in ROUTES] for name in CONTAINERS}
        for name in CONTAINERS:
            writes = writing[name].result()
            reads = [one for future in reading[name] for one in future.result()]
            check(writes, reads)
            for route in ROUTES:
                assert count(reads, route) > 5, f"seed {seed}: too few writes were seen to compare anything"
    counters = stage.counters()
    assert counters["hits"] > 20, counters
    assert counters["invalidations"] > 5, counters


def history(*numbers: int) -> list[Write]:
    return [Write(number, number * 10.0, number * 10.0 + 1, f"e{number}") for number in numbers]


@pytest.mark.parametrize(
    ("reads", "fault"),
    [
        ([Read(1, 10.5, 10.6, "e1", "x"), Read(1, 20.2, 20.3, "e1", "x"), Read(2, 20.4, 20.5, "e2", "x")], None),
        ([Read(1, 22, 23, "e1", "x")], "a write that had been replaced"),
        ([Read(2, 12, 13, "e2", "x")], "a write that had not begun"),
        ([Read(2, 20.1, 20.2, "e2", "x"), Read(1, 20.3, 20.4, "e1", "x")], "back in time"),
        ([Read(1, 12, 13, "e2", "x")], "head and bytes of different writes"),
        ([Read(None, 12, 13, "", "x")], "absent while it was there"),
        ([Read(None, 1, 2, "", "x"), Read(2, 20.1, 20.6, "e2", "x"), Read(1, 20.3, 20.5, "e1", "x")], None),
    ],
)
def test_the_check_finds_what_it_is_for(reads: list[Read], fault: str | None) -> None:
    if fault is None:
        check(history(1, 2), reads)
    else:
        with pytest.raises(AssertionError):
            check(history(1, 2), reads)
