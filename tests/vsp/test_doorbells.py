"""H24, rule 11: a guest that signals and has nothing is looked at ever less often, and counted; packets end that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from pvblob import Client
from tests.faults import ring as raw
from tests.faults.guest import RawGuest

# crates/blobdev/src/vsp/bells.rs: what is free, the steps to the longest delay, and that delay.
FREE, STEPS, DELAY_S = 16, 7, 0.001
FLOOD_S = 0.2
READ = "/con/blob"


@pytest.fixture
def guest(live_host: Any) -> Iterator[RawGuest]:
    with Client.connect(live_host.socket_path) as client:
        client.create_container("con")
        client.put("con", "blob", bytes(1000))
    with closing(RawGuest(live_host.socket_path)) as one:
        yield one.opened()


def flood(guest: RawGuest, live_host: Any) -> tuple[int, float]:
    """Ring ceaselessly; return how often the host looked at the ring for it, and how long it took."""
    before, _ = live_host.host.engine.doorbells()
    began = time.monotonic()
    while time.monotonic() - began < FLOOD_S:
        guest.ring_bell()
    elapsed_s = time.monotonic() - began
    return live_host.host.engine.doorbells()[0] - before, elapsed_s


def test_h24_a_flood_of_doorbells_costs_the_host_a_bounded_number_of_looks(guest: RawGuest, live_host: Any) -> None:
    looks, elapsed_s = flood(guest, live_host)
    assert FREE < looks <= FREE + STEPS + 2 + elapsed_s / DELAY_S
    assert live_host.host.engine.doorbells()[1] > 0
    assert len(guest.fetch(READ)) == 1000, "it is served when it has something after all"


def test_a_guest_that_has_work_again_is_heard_at_once(guest: RawGuest, live_host: Any) -> None:
    flood(guest, live_host)
    for _ in range(3):
        assert len(guest.fetch(READ)) == 1000
    _, muted = live_host.host.engine.doorbells()
    for _ in range(20):
        assert len(guest.fetch(READ)) == 1000
    assert live_host.host.engine.doorbells()[1] == muted


def test_a_guest_that_floods_where_its_answers_have_no_room_is_muted_too(guest: RawGuest, live_host: Any) -> None:
    """It takes no completions, so the host takes no packets; its bell says nothing then."""
    malformed = raw.packet(raw.GPA_DIRECT, 1, bytes(56), header=raw.range_header([1]), flags=1)
    while guest.sending.free_bytes() > len(malformed) + 16:
        guest.put(malformed)
    looks, elapsed_s = flood(guest, live_host)
    assert looks <= FREE + STEPS + 2 + elapsed_s / DELAY_S


def test_a_guest_that_leaves_while_it_is_muted_leaves_nothing(live_host: Any) -> None:
    for _ in range(5):
        with closing(RawGuest(live_host.socket_path)) as guest:
            flood(guest.opened(), live_host)
    deadline = time.monotonic() + 20
    while live_host.host.guests:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    with closing(RawGuest(live_host.socket_path)) as guest:
        guest.opened()
        assert guest.status_of(guest.ask("/con/none", 1)) == 0
