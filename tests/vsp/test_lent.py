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
    shares: Shares[str] = Shares(8, 1)
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
    regions = LentRegions("guest", 2 * PAGE, Shares(8, 1))
    lend(regions, 0, 2 * PAGE)
    regions.remove(0)
    assert regions.let_go(lambda _gpa, _length: True) == []
    assert regions.leaving
    with pytest.raises(ValueError, match="bytes lent"):
        lend(regions, 4 * PAGE)
    assert regions.let_go(lambda _gpa, _length: False) == [0]
    lend(regions, 4 * PAGE)


def test_a_refused_region_costs_nothing() -> None:
    shares: Shares[str] = Shares(8, 1)
    regions = LentRegions("guest", 1 << 30, shares)
    fd = memfd(PAGE, seals=0)
    with pytest.raises(ValueError, match="seals"):
        regions.add(m.MemoryRegion(0, PAGE, 1), fd)
    os.close(fd)
    assert shares.count == 0
