"""What one guest lends: its regions as the data plane knows them, within its bounds, until their last user is gone.

A region that is taken back can be named no more, but requests that named it before still run. It counts as lent until
they end, and only then is the guest told that the host has let go (W-12, H16): else a guest could pin, take back and
lend again without end. Each region costs the host a descriptor and a mapping, so all guests share a number of both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from pvblob import _native
from pvblob.vmbus import messages as m
from pvblob.vsp.budget import Shares

PAGE_BYTES = 4096
MAPPINGS_MAX_DEFAULT = 65530


def mappings_max() -> int:
    """Return how many mappings the kernel lets this process have."""
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return MAPPINGS_MAX_DEFAULT


def machine_shares(descriptors: int) -> Shares[str]:
    """Return what all guests together may cost: half of *descriptors*, and as "bytes" half of the mappings there are.

    A region costs one of each; the rings of a channel a mapping for each run of pages, and count as a descriptor.
    """
    return Shares(descriptors // 2, mappings_max() // 2)


class LentRegions:
    """The regions of one guest. shares: of what they cost the host, by the guest's identity; see `machine_shares`."""

    def __init__(self, identity: str, bytes_max: int, shares: Shares[str]) -> None:
        self._identity = identity
        self.bytes_max = bytes_max
        self._shares = shares
        self._lent: dict[int, int] = {}  # guest address → length
        self._rings: dict[int, int] = {}  # a channel's key → mappings of its rings
        self._leaving: dict[int, _native.LeavingRegion] = {}
        self.memory = _native.GuestMemory()

    @property
    def leaving(self) -> bool:
        """Whether the guest waits for a region to be let go."""
        return bool(self._leaving)

    @property
    def lent_bytes(self) -> int:
        """Bytes lent, those that are taken back and still in use included."""
        return sum(self._lent.values())

    def add(self, message: m.MemoryRegion, descriptor: int) -> None:
        """Map a region. Raises ValueError or OSError saying why it is refused."""
        if self.lent_bytes + message.length > self.bytes_max:
            raise ValueError(f"more than {self.bytes_max} bytes lent")
        if not self._shares.may_take(self._identity, 1):
            raise ValueError("this guest's share of the host's descriptors and mappings is spent")
        self._map(message, descriptor)
        self._shares.take(self._identity, 1)
        self._lent[message.gpa] = message.length

    def _map(self, message: m.MemoryRegion, descriptor: int) -> None:
        """Have the data plane map it; what is not sealed holds data buffers only (design rule 1)."""
        if not message.sealed:
            self.memory.add_unsealed_region(message.gpa, message.length, descriptor, message.file_page)
        elif message.file_page:
            raise ValueError(f"sealed memory is lent from its beginning, not from page {message.file_page}")
        else:
            self.memory.add_region(message.gpa, message.length, descriptor)

    def remove(self, gpa: int) -> None:
        """Take a region out of service; `let_go` says when it is gone."""
        region = self.memory.remove_region(gpa)
        if region is not None:
            self._leaving[gpa] = region

    def remove_all(self) -> None:
        """Take every region out of service."""
        for gpa in list(self._lent):
            self.remove(gpa)

    def let_go(self, is_ring: Callable[[int, int], bool]) -> list[int]:
        """Return the addresses of those taken back whose last user is gone since the last call.

        is_ring: whether the rings of an open channel lie in so many bytes from an address.
        """
        gone = [gpa for gpa, one in self._leaving.items() if not one.in_use and not is_ring(gpa, one.length)]
        for gpa in gone:
            del self._leaving[gpa]
            self._forget(gpa)
        return gone

    def clear(self) -> _native.ClearedMemory:
        """Forget all regions: the guest has gone or begun anew, and what still runs for it is being cancelled.

        What is returned is to be unmapped where nobody waits for it.
        """
        cleared = self.memory.clear()
        self._leaving.clear()
        for gpa in list(self._lent):
            self._forget(gpa)
        return cleared

    def _forget(self, gpa: int) -> None:
        del self._lent[gpa]
        self._shares.give(self._identity, 1)

    def take_rings(self, key: int, pfns: Sequence[int]) -> None:
        """Count the mappings of a channel's rings, `give_rings` ends it. Raises ValueError when they are too many."""
        starts = {gpa // PAGE_BYTES for gpa in self._lent}
        runs = 1 + sum(1 for one, other in pairwise(pfns) if other != one + 1 or other in starts)
        if not self._shares.may_take(self._identity, runs):
            raise ValueError(f"rings of {runs} runs of pages: this guest's share of the host's mappings is spent")
        self._shares.take(self._identity, runs)
        self._rings[key] = runs

    def give_rings(self, key: int) -> None:
        """The rings of a channel are mapped no longer."""
        runs = self._rings.pop(key, None)
        if runs is not None:
            self._shares.give(self._identity, runs)
