"""Which block goes when room is needed: S3-FIFO, with a quota for each owner. Pure logic: names and sizes, no file.

A new block waits in a small queue; what is asked for again there moves to the main queue, the rest leaves soon, so one
pass over much data does not push out what is used often. A block that comes back shortly after leaving goes to the
main queue at once. Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.

Every block is charged to the owner it was taken in for. The quota is what an owner keeps whatever the others do: while
there is room anybody may have more, and when there is none those above their quota give way first, whoever adds before
the others, each in the S3-FIFO order of its own blocks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

_SMALL_SHARE = 10  # the small queue may hold a tenth
_USES_MAX = 3
NOBODY = ""


@dataclass(slots=True)
class _Entry:
    size_bytes: int
    owner: str
    uses: int = 0
    main: bool = False


@dataclass(slots=True)
class _Queues:
    """The two queues of everybody's blocks, or of one owner's."""

    small: OrderedDict[str, None] = field(default_factory=OrderedDict)
    main: OrderedDict[str, None] = field(default_factory=OrderedDict)
    small_bytes: int = 0
    size_bytes: int = 0

    def push(self, name: str, entry: _Entry) -> None:
        (self.main if entry.main else self.small)[name] = None
        self.size_bytes += entry.size_bytes
        self.small_bytes += 0 if entry.main else entry.size_bytes

    def pull(self, name: str, entry: _Entry) -> None:
        del (self.main if entry.main else self.small)[name]
        self.size_bytes -= entry.size_bytes
        self.small_bytes -= 0 if entry.main else entry.size_bytes


class S3Fifo:
    """Names of at most *bytes_max* bytes together.

    owner_bytes_max: the quota of each owner; None: there is none. NOBODY is never above it.
    spare: asked about a name that would go unused; True: it was used in a way that `use` was not told of, so it stays
    for one more round.
    """

    def __init__(
        self, bytes_max: int, owner_bytes_max: int | None = None, spare: Callable[[str], bool] | None = None
    ) -> None:
        self.bytes_max = bytes_max
        self.owner_bytes_max = owner_bytes_max
        self._spare = spare or (lambda _name: False)
        self._entries: dict[str, _Entry] = {}
        self._all = _Queues()
        self._of: dict[str, _Queues] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Bytes of all names."""
        return self._all.size_bytes

    def size_of(self, name: str) -> int:
        """Return the bytes of *name*, 0 when it is not here."""
        entry = self._entries.get(name)
        return 0 if entry is None else entry.size_bytes

    def owners(self) -> dict[str, tuple[int, int]]:
        """Return how many names, of how many bytes, are charged to each owner."""
        return {
            owner: (len(queues.small) + len(queues.main), queues.size_bytes)
            for owner, queues in self._of.items()
            if queues.size_bytes
        }

    def use(self, name: str, owner: str = NOBODY) -> None:
        """Note that *owner* asked for *name*; what is charged to nobody is charged to it from now on."""
        entry = self._entries.get(name)
        if entry is None:
            return
        entry.uses = min(_USES_MAX, entry.uses + 1)
        if entry.owner == NOBODY != owner:
            self._queues(NOBODY).pull(name, entry)
            entry.owner = owner
            self._queues(owner).push(name, entry)

    def add(self, name: str, size_bytes: int, owner: str = NOBODY) -> list[str]:
        """Take *name* in; return the names that go for it (it may be among them when it is too large)."""
        if name in self._entries:
            return []
        entry = self._entries[name] = _Entry(size_bytes, owner, main=name in self._gone)
        self._gone.pop(name, None)
        self._push(name, entry)
        going = []
        while self.size_bytes > self.bytes_max:
            going.append(self._evict(owner))
        return going

    def remove(self, name: str) -> None:
        """Forget *name*."""
        entry = self._entries.pop(name, None)
        if entry is not None:
            self._pull(name, entry)

    def _queues(self, owner: str) -> _Queues:
        return self._of.setdefault(owner, _Queues())

    def _push(self, name: str, entry: _Entry) -> None:
        self._all.push(name, entry)
        self._queues(entry.owner).push(name, entry)

    def _pull(self, name: str, entry: _Entry) -> None:
        self._all.pull(name, entry)
        own = self._of[entry.owner]
        own.pull(name, entry)
        if not own.size_bytes:
            del self._of[entry.owner]

    def _who_gives(self, adding: str) -> str | None:
        """Return whose block goes; None: anybody's."""
        quota = self.owner_bytes_max
        if quota is None:
            return None
        above = {who: own.size_bytes for who, own in self._of.items() if own.size_bytes > quota and who != NOBODY}
        if adding in above:
            return adding
        return max(above, key=above.__getitem__, default=None)

    def _evict(self, adding: str) -> str:
        owner = self._who_gives(adding)
        queues = self._all if owner is None else self._of[owner]
        bound = self.bytes_max if owner is None else queues.size_bytes
        while True:
            small = bool(queues.small) and (queues.small_bytes * _SMALL_SHARE >= bound or not queues.main)
            name = next(iter(queues.small if small else queues.main))
            entry = self._entries[name]
            if entry.uses or self._spare(name):
                self._pull(name, entry)
                entry.uses = 0 if small else max(0, entry.uses - 1)
                entry.main = True
                self._push(name, entry)
                queues = self._all if owner is None else self._of[owner]  # it was empty for a moment
                continue
            if small:
                self._gone[name] = None
                while len(self._gone) > max(16, len(self._all.main)):
                    self._gone.popitem(last=False)
            self.remove(name)
            return name
