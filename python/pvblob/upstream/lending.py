"""Blocks that the data plane reads by itself: each version's are lent as they come, and taken back one by one.

Whoever offers a version to the data plane borrows its `Lent`; all offers of the version share one. A block is lent when
it has been fetched, or found right; its file is open here, once, until it is taken back or the last borrower is gone.
Its place is empty before its file may be deleted, and the bytes stay on the disk until the last read of them is over.
"""

from __future__ import annotations

import resource

from pvblob import _native
from pvblob.upstream.block_files import BLOCK_BYTES, BlockKey, Label

# Guests need descriptors too.
_SHARE_OF_DESCRIPTORS = 16
_BLOCKS_MAX = 1 << 16
# One read may be the rest of what Python began.
_USES_SPARED_AT = 2

VersionKey = tuple[Label, str]


class Lent:
    """The blocks of one version that are lent. parts: their places in the data plane."""

    def __init__(self, lending: Lending, version: VersionKey, size_bytes: int) -> None:
        self.parts = _native.Parts(size_bytes, BLOCK_BYTES)
        self.names: set[str] = set()
        self.version = version
        self.borrowers = 0
        self._lending = lending

    def let_go(self) -> None:
        """Count one borrower less; to be called once by each."""
        self.borrowers -= 1
        if self.borrowers == 0:
            self._lending.end(self)


class Lending:
    """What is lent of one store, by version and by block. blocks_max: how many blocks at a time."""

    def __init__(self) -> None:
        self._versions: dict[VersionKey, Lent] = {}
        self._blocks: dict[str, tuple[Lent, int]] = {}
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        is_bounded = descriptors != resource.RLIM_INFINITY
        self.blocks_max = min(descriptors // _SHARE_OF_DESCRIPTORS, _BLOCKS_MAX) if is_bounded else _BLOCKS_MAX

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, name: str) -> bool:
        return name in self._blocks

    def names(self) -> list[str]:
        """Return the names of the blocks that are lent."""
        return list(self._blocks)

    def borrow(self, version: VersionKey, size_bytes: int) -> tuple[Lent, bool]:
        """Return what is lent of *version*, counted for one more borrower, and whether that is the first one."""
        lent = self._versions.get(version)
        is_first = lent is None
        if lent is None:
            lent = self._versions[version] = Lent(self, version, size_bytes)
        lent.borrowers += 1
        return lent, is_first

    def is_lent(self, version: VersionKey) -> bool:
        """Say whether somebody reads blocks of *version* by itself."""
        return version in self._versions

    def wants(self, key: BlockKey) -> bool:
        """Say whether somebody reads this version and has not got this block."""
        return (key.label, key.etag) in self._versions and key.name not in self._blocks

    def lend(self, key: BlockKey, fd: int, *, untold: bool = False) -> None:
        """Lend the block that *fd*, the caller's to close, has open, if it is wanted and there is room.

        untold: nobody has asked for it yet, and whoever is the first shall be seen. Raises OSError.
        """
        if not self.wants(key) or len(self._blocks) >= self.blocks_max:
            return
        lent = self._versions[key.label, key.etag]
        lent.parts.put(key.number, fd, untold=untold)
        lent.names.add(key.name)
        self._blocks[key.name] = lent, key.number

    def take_back(self, name: str) -> None:
        """Have nobody read this block any more."""
        found = self._blocks.pop(name, None)
        if found is not None:
            lent, number = found
            lent.names.discard(name)
            lent.parts.remove(number)

    def is_used(self, name: str) -> bool:
        """Say whether the data plane's guests have used the block since the last question, beyond one pass of one."""
        found = self._blocks.get(name)
        return found is not None and found[0].parts.take_uses(found[1]) >= _USES_SPARED_AT

    def end(self, lent: Lent) -> None:
        """Take everything of *lent* back: nobody has borrowed it any more."""
        for name in list(lent.names):
            self.take_back(name)
        if self._versions.get(lent.version) is lent:
            del self._versions[lent.version]
