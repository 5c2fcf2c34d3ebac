"""Log lines that peers cause: one per event, but never more than a few per guest and minute (design rule 11).

What is left out is counted and said with the next line, or when the guest is forgotten. Whatever comes from a peer is
written escaped: no control character, no line break, no endless name reaches the log.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from pvblob.access import Access
from pvblob.vsp.policy import Guest

PEERS_MAX = 1024  # remembered at once; the longest silent is forgotten first
TEXT_CHARS_MAX = 200


@dataclass(slots=True)
class _Peer:
    window_began_s: float
    lines: int = 0
    suppressed: int = 0


class PeerLog:
    """Writes to *log* at most *lines_max* lines per peer and *window_s* seconds. suppressed: lines left out so far."""

    def __init__(
        self,
        log: logging.Logger,
        *,
        lines_max: int = 10,
        window_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._lines_max = lines_max
        self._window_s = window_s
        self._clock = clock
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self.suppressed = 0

    def warning(self, peer: str, text: str) -> None:
        """Write *text*, or count it. peer: whose lines are counted together, not the process: those cost it nothing."""
        known = self._known(peer)
        if known.lines >= self._lines_max:
            known.suppressed += 1
            self.suppressed += 1
            return
        known.lines += 1
        self._log.warning("%s", printable(text))

    def _known(self, peer: str) -> _Peer:
        now_s = self._clock()
        known = self._peers.get(peer)
        if known is None:
            known = self._peers[peer] = _Peer(now_s)
            if len(self._peers) > PEERS_MAX:
                self._tell(*self._peers.popitem(last=False))
        elif now_s - known.window_began_s >= self._window_s:
            self._tell(peer, known)
            known = self._peers[peer] = _Peer(now_s)
        self._peers.move_to_end(peer)
        return known

    def _tell(self, peer: str, known: _Peer) -> None:
        if known.suppressed:
            self._log.warning("%s: %d more lines were left out", printable(peer), known.suppressed)

    def close(self) -> None:
        """Say what was left out and not said yet."""
        while self._peers:
            self._tell(*self._peers.popitem(last=False))


def printable(text: str) -> str:
    """Return *text* with everything unprintable escaped and its length bounded."""
    cut = text if len(text) <= 4 * TEXT_CHARS_MAX else f"{text[: 4 * TEXT_CHARS_MAX]}…"
    if cut.isprintable():
        return cut
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in cut)


class Audit:
    """One line per denied request: who, what, why. denied: how many there were, logged or not."""

    def __init__(self, lines: PeerLog) -> None:
        self._lines = lines
        self.denied = 0

    @property
    def suppressed(self) -> int:
        """How many lines were left out."""
        return self._lines.suppressed

    def deny(self, guest: Guest, entry: str, access: Access | None, reason: str) -> None:
        """Record that a request of *guest* was denied. access: what it asked for, None when that is not known."""
        self.denied += 1
        who = "front" if guest.front else f"pid={guest.pid} uid={guest.uid} cgroup={guest.cgroup or '-'}"
        what = str(access)[:TEXT_CHARS_MAX] if access is not None else "-"
        self._lines.warning(guest.identity, f"denied {who} entry={entry!r} asked={what!r}: {reason}")
