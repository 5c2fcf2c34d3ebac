"""Thread pools before their threads are counted."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait


def start_all_threads(pool: ThreadPoolExecutor) -> None:
    """Have a pool start every thread it may: it makes one when work comes and none is idle, at any later moment."""
    count = pool._max_workers
    together = threading.Barrier(count)
    wait([pool.submit(together.wait, 20) for _ in range(count)], timeout=20)
    assert len(pool._threads) == count
