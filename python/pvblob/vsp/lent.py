"""What one guest lends: its regions as the data plane knows them, within its bounds, until their last user is gone.

A region that is taken back can be named no more, but requests that named it before still run. It counts as lent until
they end, and only then is the guest told that the host has let go (W-12, H16): else a guest could pin, take back and
lend again without end. Each region costs the host a descriptor, so all guests share a number of them.
"""

from __future__ import annotations

from collections.abc import Callable

from pvblob import _native
from pvblob.vmbus import messages as m
from pvblob.vsp.budget import Shares


class LentRegions:
    """The regions of one guest. shares: of the machine's descriptors, by the guest's identity."""

    def __init__(self, identity: str, bytes_max: int, shares: Shares[str]) -> None:
        self._identity = identity
        self.bytes_max = bytes_max
        self._shares = shares
        self._lent: dict[int, int] = {}  # guest address → length
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
        if not self._shares.may_take(self._identity, 0):
            raise ValueError("this guest's share of the host's descriptors is spent")
        self._map(message, descriptor)
        self._shares.take(self._identity, 0)
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

    def clear(self) -> None:
        """Forget all regions: the guest has gone or begun anew, and what still runs for it is being cancelled."""
        self.memory.clear()
        self._leaving.clear()
        for gpa in list(self._lent):
            self._forget(gpa)

    def _forget(self, gpa: int) -> None:
        del self._lent[gpa]
        self._shares.give(self._identity, 0)
