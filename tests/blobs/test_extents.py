"""Runs, pins and reuse. Source: design §7, "Extents are reference-counted"."""

from __future__ import annotations

import itertools
import os
import random

import pytest

from pvblob.blobs.extents import ALIGNMENT_BYTES, Extents, WriteLost
from pvblob.blobs.free_runs import FreeRuns
from pvblob.blobs.layout import Block, Slice, ends, pack, slices, unpack


@pytest.fixture
def extents(tmp_path):
    made = Extents(tmp_path, segment_bytes=1 << 20)
    yield made
    made.close()


def whole(allocation) -> Slice:
    return Slice(Block(allocation.segment, allocation.offset, allocation.length, 0), 0, allocation.length)


def run(allocation) -> tuple[int, int, int]:
    return allocation.segment, allocation.offset, allocation.length


@pytest.mark.parametrize("seed", [11, 12])
def test_free_runs_never_overlap_and_merge_with_their_neighbours(seed):
    chance = random.Random(seed)
    runs, taken = FreeRuns(), []
    runs.add(1, 0, 1 << 16)
    for _ in range(5000):
        if taken and chance.random() < 0.5:
            runs.add(1, *taken.pop(chance.randrange(len(taken))))
        elif (place := runs.take(length := chance.randrange(1, 500))) is not None:
            taken.append((place[1], length))
        spans = sorted([(offset, length) for _, offset, length in runs] + taken)
        assert sum(length for _, length in spans) == 1 << 16
        assert all(a + la <= b for (a, la), (b, _) in itertools.pairwise(spans))
    for place in taken:
        runs.add(1, *place)
    assert list(runs) == [(1, 0, 1 << 16)]


def test_freeing_a_run_twice_is_an_error_of_ours():
    runs = FreeRuns()
    runs.add(1, 0, 1024)
    with pytest.raises(AssertionError):
        runs.add(1, 512, 512)


def test_freed_space_is_used_before_fresh_space(extents):
    first = extents.allocate(4096)
    extents.adopt([first])
    second = extents.allocate(4096)
    extents.adopt([second])
    extents.free([run(first)])
    assert extents.allocate(1000)[:2] == first[:2]
    assert extents.allocate(3000)[:2] == (first.segment, 1024)
    assert extents.allocate(10)[:2] == (second.segment, 8192)


def test_a_body_larger_than_a_segment_gets_a_segment_of_its_own(extents):
    small = extents.allocate(100)
    large = extents.allocate(5 << 20)
    after = extents.allocate(100)
    assert (large.offset, large.segment != small.segment) == (0, True)
    assert (after.segment, after.offset) == (small.segment, ALIGNMENT_BYTES)


def test_a_pinned_run_is_not_reused_until_its_last_release(extents):
    old = extents.allocate(4096)
    os.pwrite(old.fd, b"o" * 4096, old.offset)
    extents.adopt([old])
    one, two = extents.content([whole(old)]), extents.content([whole(old)])
    extents.free([run(old)])
    one.release()
    one.release()  # a second call must not take the other reader's reference
    new = extents.allocate(4096)
    assert new[:2] != old[:2]
    assert os.pread(two.extents[0].fd, 4096, two.extents[0].offset) == b"o" * 4096
    two.release()
    assert extents.allocate(4096)[:2] == old[:2]


def test_a_run_that_was_never_committed_is_free_at_once(extents):
    lost = extents.allocate(4096)
    extents.give_back([lost])
    assert extents.allocate(4096)[:2] == lost[:2]


def test_pinned_content_outlives_the_store(extents):
    allocation = extents.allocate(10)
    os.pwrite(allocation.fd, b"0123456789", allocation.offset)
    extents.adopt([allocation])
    content = extents.content([whole(allocation)])
    extents.close()
    assert os.pread(content.extents[0].fd, 10, content.extents[0].offset) == b"0123456789"
    content.release()
    with pytest.raises(OSError):
        os.fstat(content.extents[0].fd)


def test_a_failed_sync_condemns_every_run_lent_before_it(extents, monkeypatch):
    early = extents.allocate(100)
    failing = extents.allocate(100)

    def refuse(fd: int) -> None:
        raise OSError(5, "injected: the disk is failing")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", refuse)
        with pytest.raises(OSError):
            extents.sync([failing])
    with pytest.raises(WriteLost):
        extents.check([early])
    extents.check([extents.allocate(100)])


def test_each_dirty_segment_is_synced_once_and_a_new_one_by_name_too(extents, monkeypatch):
    written = [extents.allocate(1000) for _ in range(10)]
    synced, named = [], []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    monkeypatch.setattr(os, "fsync", named.append)
    extents.sync(written)
    extents.sync(written)
    assert synced == [written[0].fd] * 2
    assert len(named) == 1


def test_large_idle_runs_go_back_to_the_file_system(extents):
    first, last = extents.allocate(512 << 10), extents.allocate(4096)
    for allocation in (first, last):
        os.pwrite(allocation.fd, b"x" * allocation.length, allocation.offset)
    extents.adopt([first, last])
    os.fsync(first.fd)
    before = os.fstat(first.fd).st_blocks
    extents.free([run(first)])
    assert extents.punch_idle(64 << 10) == 512 << 10
    assert os.fstat(first.fd).st_blocks < before
    assert os.pread(last.fd, 4096, last.offset) == b"x" * 4096
    assert extents.allocate(512 << 10)[:2] == first[:2]


def test_more_segments_than_open_files_are_served(tmp_path, monkeypatch):
    from pvblob.blobs import extents as module

    monkeypatch.setattr(module, "OPEN_FILES_MAX", 4)
    made = Extents(tmp_path, segment_bytes=512)
    kept = []
    for number in range(12):
        allocation = made.allocate(512)
        os.pwrite(allocation.fd, bytes([number]) * 512, allocation.offset)
        made.adopt([allocation])
        kept.append(allocation)
    assert sum(segment.fd >= 0 for segment in made.segments.values()) <= 4
    for number, allocation in enumerate(kept):
        content = made.content([whole(allocation)])
        assert os.pread(content.extents[0].fd, 512, content.extents[0].offset) == bytes([number]) * 512
        content.release()
    made.close()


@pytest.mark.parametrize("seed", [5, 6])
def test_layouts_pack_and_cut_exactly(seed):
    chance = random.Random(seed)
    for width in (0, 1, 64):
        blocks = [
            Block(
                chance.randrange(9),
                chance.randrange(1 << 40),
                chance.randrange(1, 99),
                chance.getrandbits(64),
                chance.randbytes(width),
            )
            for _ in range(50)
        ]
        assert unpack(pack(blocks)) == blocks
        size = sum(block.length for block in blocks)
        flat = [(block, at) for block in blocks for at in range(block.length)]
        for _ in range(100):
            offset = chance.randrange(size)
            length = chance.randrange(1, size - offset + 1)
            cut = slices(blocks, ends(blocks), offset, length)
            assert [(s.block, s.skip + n) for s in cut for n in range(s.length)] == flat[offset : offset + length]
    assert unpack(pack([])) == []
    with pytest.raises(ValueError, match="layout"):
        unpack(b"\x04123")
