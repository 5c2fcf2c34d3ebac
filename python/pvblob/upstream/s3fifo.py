"""Which block goes when room is needed: S3-FIFO. Pure logic: names and sizes, no file.

A new block waits in a small queue; what is asked for again there moves to the main queue, the rest leaves soon, so one
pass over much data does not push out what is used often. A block that comes back shortly after leaving goes to the
main queue at once. Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.
"""

from __future__ import annotations

from collections import OrderedDict

_SMALL_SHARE = 10  # the small queue may hold a tenth
_USES_MAX = 3


class S3Fifo:
    """Names of at most *bytes_max* bytes together."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._small: OrderedDict[str, int] = OrderedDict()
        self._main: OrderedDict[str, int] = OrderedDict()
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._uses: dict[str, int] = {}
        self._small_bytes = 0
        self.size_bytes = 0

    def __contains__(self, name: str) -> bool:
        return name in self._uses

    def __len__(self) -> int:
        return len(self._uses)

    def use(self, name: str) -> None:
        """Note that *name* was asked for."""
        if name in self._uses:
            self._uses[name] = min(_USES_MAX, self._uses[name] + 1)

    def add(self, name: str, size_bytes: int) -> list[str]:
        """Take *name* in; return the names that go for it (it may be among them when it is too large)."""
        if name in self._uses:
            return []
        self._uses[name] = 0
        self.size_bytes += size_bytes
        if name in self._gone:
            del self._gone[name]
            self._main[name] = size_bytes
        else:
            self._small[name] = size_bytes
            self._small_bytes += size_bytes
        going = []
        while self.size_bytes > self._bytes_max:
            going.append(self._evict())
        return going

    def remove(self, name: str) -> None:
        """Forget *name*."""
        if self._uses.pop(name, None) is None:
            return
        size_bytes = self._main.pop(name, None)
        if size_bytes is None:
            size_bytes = self._small.pop(name)
            self._small_bytes -= size_bytes
        self.size_bytes -= size_bytes

    def _evict(self) -> str:
        while True:
            if self._small and (self._small_bytes * _SMALL_SHARE >= self._bytes_max or not self._main):
                name, size_bytes = self._small.popitem(last=False)
                self._small_bytes -= size_bytes
                if self._uses[name]:
                    self._uses[name] = 0
                    self._main[name] = size_bytes
                    continue
                self._gone[name] = None
                while len(self._gone) > max(16, len(self._main)):
                    self._gone.popitem(last=False)
            else:
                name, size_bytes = self._main.popitem(last=False)
                if self._uses[name]:
                    self._uses[name] -= 1
                    self._main[name] = size_bytes
                    continue
            del self._uses[name]
            self.size_bytes -= size_bytes
            return name
