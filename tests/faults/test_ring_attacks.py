"""Attacks on the rings: indices, descriptors and types that no guest may write (H4 to H8, H13, H20, design rule 1).

What makes a ring corrupt ends this guest, with a reason; what is merely odd is answered or ignored, and it goes on.
"""

from __future__ import annotations

import os
import struct
import time

import pytest

from tests.faults import ring as raw
from tests.faults.conftest import SMALL, Siege
from tests.faults.guest import RING_BYTES, WAIT_S, RawGuest

DATA_BYTES = RING_BYTES - raw.PAGE_BYTES
READ = "/bystander/small"
UNKNOWN_OPERATION = 0x8007_0032


def test_a_raw_guest_that_keeps_the_rules_is_served(siege: Siege) -> None:
    """Without this the attacks below might fail for being no guests at all."""
    assert siege.guest().fetch(READ) == SMALL


def ended(guest: RawGuest, why: str) -> None:
    """The host ends the guest and says why."""
    guest.ring_bell()
    assert why in guest.refusal()


IMPOSSIBLE = {
    "of the data size": DATA_BYTES,
    "past the data size": DATA_BYTES + 8,
    "that is odd": 1,
    "that is unaligned by 4": 4,
    "of all ones": 0xFFFF_FFFF,
    "with the sign bit": 0x8000_0000,
    "that is the last byte": DATA_BYTES - 1,
}


@pytest.mark.parametrize("index", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_h7_a_write_index(siege: Siege, index: int) -> None:
    guest = siege.guest()
    guest.sending.set_word(raw.WRITE_INDEX, index)
    ended(guest, "write_index")


MALFORMED = raw.packet(raw.GPA_DIRECT, 1, bytes(56), header=raw.range_header([1]), flags=1)


def send_malformed(guest: RawGuest, count: int) -> None:
    """Send requests that are answered at once, each with 40 bytes of the host's ring; waits for the host's reading."""
    deadline = time.monotonic() + WAIT_S
    while count:
        if guest.sending.free_bytes() > len(MALFORMED) + 8:
            guest.put(MALFORMED)
            count -= 1
        else:
            assert time.monotonic() < deadline, "the host does not read"


@pytest.mark.parametrize("index", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_h7_a_read_index(siege: Siege, index: int) -> None:
    """The host looks at it when what it knows to be free is used up."""
    guest = siege.guest()
    guest.receiving.set_word(raw.READ_INDEX, index)
    send_malformed(guest, DATA_BYTES // 40 + 8)
    ended(guest, "read_index")


def test_h7_a_write_index_that_jumps_back(siege: Siege) -> None:
    """What lies between is old and was judged once; it is judged again, as anything is."""
    guest = siege.guest()
    assert guest.fetch(READ) == SMALL
    guest.sending.set_word(raw.WRITE_INDEX, guest.sending.write_index - 8)
    ended(guest, "corrupt")


def test_h7_a_read_index_that_jumps_back_costs_only_the_guests_own_completions(siege: Siege) -> None:
    guest = siege.guest()
    for _ in range(3):
        assert guest.fetch(READ) == SMALL
    guest.receiving.set_word(raw.READ_INDEX, guest.receiving.read_index + 8)
    guest.put(guest.ask(READ, 2))
    siege.bystander.read()


def test_h8_the_hosts_own_indices_overwritten_change_nothing(siege: Siege) -> None:
    guest = siege.guest()
    guest.sending.set_word(raw.READ_INDEX, 0xFFFF_FFF8)
    guest.receiving.set_word(raw.WRITE_INDEX, 0xFFFF_FFF8)
    guest.put(guest.ask(READ, 1))
    siege.until(lambda held: held["requests"] == 0 and guest.receiving.word(raw.WRITE_INDEX) == 40, "no completion")
    assert guest.completion()[:2] == (1, 0)


def test_h20_masks_and_feature_bits_set_behind_the_hosts_back(siege: Siege) -> None:
    guest = siege.guest()
    for ring in (guest.sending, guest.receiving):
        for word in (raw.INTERRUPT_MASK, raw.FEATURE_BITS, raw.PENDING_SEND_SZ):
            ring.set_word(word, 0xFFFF_FFFF)
    assert guest.fetch(READ) == SMALL


def test_control_pages_of_random_words_end_the_guest_or_change_nothing(siege: Siege) -> None:
    guest = siege.guest()
    for base in (0, RING_BYTES):
        guest.rings[base : base + 0x44] = os.urandom(0x44)
    guest.sending.set_word(raw.WRITE_INDEX, 12)
    ended(guest, "write_index")


DESCRIPTORS = {
    "longer than what was written": raw.packet(raw.IN_BAND, 1, bytes(8), length8=4),
    "of the largest length": raw.packet(raw.IN_BAND, 1, bytes(8), length8=0xFFFF),
    "of length zero": raw.packet(raw.IN_BAND, 1, bytes(8), length8=0),
    "shorter than its descriptor": raw.packet(raw.IN_BAND, 1, bytes(8), length8=1),
    "with its payload inside the descriptor": raw.packet(raw.IN_BAND, 1, bytes(8), offset8=1),
    "with its payload at zero": raw.packet(raw.IN_BAND, 1, bytes(8), offset8=0),
    "with its payload behind its end": raw.packet(raw.IN_BAND, 1, bytes(8), offset8=4),
    "with its payload at the largest offset": raw.packet(raw.IN_BAND, 1, bytes(8), offset8=0xFFFF),
    "with an unknown flag": raw.packet(raw.IN_BAND, 1, bytes(8), flags=2),
    "with every flag": raw.packet(raw.IN_BAND, 1, bytes(8), flags=0xFFFF),
    "of GPA direct without a range header": raw.packet(raw.GPA_DIRECT, 1, bytes(56), flags=1),
    "of GPA direct with zero ranges": raw.packet(
        raw.GPA_DIRECT, 1, bytes(56), header=raw.range_header([1], range_count=0), flags=1
    ),
    "of type zero": raw.packet(0, 1, bytes(8)),
    "of transfer pages": raw.packet(7, 1, bytes(8)),
    "that establishes a GPADL in the ring": raw.packet(4, 1, bytes(8)),
    "of a type beyond the table": raw.packet(0xFFFF, 1, bytes(8)),
    "of data in band": raw.packet(raw.IN_BAND, 1, bytes(8), flags=1),
    "of a completion for the host": raw.packet(raw.COMPLETION, 1, bytes(16)),
}


@pytest.mark.parametrize("data", DESCRIPTORS.values(), ids=DESCRIPTORS)
def test_h5_h6_a_packet(siege: Siege, data: bytes) -> None:
    """Refused, not clamped; the two legal types no guest sends are refused too."""
    guest = siege.guest()
    guest.put(data)
    assert "packet" in (why := guest.refusal()) or "payload" in why


def test_h6_a_packet_without_room_for_its_trailer(siege: Siege) -> None:
    guest = siege.guest()
    guest.sending.put_raw(0, raw.packet(raw.CANCEL, 1, bytes(8)))
    guest.sending.set_word(raw.WRITE_INDEX, 24)
    ended(guest, "24 bytes were written")


def test_h4_less_than_a_packet_in_the_ring(siege: Siege) -> None:
    guest = siege.guest()
    guest.sending.set_word(raw.WRITE_INDEX, 16)
    ended(guest, "fewer than")


def test_h4_a_ring_said_to_be_full_of_zeros(siege: Siege) -> None:
    guest = siege.guest()
    guest.sending.set_word(raw.WRITE_INDEX, DATA_BYTES - 8)
    ended(guest, "payload")


def test_section_1_3_trailers_of_lies_are_never_looked_at(siege: Siege) -> None:
    guest = siege.guest()
    guest.sending.write_index = guest.sending.put_raw(0, guest.ask(READ, 1) + struct.pack("<Q", 0xDEAD_BEEF_DEAD_BEEF))
    guest.sending.commit()
    guest.ring_bell()
    assert guest.completion()[:2] == (1, 0)


def test_section_2_4_a_request_that_wants_no_completion_gets_none(siege: Siege) -> None:
    guest = siege.guest()
    silent = bytearray(guest.ask(READ, 1))
    silent[6:8] = bytes(2)
    guest.put(bytes(silent), guest.ask(READ, 2))
    assert guest.completion()[0] == 2


def test_rule_1_a_guest_that_never_drains_its_ring_stops_its_own_requests_only(siege: Siege) -> None:
    """The host takes a packet only when its completion has a place; the rest stays in the guest's own ring."""
    guest = siege.guest()
    room, waiting = (DATA_BYTES - 8) // 40, 200
    send_malformed(guest, room + waiting)
    siege.until(lambda _: guest.receiving.word(raw.WRITE_INDEX) == room * 40, "the host did not fill the ring")
    siege.bystander.read()
    assert guest.receiving.word(raw.WRITE_INDEX) == room * 40
    for _ in range(room + waiting):
        assert guest.completion()[1] == UNKNOWN_OPERATION
        guest.ring_bell()


def test_h13_descriptors_that_change_under_the_host_are_judged_once(siege: Siege) -> None:
    """Each is published whole, then flipped between truth and lies: one of both is what counts."""
    lie = struct.pack("<HHHH", raw.GPA_DIRECT, 0xFFFF, 0xFFFF, 1)
    for _ in range(20):
        guest = siege.guest()
        for transaction_id in range(1, 20):
            at = guest.sending.write_index
            one = guest.ask(READ, transaction_id)
            guest.put(one)
            for _ in range(5):
                guest.sending.put_raw(at, lie)
                guest.sending.put_raw(at, one[:8])
