"""What is known of cached blobs: which version there is, since when, and how often a write of ours changed it.

Invariant: after a guest's write has been answered no read that begins later is answered from what was known before it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pvblob import _native
from pvblob.blobs.target import Target
from pvblob.upstream.block_files import BLOCK_BYTES, BlockKey, Label
from pvblob.upstream.heads import BlobHead

BLOBS_KNOWN_MAX = 65536


@dataclass(frozen=True, slots=True)
class CacheRule:
    """What is cached: blobs of *container* whose names begin with *prefix*. max_age_s: only of mode "revalidate"."""

    container: str
    prefix: bytes = b""
    mode: Literal["immutable", "revalidate", "off"] = "revalidate"
    max_age_s: float = 0.0

    def fits(self, container: str, blob: bytes) -> bool:
        """Say whether it is about this blob."""
        return self.container in ("*", container) and blob.startswith(self.prefix)


class Version(NamedTuple):
    """One version of one blob, as blocks."""

    label: Label
    head: BlobHead

    @property
    def blocks(self) -> int:
        """How many blocks it has."""
        return -(-self.head.size_bytes // BLOCK_BYTES)

    def key(self, number: int) -> BlockKey:
        """Return the name of the block of this number."""
        return BlockKey(self.label, self.head.etag, number)

    def length(self, number: int) -> int:
        """Return the bytes of the block of this number: BLOCK_BYTES, the last one perhaps fewer."""
        return min(BLOCK_BYTES, self.head.size_bytes - number * BLOCK_BYTES)


@dataclass(slots=True)
class BlobState:
    """What is known of one blob. changes: how often a write of ours began or ended; writing: how many run.

    properties: what HEAD answers of *head* beyond it, once it was asked.  asks_properties: it is being asked.
    """

    head: BlobHead | None = None
    asked_at_s: float = 0.0
    properties: tuple[BlobHead, tuple[tuple[str, str], ...]] | None = None
    asks_properties: bool = False
    changes: int = 0
    writing: int = 0
    generation: _native.Generation = field(default_factory=_native.Generation)
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def begin_change(self) -> None:
        """A write of ours begins: nothing is known any more."""
        self.head = None
        self.changes += 1
        self.writing += 1
        if self.writing == 1:
            self.generation.begin()

    def end_change(self) -> None:
        """It ended, in whatever way."""
        self.head = None
        self.changes += 1
        self.writing -= 1
        if self.writing == 0:
            self.generation.end()

    def expire(self) -> None:
        """End what the data plane answers of it by itself."""
        if not self.writing:
            self.generation.begin()
            self.generation.end()

    def forget(self) -> None:
        """Have the version asked for again."""
        self.begin_change()
        self.end_change()

    def learn(self, head: BlobHead, asked_at_s: float) -> None:
        """Take note of the version there is."""
        if self.head is not None and self.head != head:
            self.expire()
        self.head, self.asked_at_s = head, asked_at_s

    def is_current(self, rule: CacheRule) -> bool:
        """Say whether the version need not be asked for."""
        if self.head is None:
            return False
        return rule.mode == "immutable" or time.monotonic() - self.asked_at_s < rule.max_age_s


Key = tuple[str, bytes]


class BlobStates:
    """The states of the last BLOBS_KNOWN_MAX blobs of one account, by container and name."""

    def __init__(self) -> None:
        self._states: OrderedDict[Key, BlobState] = OrderedDict()

    def of(self, container: str, blob: bytes) -> BlobState:
        """Return the state of a blob, a new one if nothing was known."""
        key = container, blob
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = BlobState()
            while len(self._states) > BLOBS_KNOWN_MAX:
                oldest = next(iter(self._states))
                if self._states[oldest].writing or self._states[oldest].asking.locked():
                    break
                self._states.pop(oldest).forget()
        return state

    def touched_by(self, target: Target) -> list[BlobState]:
        """Return the states that a write to a container, or to the account, may make old: all that it may name."""
        inside = target.container
        return [state for (container, _), state in self._states.items() if inside is None or container == inside]

    def forget(self, concerns: Callable[[str, bytes], bool]) -> None:
        """Know nothing any more of the blobs that *concerns* is true of."""
        for (container, blob), state in self._states.items():
            if concerns(container, blob):
                state.forget()

    def __iter__(self) -> Iterator[Key]:
        return iter(list(self._states))
