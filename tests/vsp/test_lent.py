"""Lent memory within its bounds: a guest's own, and its share of the descriptors that regions cost the host."""

from __future__ import annotations

import os

import pytest

from pvblob.vmbus import messages as m
from pvblob.vsp.budget import Shares
from pvblob.vsp.lent import LentRegions
from tests.faults.guest import memfd

PAGE = 4096


def lend(regions: LentRegions, gpa: int, length: int = PAGE) -> None:
    fd = memfd(length)
    try:
        regions.add(m.MemoryRegion(gpa, length, 1), fd)
    finally:
        os.close(fd)


def test_a_guest_cannot_use_up_the_descriptors_that_other_guests_lend_by() -> None:
    """Rule 1: alone it gets half of them, and a newcomer always gets one."""
    shares: Shares[str] = Shares(8, 100)
    greedy, newcomer = LentRegions("greedy", 1 << 30, shares), LentRegions("newcomer", 1 << 30, shares)
    for number in range(4):
        lend(greedy, number * PAGE)
    with pytest.raises(ValueError, match="share"):
        lend(greedy, 4 * PAGE)
    lend(newcomer, 0)
    greedy.clear()
    assert shares.held_by("greedy") == 0
    lend(newcomer, PAGE)


def test_what_is_taken_back_counts_until_it_is_let_go() -> None:
    """W-12: the rings of an open channel lie in it as long as `is_ring` says so."""
    regions = LentRegions("guest", 2 * PAGE, Shares(8, 100))
    lend(regions, 0, 2 * PAGE)
    regions.remove(0)
    assert regions.let_go(lambda _gpa, _length: True) == []
    assert regions.leaving
    with pytest.raises(ValueError, match="bytes lent"):
        lend(regions, 4 * PAGE)
    assert regions.let_go(lambda _gpa, _length: False) == [0]
    lend(regions, 4 * PAGE)


def test_a_refused_region_costs_nothing() -> None:
    shares: Shares[str] = Shares(8, 100)
    regions = LentRegions("guest", 1 << 30, shares)
    fd = memfd(PAGE, seals=0)
    with pytest.raises(ValueError, match="seals"):
        regions.add(m.MemoryRegion(0, PAGE, 1), fd)
    os.close(fd)
    assert shares.count == 0


def test_mappings_of_all_guests_together_are_bounded_rings_of_scattered_pages_included() -> None:
    """Rule 1: a process has some 65,000 of them; who has had its half is refused, a newcomer is not."""
    shares: Shares[str] = Shares(1000, 100)
    greedy, newcomer = LentRegions("greedy", 1 << 30, shares), LentRegions("newcomer", 1 << 30, shares)
    lend(greedy, 0, 64 * PAGE)
    greedy.take_rings(1, range(16))
    assert shares.size_bytes == 2
    greedy.take_rings(2, range(0, 64, 2))
    assert shares.size_bytes == 2 + 32
    with pytest.raises(ValueError, match="mappings is spent"):
        greedy.take_rings(3, range(1, 66, 2))
    newcomer.take_rings(4, range(0, 16, 2))
    greedy.give_rings(2)
    greedy.give_rings(2)
    greedy.take_rings(3, range(1, 66, 2))
    for key in (1, 3):
        greedy.give_rings(key)
    newcomer.give_rings(4)
    greedy.clear()
    assert (shares.count, shares.size_bytes) == (0, 0)


def test_pages_that_adjoin_but_lie_in_two_regions_are_two_mappings() -> None:
    shares: Shares[str] = Shares(1000, 100)
    regions = LentRegions("guest", 1 << 30, shares)
    for number in range(4):
        lend(regions, number * PAGE)
    regions.take_rings(1, range(4))
    assert shares.size_bytes == 4 + 4
