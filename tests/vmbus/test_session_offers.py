"""Offers the guest does not want, repeated offers, sub-channels. Source: azure-blob-device.md §6; vmbus.md §4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pvblob.errors import LocalProtocolError
from pvblob.frozen import replace
from pvblob.vmbus import messages as m
from pvblob.vmbus.constants import (
    AZURE_BLOB_CLASS,
    VPCI_CLASS,
    VPCI_TWIN_INSTANCES,
)
from pvblob.vmbus.gpadl import split
from pvblob.vmbus.guid import Guid
from pvblob.vmbus.session import Crossed, IgnoredOffer
from pvblob.vmbus.transitions import ChannelState, ConnectionState, GpadlState, State

PairAt = Callable[[State], Any]
INSTANCE = Guid.of("00000000-0000-0000-0000-000000000005")
OFFER = m.OfferChannel(AZURE_BLOB_CLASS, INSTANCE, 2)
(TWIN,) = VPCI_TWIN_INSTANCES
RING = 0xE1E10


def test_the_vpci_twin_is_ignored_and_its_relid_given_back(pair_at: PairAt) -> None:
    """azure-blob-device.md §6, W-23, without the leak: both ends' books are balanced and rescinds still work."""
    pair = pair_at(ChannelState.OFFERED)
    twin = m.OfferChannel(VPCI_CLASS, TWIN, 2)
    ignored = pair.deliver(twin)
    assert ignored == IgnoredOffer(twin, m.RelidReleased(2), "it is the vPCI twin of the Azure Blob device")
    assert pair.guest.releases_owed() == (ignored.reply,)
    pair.deliver(ignored.reply)
    assert (set(pair.guest.channels), set(pair.host.channels)) == ({1}, {1})
    assert pair.guest.releases_owed() == ()
    pair.deliver_all(m.RescindChannelOffer(1), m.RelidReleased(1))
    assert not (pair.guest.channels)
    assert not (pair.host.channels)


@pytest.mark.parametrize("offer", [m.OfferChannel(VPCI_CLASS, INSTANCE, 2), m.OfferChannel(AZURE_BLOB_CLASS, TWIN, 2)])
def test_only_class_and_instance_together_make_the_twin(offer: m.OfferChannel, pair_at: PairAt) -> None:
    assert pair_at(ConnectionState.READY).deliver(offer) == offer


def test_an_ignored_offer_cannot_be_opened(pair_at: PairAt) -> None:
    pair = pair_at(ChannelState.IGNORED)
    with pytest.raises(LocalProtocolError, match="IGNORED"):
        pair.guest.send(next(split(1, RING, range(4))))


def test_a_rescind_that_crosses_the_release_of_an_ignored_offer_is_taken_quietly(pair_at: PairAt) -> None:
    """W-27."""
    pair = pair_at(ChannelState.IGNORED)
    rescind = pair.host.send(m.RescindChannelOffer(1))
    release = pair.guest.send(m.RelidReleased(1))
    assert pair.guest.receive(rescind) == Crossed(m.RescindChannelOffer(1))
    assert pair.host.receive(release) == m.RelidReleased(1)
    assert not pair.host.channels


def test_an_offer_that_repeats_a_primary_is_ignored(pair_at: PairAt) -> None:
    """§4: such an offer is dropped; ours says so to the host."""
    pair = pair_at(ChannelState.OFFERED)
    again = replace(pair.guest.channels[1].offer, relid=3)
    with pytest.raises(LocalProtocolError, match="offered already"):
        pair.host.send(again)
    assert pair.forge(again).reply == m.RelidReleased(3)


def test_a_sub_channel_comes_after_its_primary(pair_at: PairAt) -> None:
    """§3.1, §4."""
    pair = pair_at(ChannelState.OFFERED)
    sub_channel = replace(pair.guest.channels[1].offer, relid=3, sub_channel_index=1)
    assert pair.deliver(sub_channel) == sub_channel
    alone = replace(OFFER, relid=4, sub_channel_index=1)
    with pytest.raises(LocalProtocolError, match="lacks its primary"):
        pair.host.send(alone)
    assert pair.forge(alone).reply == m.RelidReleased(4)


def test_an_offer_can_be_given_back_but_not_with_memory_lent_on_it(pair_at: PairAt) -> None:
    pair_at(ChannelState.OFFERED).deliver(m.RelidReleased(1))
    with pytest.raises(LocalProtocolError, match="GPADL 0xe1e10 is CREATED"):
        pair_at(GpadlState.CREATED).guest.send(m.RelidReleased(1))
