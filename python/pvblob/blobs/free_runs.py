"""Which runs of the segment files are free: best fit, neighbours merged.

`extents.Extents` owns one and calls it under its lock. Invariant: runs never overlap or touch. It knows no files.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator


class FreeRuns:
    """Free runs (segment, offset, length in bytes), found by size or by place."""

    def __init__(self) -> None:
        self._lengths: dict[tuple[int, int], int] = {}  # (segment, offset) -> length
        self._offsets: dict[int, list[int]] = {}  # segment -> offsets, ascending
        self._sizes: list[int] = []  # the lengths that occur, ascending
        self._places: dict[int, dict[tuple[int, int], None]] = {}  # length -> the runs that have it
        self.size_bytes = 0

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Yield (segment, offset, length), smallest first."""
        for length in list(self._sizes):
            for segment, offset in list(self._places[length]):
                yield segment, offset, length

    def add(self, segment: int, offset: int, length: int) -> tuple[int, int]:
        """Add a run, merging it with its neighbours; return the offset and length of the run it became part of."""
        offsets = self._offsets.setdefault(segment, [])
        index = bisect_left(offsets, offset)
        end = offset + length
        before = offsets[index - 1] if index > 0 else None
        before_end = 0 if before is None else before + self._lengths[segment, before]
        if before_end > offset or (index < len(offsets) and offsets[index] < end):
            raise AssertionError(f"segment {segment}: bytes at {offset} freed twice")
        if index < len(offsets) and offsets[index] == end:
            length += self._remove(segment, end)
        if before is not None and before_end == offset:
            length += self._remove(segment, before)
            offset = before
        self._insert(segment, offset, length)
        return offset, length

    def take(self, length: int) -> tuple[int, int] | None:
        """Take *length* bytes from a run of the least size that has them; return (segment, offset) or None."""
        index = bisect_left(self._sizes, length)
        if index == len(self._sizes):
            return None
        found = self._sizes[index]
        # The youngest: its pages are the likeliest to be in memory. popitem is the one removal that stays O(1).
        (segment, offset), _ = self._places[found].popitem()
        self._forget(segment, offset, found)
        if found > length:
            self._insert(segment, offset + length, found - length)
        return segment, offset

    def take_exact(self, segment: int, offset: int, length: int) -> bool:
        """Take this very run if it is still free and has not grown or shrunk."""
        if self._lengths.get((segment, offset)) != length:
            return False
        self._remove(segment, offset)
        return True

    def _insert(self, segment: int, offset: int, length: int) -> None:
        insort(self._offsets.setdefault(segment, []), offset)
        places = self._places.get(length)
        if places is None:
            places = self._places[length] = {}
            insort(self._sizes, length)
        places[segment, offset] = None
        self._lengths[segment, offset] = length
        self.size_bytes += length

    def _remove(self, segment: int, offset: int) -> int:
        length = self._lengths[segment, offset]
        del self._places[length][segment, offset]
        self._forget(segment, offset, length)
        return length

    def _forget(self, segment: int, offset: int, length: int) -> None:
        """Drop a run, already gone from its size's places, from every other index."""
        del self._lengths[segment, offset]
        offsets = self._offsets[segment]
        del offsets[bisect_left(offsets, offset)]
        if not self._places[length]:
            del self._places[length]
            del self._sizes[bisect_left(self._sizes, length)]
        self.size_bytes -= length
