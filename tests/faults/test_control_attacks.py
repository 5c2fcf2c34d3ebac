"""Attacks on the control socket: messages that are cut, oversized, unknown, or illegal in the state (H1-H3, H14-H17).

A guest that breaks the protocol is told why and ends; a request the host cannot grant is answered with a failure.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

import pytest

from pvblob.vmbus import messages as m
from tests.faults.conftest import SMALL, Siege
from tests.faults.guest import DATA_GPA, GPADL_ID, RING_BYTES, RINGS_GPA, RawGuest, memfd
from tests.faults.ring import PAGE_BYTES

READ = "/bystander/small"
RINGS_PAGE, RING_PAGES = RINGS_GPA // PAGE_BYTES, RING_BYTES // PAGE_BYTES
GUESTS_MESSAGES = [cls for cls in m.MESSAGE_TYPES.values() if cls.SENDER is m.GUEST]
HOSTS_MESSAGES = [cls for cls in m.MESSAGE_TYPES.values() if cls.SENDER is m.HOST]


def header(number: int, size_bytes: int) -> bytes:
    """Return a message of this type whose fields are zero."""
    return struct.pack("<II", number, 0).ljust(size_bytes, b"\0")[:size_bytes]


# ---- datagrams (H1, H2, H3)


@pytest.mark.parametrize("cls", GUESTS_MESSAGES, ids=lambda cls: cls.NAME)
def test_h2_a_message_a_byte_too_short(siege: Siege, cls: type[m.Message]) -> None:
    guest = siege.guest()
    guest.send(header(cls.TYPE, cls.SIZE_MIN - 1))
    assert "minimum" in (why := guest.refusal()) or "a message has" in why


@pytest.mark.parametrize("cls", GUESTS_MESSAGES, ids=lambda cls: cls.NAME)
def test_h3_a_message_before_any_version_is_agreed(siege: Siege, cls: type[m.Message]) -> None:
    if cls is m.InitiateContact:
        pytest.skip("this one is legal")
    guest = siege.connected()
    guest.send(header(cls.TYPE, cls.SIZE_MIN), [guest.keep(memfd(4096))] * cls.DESCRIPTORS)
    assert "does not allow" in guest.refusal()


@pytest.mark.parametrize("cls", HOSTS_MESSAGES, ids=lambda cls: cls.NAME)
def test_h3_a_message_only_a_host_sends(siege: Siege, cls: type[m.Message]) -> None:
    guest = siege.guest()
    guest.send(header(cls.TYPE, cls.SIZE_MIN), [guest.keep(memfd(4096))] * cls.DESCRIPTORS)
    assert "only the host sends it" in guest.refusal()


@pytest.mark.parametrize("number", [0, 18, 21, 25, 29, 30, 0xFF, 0x1000, 0x1008, 0x10FF, 0x1100, 0xFFFF_FFFF])
def test_h2_a_type_nobody_speaks(siege: Siege, number: int) -> None:
    guest = siege.guest()
    guest.send(header(number, 40))
    assert "type" in guest.refusal()


@pytest.mark.parametrize("size_bytes", [1, 4, 7, 241, 4096, 4097, 60_000])
def test_h2_a_datagram(siege: Siege, size_bytes: int) -> None:
    guest = siege.guest()
    guest.send(header(16, size_bytes))
    assert "bytes" in guest.refusal()


def test_h2_messages_longer_than_their_minimum_are_taken(siege: Siege) -> None:
    """Linux and UEFI send the maximum (spec §3)."""
    guest = siege.connected()
    guest.send(m.encode(m.InitiateContact(0x50003)).ljust(240, b"\xff"))
    assert guest.expect(m.VersionResponse).supported


def test_an_empty_datagram_is_the_end(siege: Siege) -> None:
    guest = siege.guest()
    guest.socket.send(b"")
    assert guest.refusal() == "(no REFUSED before the end)"


def test_a_guest_that_shuts_its_sending_side_down_is_let_go(siege: Siege) -> None:
    guest = siege.guest()
    guest.socket.shutdown(socket.SHUT_WR)
    siege.until(lambda held: held == siege.baseline, "the host kept it")


@pytest.mark.parametrize("version", [0, 1, 0x50002, 0x60000, 0xFFFF_FFFF])
def test_h3_a_version_nobody_speaks_is_declined(siege: Siege, version: int) -> None:
    guest = siege.connected()
    guest.send(m.InitiateContact(version))
    assert not guest.expect(m.VersionResponse).supported


# ---- order (H17)

OUT_OF_ORDER: dict[str, Callable[[RawGuest], m.Message]] = {
    "REQUEST_OFFERS twice": lambda guest: m.RequestOffers(),
    "OPEN_CHANNEL of an open channel": lambda guest: guest.open_message(),
    "OPEN_CHANNEL of a channel that was never offered": lambda guest: m.OpenChannel(2047, 1, GPADL_ID, 16),
    "OPEN_CHANNEL of channel zero": lambda guest: m.OpenChannel(0, 1, GPADL_ID, 16),
    "CLOSE_CHANNEL of a channel that was never offered": lambda guest: m.CloseChannel(0xFFFF_FFFF),
    "GPADL_TEARDOWN of the rings of an open channel": lambda guest: m.GpadlTeardown(guest.relid, GPADL_ID),
    "GPADL_TEARDOWN of another channel's GPADL": lambda guest: m.GpadlTeardown(guest.relid + 1, GPADL_ID),
    "GPADL_TEARDOWN of an unknown GPADL": lambda guest: m.GpadlTeardown(guest.relid, 7),
    "GPADL_BODY without a header": lambda guest: m.GpadlBody(7, (1, 2)),
    "GPADL_BODY after the last page": lambda guest: m.GpadlBody(GPADL_ID, (1, 2)),
    "GPADL_HEADER with an id in use": lambda guest: m.GpadlHeader(guest.relid, GPADL_ID, 16, 1, 4096, 0, (1,)),
    "GPADL_HEADER for an unknown channel": lambda guest: m.GpadlHeader(99, 7, 16, 1, 4096, 0, (1,)),
    "RELID_RELEASED of an open channel": lambda guest: m.RelidReleased(guest.relid),
    "RELID_RELEASED of an unknown channel": lambda guest: m.RelidReleased(2000),
    "MODIFY_CHANNEL of an unknown channel": lambda guest: m.ModifyChannel(9, 1),
    "MEMORY_REGION_REMOVE of memory that was never lent": lambda guest: m.MemoryRegionRemove(0x5000),
    "MEMORY_REGION_REMOVE in the middle of a region": lambda guest: m.MemoryRegionRemove(DATA_GPA + 4096),
}


@pytest.mark.parametrize("message", OUT_OF_ORDER.values(), ids=OUT_OF_ORDER)
def test_h14_h16_h17_h18_illegal_now(siege: Siege, message: Callable[[RawGuest], m.Message]) -> None:
    guest = siege.guest()
    guest.send(message(guest))
    assert "protocol error" in guest.refusal()


# ---- GPADLs and opening (H14, H15)

HEADERS: dict[str, dict[str, int]] = {
    "of no bytes": {"byte_count": 0},
    "of one byte": {"byte_count": 1, "range_buffer_bytes": 16},
    "of 4 GiB": {"byte_count": 0xFFFF_F000},
    "with an offset behind its first page": {"byte_offset": 4096},
    "with an offset of all ones": {"byte_offset": 0xFFFF_FFFF},
    "of no ranges": {"range_count": 0},
    "of two ranges": {"range_count": 2},
    "of 65535 ranges": {"range_count": 0xFFFF},
    "with a range buffer of nothing": {"range_buffer_bytes": 0},
    "with a range buffer too long": {"range_buffer_bytes": 0xFFFF},
    "of more pages than the bound": {"byte_count": 2049 * 4096, "range_buffer_bytes": 8 + 8 * 2049},
}


@pytest.mark.parametrize("lies", HEADERS.values(), ids=HEADERS)
def test_h14_a_gpadl(siege: Siege, lies: dict[str, int]) -> None:
    guest = siege.connected().contacted()
    guest.describe([RINGS_PAGE + page for page in range(20)], **lies)
    if lies.get("byte_count") == 1:
        guest.send(guest.open_message())
    assert "protocol error" in guest.refusal()


def ring_pages(*, first: int = RINGS_PAGE, step: int = 1, count: int = 2 * RING_PAGES) -> list[int]:
    return [first + step * page for page in range(count)]


RING_PAGES_OF_LIES = {
    "never lent": ring_pages(first=0x9_0000),
    "of the last page numbers": ring_pages(first=2**64 - 40),
    "that repeat one page": [RINGS_PAGE] * (2 * RING_PAGES),
    "half lent": ring_pages(first=RINGS_PAGE + RING_PAGES),
    "scattered over more runs than a mapping may have": ring_pages(first=DATA_GPA // PAGE_BYTES, step=2, count=600),
}


@pytest.mark.parametrize("pfns", RING_PAGES_OF_LIES.values(), ids=RING_PAGES_OF_LIES)
def test_rule_1_h15_rings_on_pages(siege: Siege, pfns: list[int]) -> None:
    """The host says no and goes on: the guest may try again with its own."""
    guest = siege.connected().contacted()
    assert guest.lend(RINGS_GPA, 2 * RING_BYTES) == 0
    assert guest.lend(DATA_GPA, 1200 * PAGE_BYTES) == 0
    guest.describe(pfns)
    assert guest.expect(m.GpadlCreated).status == 0
    guest.send(guest.open_message())
    assert guest.expect(m.OpenChannelResult).status != 0


@pytest.mark.parametrize("downstream", [0, 1, 31, 32, 0xFFFF_FFFF])
def test_h15_a_second_ring_that_begins(siege: Siege, downstream: int) -> None:
    guest = siege.connected().contacted()
    assert guest.lend(RINGS_GPA, 2 * RING_BYTES) == 0
    guest.describe(ring_pages())
    assert guest.expect(m.GpadlCreated).status == 0
    guest.send(guest.open_message(downstream=downstream))
    assert "H15" in guest.refusal()


def test_h15_rings_at_odd_bytes(siege: Siege) -> None:
    guest = siege.connected().contacted()
    assert guest.lend(RINGS_GPA, 2 * RING_BYTES) == 0
    guest.describe(ring_pages(), byte_count=2 * RING_BYTES - 8, byte_offset=8)
    assert guest.expect(m.GpadlCreated).status == 0
    guest.send(guest.open_message())
    assert "H15" in guest.refusal()


def test_w_24_bodies_that_end_in_junk_are_taken_as_far_as_needed(siege: Siege) -> None:
    guest = siege.guest()
    guest.send(m.GpadlHeader(guest.relid, 9, 8 + 8 * 30, 1, 30 * 4096, 0, tuple(range(26))))
    guest.send(m.GpadlBody(9, (1, 2, 3, 4) + (2**64 - 1,) * 20))
    assert guest.expect(m.GpadlCreated).status == 0
    assert guest.fetch(READ) == SMALL


def test_w_26_more_gpadls_than_the_bound(siege: Siege) -> None:
    guest = siege.guest()
    for gpadl_id in range(1, 33):
        guest.send(m.GpadlHeader(guest.relid, gpadl_id, 16, 1, 4096, 0, (gpadl_id,)))
    assert "bound" in guest.refusal()


def test_h14_a_gpadl_half_sent_when_the_guest_goes(siege: Siege) -> None:
    guest = siege.connected().contacted()
    guest.send(m.GpadlHeader(guest.relid, 9, 8 + 8 * 2000, 1, 2000 * 4096, 0, tuple(range(26))))
    siege.bystander.read()


def test_rule_1_a_closed_channels_rings_become_ordinary_pages_again(siege: Siege) -> None:
    guest = siege.guest()
    guest.send(m.CloseChannel(guest.relid))
    guest.send(m.GpadlTeardown(guest.relid, GPADL_ID))
    guest.expect(m.GpadlTorndown)
    guest.describe(ring_pages())
    assert guest.expect(m.GpadlCreated).status == 0
    assert guest.reopened().fetch(READ) == SMALL


@pytest.mark.parametrize(
    "message",
    [m.Unload(), m.InitiateContact(0x50003), None],
    ids=["UNLOAD", "INITIATE_CONTACT", "CLOSE_CHANNEL"],
)
def test_r7_requests_running_when_a_guest_sends(siege: Siege, message: m.Message | None) -> None:
    """They end, what they held is given back, and the guest may begin anew."""
    guest = siege.guest()
    guest.put(*[guest.ask("/wait/x", number, slot=number) for number in range(1, 9)])
    siege.until(lambda held: held["waiting"] == 8, "the requests did not begin")
    guest.send(message or m.CloseChannel(guest.relid))
    siege.until(lambda held: held["waiting"] == 0 and held["requests"] == 0, "the requests did not end")
    siege.until(lambda held: held["channels"] == siege.baseline["channels"], "the channel is still open")
    siege.bystander.read()


def test_rule_1_names_for_people_may_be_any_bytes(siege: Siege) -> None:
    """W-15: nothing a guest says about itself reaches a log unprinted."""
    guest = siege.connected().contacted()
    guest.map(RINGS_GPA, 2 * RING_BYTES)
    guest.describe(ring_pages())
    guest.expect(m.GpadlCreated)
    guest.send(m.OpenChannel(guest.relid, 1, GPADL_ID, RING_PAGES, os.urandom(16) + b"\x1b[2J\xff\n" * 14 + bytes(20)))
    guest.expect(m.Doorbells)
    assert guest.expect(m.OpenChannelResult).status == 0
    assert "\x1b" not in siege.host.log()
