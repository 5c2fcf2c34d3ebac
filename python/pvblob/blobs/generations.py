"""The generations that offload entries of this store are checked against: one per blob and per container (design §7).

A reader observes the generations of what it is about to read *before* it reads the catalog. The committer moves those
of what a batch touches: `begin` before COMMIT, so that no entry answers once the commit can be seen by anyone, `end`
after it, whether it succeeded or not. They are kept only while somebody refers to them (an offer, an entry in the data
plane), so most mutations find none and pay a look-up. Both threads take one lock, which nobody holds while waiting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from weakref import WeakValueDictionary

from pvblob import _native
from pvblob.http import Observed

# (container id, blob name), or (container id, None) for the container itself: ids are never used again.
Key = tuple[int, bytes | None]


class Generations:
    """The generations of one open store."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._live: WeakValueDictionary[Key, _native.Generation] = WeakValueDictionary()
        self._moving: set[Key] = set()

    def observe(self, container_id: int, name: bytes) -> tuple[Observed, ...]:
        """Return the generations that a read of this blob depends on, with their values now; odd: it is changing."""
        with self._lock:
            found = [self._get(key) for key in ((container_id, name), (container_id, None))]
        return tuple(Observed(generation, generation.value) for generation in found)

    def _get(self, key: Key) -> _native.Generation:
        generation = self._live.get(key)
        if generation is None:
            generation = self._live[key] = _native.Generation()
            # A commit may be under way that did not find it: this one begins odd and ends with that commit.
            if key in self._moving:
                generation.begin()
        return generation

    @contextmanager
    def moving(self, keys: Iterable[Key]) -> Iterator[None]:
        """Commit inside: the generations of *keys* are odd meanwhile. One thread at a time, the committer's."""
        with self._lock:
            self._moving.update(keys)
            for generation in self._found():
                generation.begin()
        try:
            yield
        finally:
            # One that is made after this is at rest, and whoever observes it reads the catalog after the commit.
            with self._lock:
                moved = self._found()
                self._moving.clear()
            for generation in moved:
                generation.end()

    def _found(self) -> list[_native.Generation]:
        live = self._live
        return [generation for key in self._moving if (generation := live.get(key)) is not None]

    def __len__(self) -> int:
        return len(self._live)
