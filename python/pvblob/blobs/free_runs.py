"""Which runs of the segment files are free: best fit, neighbours merged.

`extents.Extents` owns one and calls it under its lock. Invariant: runs never overlap or touch. It knows no files.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator


class FreeRuns:
    """Free runs (segment, offset, length in bytes), found by size or by place."""

    def __init__(self) -> None:
        self._by_size: list[tuple[int, int, int]] = []
        self._offsets: dict[int, list[int]] = {}
        self._lengths: dict[tuple[int, int], int] = {}
        self.size_bytes = 0

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Yield (segment, offset, length), smallest first."""
        for length, segment, offset in list(self._by_size):
            yield segment, offset, length

    def add(self, segment: int, offset: int, length: int) -> tuple[int, int]:
        """Add a run, merging it with its neighbours; return the offset and length of the run it became part of."""
        offsets = self._offsets.setdefault(segment, [])
        index = bisect_left(offsets, offset)
        if index < len(offsets) and offsets[index] == offset + length:
            length += self._remove(segment, offsets[index])
        if index > 0:
            before = offsets[index - 1]
            before_length = self._lengths[segment, before]
            if before + before_length > offset:
                raise AssertionError(f"segment {segment}: bytes at {offset} freed twice")
            if before + before_length == offset:
                self._remove(segment, before)
                offset, length = before, before_length + length
        self._insert(segment, offset, length)
        return offset, length

    def take(self, length: int) -> tuple[int, int] | None:
        """Take *length* bytes from the smallest run that has them; return (segment, offset) or None."""
        index = bisect_left(self._by_size, (length, 0, 0))
        if index == len(self._by_size):
            return None
        found, segment, offset = self._by_size[index]
        self._remove(segment, offset)
        if found > length:
            self._insert(segment, offset + length, found - length)
        return segment, offset

    def take_exact(self, segment: int, offset: int, length: int) -> bool:
        """Take this very run if it is still free and has not grown or shrunk."""
        if self._lengths.get((segment, offset)) != length:
            return False
        self._remove(segment, offset)
        return True

    def drop_segment(self, segment: int) -> None:
        """Forget every free run of *segment*: its file is gone."""
        for offset in list(self._offsets.get(segment, ())):
            self._remove(segment, offset)

    def _insert(self, segment: int, offset: int, length: int) -> None:
        insort(self._offsets.setdefault(segment, []), offset)
        insort(self._by_size, (length, segment, offset))
        self._lengths[segment, offset] = length
        self.size_bytes += length

    def _remove(self, segment: int, offset: int) -> int:
        length = self._lengths.pop((segment, offset))
        offsets = self._offsets[segment]
        del offsets[bisect_left(offsets, offset)]
        del self._by_size[bisect_left(self._by_size, (length, segment, offset))]
        self.size_bytes -= length
        return length
