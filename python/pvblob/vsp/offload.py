"""Offload entries: what a backend offers is installed in the data plane, and what it pins is kept until that lets go.

The data plane says which request wants an entry (its target was missed twice); the backend's answer may then carry an
`Offer`. An entry answers for one policy scope: a channel that gets another scope never finds it again, and when nobody
has the scope any more its generation moves, so that nothing decided under it is kept or still installed. It knows no
blob and no field of an answer but our own.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Container
from dataclasses import replace
from typing import NamedTuple

from pvblob import _native
from pvblob.http import FileContent, Head, LentContent, Observed, Offer, Request, Slot
from pvblob.vsp.delivery import DATA_LENGTH

log = logging.getLogger("pvblob.vsp")


class Ruling(NamedTuple):
    """Under which policy scope a request is answered, and that policy's generation before it was asked."""

    scope: int
    policy: Observed


class Hits:
    """What the data plane has answered by itself: (requests, bytes) of each channel, and their sums by policy entry.

    The sums never become less: they outlive channels, and an entry keeps what its guests had when they got another.
    """

    def __init__(self, engine: _native.HostEngine) -> None:
        self._engine = engine
        self._seen: dict[int, tuple[int, int]] = {}
        self.by_entry: dict[str, tuple[int, int]] = {}

    def look(self, channel: int, entry: str) -> tuple[int, int]:
        """Return (requests, bytes) of an open channel; what is new since the last look counts for *entry*."""
        seen = self._seen.get(channel, (0, 0))
        now = self._seen[channel] = self._engine.hits(channel) or seen
        requests, size_bytes = self.by_entry.get(entry, (0, 0))
        self.by_entry[entry] = (requests + now[0] - seen[0], size_bytes + now[1] - seen[1])
        return now

    def close(self, channel: int, entry: str) -> tuple[int, int]:
        """Look for the last time, before the engine closes the channel."""
        last = self.look(channel, entry)
        del self._seen[channel]
        return last


class Offload:
    """The entries of one engine, as the control plane sees them."""

    def __init__(self, engine: _native.HostEngine) -> None:
        self._engine = engine
        self.hits = Hits(engine)
        # By token: what is released, and the generations, which their store keeps only while somebody refers to them.
        self._pinned: dict[int, tuple[FileContent | LentContent, tuple[Observed, ...]]] = {}
        self._tokens = itertools.count(1)
        self._policies: dict[int, _native.Generation] = {}

    def ruling(self, scope: int) -> Ruling:
        """Return what an entry of *scope* depends on; to be asked for before the policy is asked about a request."""
        generation = self._policies.get(scope)
        if generation is None:
            generation = self._policies[scope] = _native.Generation()
        return Ruling(scope, Observed(generation, generation.value))

    def retire_all_but(self, scopes: Container[int | None]) -> None:
        """Let the entries of every other scope go: their policy is no longer in force."""
        for scope in [scope for scope in self._policies if scope not in scopes]:
            generation = self._policies.pop(scope)
            generation.begin()
            generation.end()

    def install(self, ruling: Ruling, request: Request, offer: Offer) -> bool:
        """Install *offer* for the request's target; takes it over. False when it was not taken."""
        token = next(self._tokens)
        self._pinned[token] = offer.content, offer.generations
        entry = replace(
            offer,
            whole=_placing(offer.whole),
            part=_placing(offer.part),
            generations=(*offer.generations, ruling.policy),
        )
        target = (request.scheme, request.authority, request.target)
        try:
            return self._engine.install(ruling.scope, target, entry, token)
        except (OSError, ValueError) as refused:
            # Nothing refers to the token, so nobody will release it.
            self.released(token)
            log.warning("no offload entry for %s: %s", request.target, refused)
            return False

    def released(self, token: int) -> None:
        """The data plane refers to this entry no more."""
        pinned = self._pinned.pop(token, None)
        if pinned is not None:
            pinned[0].release()

    def close(self) -> None:
        """Let go of everything: the engine has stopped."""
        for token in list(self._pinned):
            self.released(token)


def _placing(head: Head) -> Head:
    """Return the head of an answer whose bytes lie in the data buffer (design §3)."""
    return head._replace(lines=[*head.lines, (DATA_LENGTH, Slot.PLACED)])
