"""GPADLs and lent regions as the session judges them. Source: spec/vmbus.md H14-H16; docs/wire-protocol.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pvblob.errors import LocalProtocolError, RemoteProtocolError
from pvblob.frozen import replace
from pvblob.vmbus import messages as m
from pvblob.vmbus.constants import (
    AZURE_BLOB_CLASS,
)
from pvblob.vmbus.gpadl import split
from pvblob.vmbus.guid import Guid
from pvblob.vmbus.records import Bounds
from pvblob.vmbus.roles import GUEST, HOST
from pvblob.vmbus.session import Session
from pvblob.vmbus.transitions import ChannelState, GpadlState, RegionState, State

PairAt = Callable[[State], Any]
INSTANCE = Guid.of("00000000-0000-0000-0000-000000000005")
OFFER = m.OfferChannel(AZURE_BLOB_CLASS, INSTANCE, 2)
RING = 0xE1E10


def test_the_session_knows_the_pages_of_a_gpadl(pair_at: PairAt) -> None:
    pair = pair_at(GpadlState.PENDING)
    assert pair.host.gpadls[RING].pfns == pair.guest.gpadls[RING].pfns == tuple(range(64))


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (m.GpadlTeardown(2, RING), "belongs to channel 1, not 2"),
        (m.OpenChannel(2, 1, RING, 32), "belongs to channel 1, not 2"),
        (m.OpenChannel(1, 1, RING, 1), "page 1 of 64"),
        (m.OpenChannel(1, 1, RING, 63), "page 63 of 64"),
        (m.OpenChannel(1, 1, RING, 0xFFFFFFFF), "page 4294967295 of 64"),
        (next(split(1, RING, range(3))), "GPADL 0xe1e10 is CREATED"),
        (m.GpadlBody(RING, (1,)), "GPADL 0xe1e10 is CREATED"),
        (m.GpadlBody(5, (1,)), "GPADL 0x5 is ABSENT"),
        (replace(next(split(1, 5, range(3))), range_count=2), "2 ranges"),
        (next(split(1, 5, range(2049))), "2049 pages"),
    ],
)
def test_a_gpadl_message_that_does_not_fit_is_an_error(message: m.Message, named: str, pair_at: PairAt) -> None:
    """H14, H15, W-24, W-25, W-26."""
    pair = pair_at(GpadlState.CREATED)
    pair.deliver(OFFER)
    with pytest.raises(LocalProtocolError, match=named):
        pair.guest.send(message)
    with pytest.raises(RemoteProtocolError, match=named):
        pair.forge(message)


def test_a_ring_does_not_begin_within_a_page(pair_at: PairAt) -> None:
    """H15."""
    pair = pair_at(ChannelState.OFFERED)
    ragged = m.GpadlHeader(1, 5, 8 + 8 * 6, 1, 5 * 4096, 16, tuple(range(6)))
    pair.deliver_all(ragged, m.GpadlCreated(1, 5, 0))
    with pytest.raises(LocalProtocolError, match="whole pages"):
        pair.guest.send(m.OpenChannel(1, 1, 5, 3))


def test_an_empty_body_is_an_error(pair_at: PairAt) -> None:
    """W-24."""
    with pytest.raises(RemoteProtocolError, match="without page numbers"):
        pair_at(GpadlState.ASSEMBLING).forge(m.GpadlBody(RING, ()))


def test_gpadls_are_bounded(make_pair: Any) -> None:
    """W-26."""
    pair = make_pair(Session(GUEST, bounds=Bounds(gpadls_max=2)), Session(HOST, bounds=Bounds(gpadls_max=2)))
    pair.reach(GpadlState.PENDING)
    pair.deliver_all(*split(1, 5, range(3)))
    for more in split(1, 6, range(3)):
        with pytest.raises(LocalProtocolError, match="2 GPADLs"):
            pair.guest.send(more)
        with pytest.raises(RemoteProtocolError, match="2 GPADLs"):
            pair.forge(more)


@pytest.mark.parametrize(
    ("region", "named"),
    [
        (m.MemoryRegion(0x100001, 4096, 1), "whole pages"),
        (m.MemoryRegion(0, 4095, 1), "whole pages"),
        (m.MemoryRegion(0, 0, 1), "whole pages"),
        (m.MemoryRegion((1 << 64) - 4096, 8192, 1), "end of the address space"),
        (m.MemoryRegion(0xFF000, 0x2000, 1), "overlap"),
        (m.MemoryRegion(0x2FF000, 0x1000, 1), "overlap"),
        (m.MemoryRegion(0, 0x400000, 1), "overlap"),
    ],
)
def test_a_region_that_cannot_be_is_an_error(region: m.MemoryRegion, named: str, pair_at: PairAt) -> None:
    """W-10; 0x100000 to 0x300000 is lent."""
    pair = pair_at(RegionState.LENT)
    with pytest.raises(LocalProtocolError, match=named):
        pair.guest.send(region)
    with pytest.raises(RemoteProtocolError, match=named):
        pair.forge(region)


def test_regions_may_touch_and_are_bounded(make_pair: Any) -> None:
    """W-10, W-26: neighbours do not overlap; what was taken back or refused does not count."""
    pair = make_pair(host=Session(HOST, bounds=Bounds(regions_max=2)))
    pair.reach(RegionState.LENT)
    pair.deliver_all(m.MemoryRegion(0x300000, 4096, 0), m.MemoryRegionResult(0x300000, 1))
    last_page = (1 << 64) - 4096
    pair.deliver_all(m.MemoryRegion(0xFF000, 4096, 0), m.MemoryRegionResult(0xFF000, 0))
    pair.deliver_all(m.MemoryRegionRemove(0xFF000), m.MemoryRegionRemoved(0xFF000), m.MemoryRegion(last_page, 4096, 1))
    assert [one.flags for one in pair.host.regions.values()] == [1, 1]
    with pytest.raises(RemoteProtocolError, match="2 regions"):
        pair.forge(m.MemoryRegion(0, 4096, 1))
