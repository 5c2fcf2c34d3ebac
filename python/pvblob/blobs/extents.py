"""Where blob bytes lie: segment files, who may write which run, and when a freed run may be used again.

A writer allocates a run, fills it (`http.Body.store`), and hands it to the committer, which calls `sync` before the
catalog's commit and then `adopt` or `give_back`. A reader pins the blocks it answers with (`content`).
Invariants: a run has one owner (a writer, the catalog, or the free list); a freed run is reused or punched only when
no pin is left on it. Pins count references per block rather than epochs: one slow download then holds back its own
bytes only. That is sound because the service reads the catalog and pins in one step of the event loop, and frees are
applied on that loop after the commit, so no reader can hold a layout that it has not pinned yet.
Reuse comes first: bytes the file system has allocated already cost half of fresh ones. It knows no blob names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from pvblob import _native
from pvblob.blobs.free_runs import FreeRuns
from pvblob.blobs.layout import Block, Slice
from pvblob.http import Extent, FileContent

SEGMENT_BYTES = 256 << 20
ALIGNMENT_BYTES = 512
OPEN_FILES_MAX = 512

Run = tuple[int, int, int]  # segment, offset, length in bytes


class Allocation(NamedTuple):
    """A run lent to one writer. generation: how often this segment had failed to reach the disk at that time."""

    segment: int
    offset: int
    length: int
    fd: int
    generation: int


class WriteLost(OSError):
    """A segment failed to reach the disk after this run was written: its bytes cannot be trusted."""


@dataclass(slots=True)
class Segment:
    """One segment file. tail: where never-used space begins; users: pins and writers that need the descriptor."""

    path: Path
    size_limit: int
    tail: int = 0
    fd: int = -1
    users: int = 0
    generation: int = 0
    named: bool = True  # False until the directory entry was synced


def aligned(length: int) -> int:
    """Return the bytes a body of *length* takes up in a segment."""
    return -(-length // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def segment_path(directory: Path, number: int) -> Path:
    """Return the path of segment *number*."""
    return directory / f"{number:08d}.seg"


@dataclass(slots=True)
class _Release:
    """What `FileContent.release` calls: unpins once, however often it is called."""

    extents: Extents
    keys: tuple[tuple[int, int], ...]

    def __call__(self) -> None:
        keys, self.keys = self.keys, ()
        if keys:
            self.extents.unpin(keys)


@dataclass(slots=True)
class Extents:
    """The segment files under *directory*. Every method may be called from any thread; none blocks on the disk but
    `sync`, `punch_idle` and the opening of files.

    durable: False skips every sync (durability "none").  segment_bytes: the nominal size of a segment.
    """

    directory: Path
    durable: bool = True
    segment_bytes: int = SEGMENT_BYTES
    free_runs: FreeRuns = field(default_factory=FreeRuns)
    segments: dict[int, Segment] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _pins: dict[tuple[int, int], int] = field(default_factory=dict)
    _limbo: dict[tuple[int, int], int] = field(default_factory=dict)
    _open_count: int = 0
    _closed: bool = False

    def allocate(self, length: int) -> Allocation:
        """Lend one contiguous run of *length* > 0 bytes to the caller, who owes `adopt` or `give_back`.

        Raises OSError when a new segment cannot be created.
        """
        size = aligned(length)
        with self._lock:
            place = self.free_runs.take(size) or self._fresh(size)
            number, offset = place
            segment = self.segments[number]
            fd = self._use(segment)
            return Allocation(number, offset, length, fd, segment.generation)

    def adopt(self, written: Iterable[Allocation]) -> None:
        """The catalog refers to these runs now: the writers are done with them."""
        with self._lock:
            for allocation in written:
                self._unuse(self.segments[allocation.segment])

    def give_back(self, written: Iterable[Allocation]) -> None:
        """Nothing refers to these runs: they are free at once."""
        with self._lock:
            for allocation in written:
                self._unuse(self.segments[allocation.segment])
                self.free_runs.add(allocation.segment, allocation.offset, aligned(allocation.length))

    def free(self, runs: Iterable[Run]) -> None:
        """The catalog no longer refers to these runs: free now, or when the last pin goes."""
        with self._lock:
            for segment, offset, length in runs:
                if (segment, offset) in self._pins:
                    self._limbo[segment, offset] = length
                else:
                    self.free_runs.add(segment, offset, aligned(length))

    def content(self, parts: Sequence[Slice]) -> FileContent:
        """Pin the blocks of *parts* and return them as content; its release unpins them."""
        extents: list[Extent] = []
        keys: list[tuple[int, int]] = []
        pins = self._pins
        try:
            with self._lock:
                for block, skip, length in parts:
                    key = (block.segment, block.offset)
                    fd = self._use(self.segments[block.segment])
                    pins[key] = pins.get(key, 0) + 1
                    keys.append(key)
                    extents.append(Extent(fd, block.offset + skip, length))
        except OSError:  # a segment could not be opened: too many files
            self.unpin(keys)
            raise
        return FileContent(tuple(extents), _Release(self, tuple(keys)))

    def unpin(self, keys: Iterable[tuple[int, int]]) -> None:
        """Drop one reference from each block at (segment, offset)."""
        with self._lock:
            for key in keys:
                left = self._pins[key] - 1
                if left:
                    self._pins[key] = left
                else:
                    del self._pins[key]
                    freed = self._limbo.pop(key, None)
                    if freed is not None and not self._closed:
                        self.free_runs.add(key[0], key[1], aligned(freed))
                self._unuse(self.segments[key[0]])

    def check(self, written: Iterable[Allocation]) -> None:
        """Raise WriteLost when a segment failed to sync since one of these runs was lent: the kernel may have dropped
        its pages, and a later sync would report success."""
        for allocation in written:
            if self.segments[allocation.segment].generation != allocation.generation:
                raise WriteLost(f"segment {allocation.segment} failed to reach the disk")

    def sync(self, written: Iterable[Allocation]) -> None:
        """Make these runs durable: each segment once, and the directory when one of them is new. Blocks."""
        if not self.durable:
            return
        unnamed: list[Segment] = []
        for number in {allocation.segment for allocation in written}:
            segment = self.segments[number]
            try:
                os.fdatasync(segment.fd)
            except OSError:
                segment.generation += 1
                raise
            if not segment.named:
                unnamed.append(segment)
        if unnamed:
            sync_directory(self.directory)
            for segment in unnamed:
                segment.named = True

    def punch_idle(self, size_min: int) -> int:
        """Give the file system back free runs of at least *size_min* bytes; return how many bytes. Blocks."""
        punched = 0
        for number, offset, length in self._take_large(size_min):
            segment = self.segments[number]
            try:
                _native.punch_hole(segment.fd, offset, length)
                punched += length
            finally:
                with self._lock:
                    self._unuse(segment)
                    self._return_punched(number, offset, length)
        return punched

    @property
    def crowded(self) -> bool:
        """Whether so many files are open that nothing should be pinned without need."""
        return self._open_count >= OPEN_FILES_MAX

    def close(self) -> None:
        """Close every file that nobody reads any more; a pinned one closes with its last release."""
        with self._lock:
            self._closed = True
            for segment in self.segments.values():
                if segment.users == 0:
                    self._close_file(segment)

    def usage(self) -> tuple[int, int]:
        """Return (bytes within the segments' tails, free bytes among them)."""
        with self._lock:
            return sum(segment.tail for segment in self.segments.values()), self.free_runs.size_bytes

    def _take_large(self, size_min: int) -> Iterator[Run]:
        """Own one large free run after the other, so that no writer can get it while it is punched."""
        with self._lock:
            candidates = [run for run in self.free_runs if run[2] >= size_min]
        for number, offset, length in candidates:
            with self._lock:
                if not self.free_runs.take_exact(number, offset, length):
                    continue
                self._use(self.segments[number])
            yield number, offset, length

    def _return_punched(self, number: int, offset: int, length: int) -> None:
        """A punched run at the tail becomes fresh space again; elsewhere it is a free run without pages."""
        segment = self.segments[number]
        if offset + length == segment.tail:
            segment.tail = offset
        else:
            self.free_runs.add(number, offset, length)

    def _fresh(self, size: int) -> tuple[int, int]:
        for number in reversed(self.segments):
            segment = self.segments[number]
            if segment.size_limit - segment.tail >= size:
                offset = segment.tail
                segment.tail += size
                return number, offset
        number = max(self.segments, default=0) + 1
        segment = Segment(segment_path(self.directory, number), max(self.segment_bytes, size), size, named=False)
        self._open_file(segment, os.O_CREAT | os.O_EXCL)
        self.segments[number] = segment
        return number, 0

    def _use(self, segment: Segment) -> int:
        if segment.fd < 0:
            self._open_file(segment)
        segment.users += 1
        return segment.fd

    def _unuse(self, segment: Segment) -> None:
        segment.users -= 1
        if self._closed and segment.users == 0:
            self._close_file(segment)

    def _open_file(self, segment: Segment, flags: int = 0) -> None:
        if self._open_count >= OPEN_FILES_MAX:
            idle = next((other for other in self.segments.values() if other.fd >= 0 and other.users == 0), None)
            if idle is not None:
                self._close_file(idle)
        segment.fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        self._open_count += 1

    def _close_file(self, segment: Segment) -> None:
        if segment.fd >= 0:
            os.close(segment.fd)
            segment.fd = -1
            self._open_count -= 1


def sync_directory(directory: Path) -> None:
    """Make the directory's entries durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def block_runs(blocks: Iterable[Block]) -> set[Run]:
    """Return the distinct runs of *blocks* (a block list may name a block twice)."""
    return {(block.segment, block.offset, block.length) for block in blocks}
