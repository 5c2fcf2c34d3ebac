"""Waits for what happens on another thread or in another process, without our doing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def until(condition: Callable[[], bool], what: str, *, timeout_s: float = 30) -> None:
    """Return as soon as *condition* holds; fails with *what* after *timeout_s*."""
    give_up_at, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < give_up_at, what
        pause.wait(0.002)
