"""Raw guests of a live host: one that offload entries answer, and one that Python always answers."""

from __future__ import annotations

from tests.conftest import LiveHost
from tests.faults.guest import RawGuest


def open_guest(live: LiveHost, *, offloaded: bool) -> RawGuest:
    """Open a raw guest; without offload every one of its requests goes to Python."""
    dispatcher = live.host.dispatcher
    before = live.call(lambda: set(dispatcher._guests))
    guest = RawGuest(live.socket_path).opened()
    if not offloaded:
        (key,) = live.call(lambda: set(dispatcher._guests)) - before  # type: ignore[operator]
        live.call(lambda: dispatcher.set_scope(key, None))
    return guest
