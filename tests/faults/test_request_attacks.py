"""Attacks inside the buffers: messages, ids, cancels, deadlines, credits, bodies in pieces (design rules 4, 5, 6)."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.faults import ring as raw
from tests.faults.buffers import bhttp_request, varint, vector
from tests.faults.conftest import LARGE, SMALL, Siege
from tests.faults.guest import SLOT_REQUEST, SLOTS, RawGuest
from tests.faults.ring import PAGE_BYTES

READ, WAIT = "/bystander/small", "/wait/for-ever"
OK, MALFORMED, DEADLINE, CANCELLED, QUOTA = 0, 0x8007_0057, 0x8007_0102, 0x8007_03E3, 0x8007_05AA
CREDITS = 1024
GOOD = bhttp_request("GET", READ)
CONTROL = b"".join(vector(part) for part in (b"GET", b"https", b"a.blob.core.windows.net", b"/c/b"))


def section(*lines: tuple[bytes, bytes]) -> bytes:
    return vector(b"".join(vector(name) + vector(value) for name, value in lines))


MESSAGES = {
    "of zeros": bytes(64),
    "of ones": b"\xff" * 64,
    "that is a response": b"\x01" + GOOD[1:],
    "of indeterminate length": b"\x02" + GOOD[1:],
    "cut in the method": GOOD[:3],
    "cut in the path": GOOD[: len(GOOD) - 20],
    "with a method of 2^62 - 1 bytes": b"\x00" + b"\xff" * 8 + b"GET",
    "with content of 2^62 - 1 bytes": b"\x00" + CONTROL + section() + b"\xff" * 8,
    "with fields of 2^30 bytes": b"\x00" + CONTROL + varint(1 << 30) + bytes(64),
    "with too many fields": b"\x00" + CONTROL + section(*[(b"a", b"")] * 257),
    "with a name of 257 bytes": b"\x00" + CONTROL + section((b"a" * 257, b"")),
    "with an empty name": b"\x00" + CONTROL + section((b"", b"")),
    "with a name in upper case": b"\x00" + CONTROL + section((b"Host", b"x")),
    "with a pseudo-field": b"\x00" + CONTROL + section((b":path", b"/")),
    "with CR LF in a value": b"\x00" + CONTROL + section((b"a", b"b\r\nc: d")),
    "with NUL in a value": b"\x00" + CONTROL + section((b"a", b"\0")),
    "with a blank in the path": b"\x00" + CONTROL[:-4] + b"/c b" + section(),
    "with trailers": b"\x00" + CONTROL + section() + vector(b"") + section((b"a", b"b")),
    "with bytes behind its end": GOOD + b"\x00\x00\x01",
    "with no path": b"\x00" + CONTROL[:-5] + vector(b"") + section(),
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_rfc_9292_a_message(siege: Siege, message: bytes) -> None:
    guest = siege.guest()
    assert guest.status_of(guest.request(1, message)) == MALFORMED
    assert guest.fetch(READ) == SMALL


TARGETS = [
    "/", "//", "/bystander/../bystander/small", "/bystander/%2e%2e/%2e%2e/etc/passwd", "/bystander/%00", "/%ff%fe/x",
    "/bystander/" + "a" * 2000, "/bystander?restype=container&comp=list&maxresults=99999999999999999999",
    "/bystander?comp=list&restype=container&marker=%00%ff", "/bystander/small?snapshot=x", "/?comp=batch", "*",
    "/bystander/small?comp=block&blockid=AAAA", "/bystander/small?" + "&".join(["comp=list"] * 200),
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS, ids=range(len(TARGETS)))
@pytest.mark.parametrize("method", ["GET", "PUT", "BREW"])
def test_a_target_no_sdk_sends_is_answered_by_the_service(siege: Siege, method: str, target: str) -> None:
    guest = siege.guest()
    guest.put(guest.ask(target, 1, method=method))
    _, status, response_bytes = guest.completion()
    assert status == OK
    assert guest.response(response_bytes)[0] in (200, 400, 403, 404, 405, 409, 411, 501)


@pytest.mark.parametrize(
    "value", ["bytes=5-4", "bytes=-1", "bytes=0-99999999999999999999", "bytes=999999999-", "lines=1-2", "bytes=0-0,5-9"]
)
def test_a_range_no_sdk_sends_is_answered_by_the_service(siege: Siege, value: str) -> None:
    guest = siege.guest()
    guest.put(guest.ask(READ, 1, fields=[("x-ms-range", value)]))
    _, status, response_bytes = guest.completion()
    assert status == OK
    assert guest.response(response_bytes)[0] in (200, 206, 400, 416)


# ---- ids, cancels, credits, deadlines


def test_h9_an_id_in_flight_used_again_is_refused_and_the_first_goes_on(siege: Siege) -> None:
    guest = siege.guest()
    guest.put(guest.ask(WAIT, 5))
    siege.until(lambda held: held["waiting"] == 1, "the request did not begin")
    guest.put(guest.ask(READ, 5, slot=1))
    assert guest.completion()[:2] == (5, MALFORMED)
    guest.put(raw.packet(raw.CANCEL, 5))
    assert guest.completion()[:2] == (5, CANCELLED)


@pytest.mark.parametrize("transaction_id", [0, 1, 77, 0xFFFF_FFFF_FFFF_FFFF])
def test_rule_5_a_cancel_of_an_unknown_id_is_ignored(siege: Siege, transaction_id: int) -> None:
    guest = siege.guest()
    guest.put(*[raw.packet(raw.CANCEL, transaction_id)] * 50)
    assert guest.fetch(READ) == SMALL


def test_rule_5_a_cancel_of_another_guests_id_changes_nothing_there(siege: Siege) -> None:
    victim, attacker = siege.guest(), siege.guest()
    victim.put(victim.ask(WAIT, 41))
    siege.until(lambda held: held["waiting"] == 1, "the request did not begin")
    attacker.put(*[raw.packet(raw.CANCEL, number) for number in range(500)])
    assert attacker.fetch(READ) == SMALL
    assert siege.host.holdings()["waiting"] == 1
    victim.put(raw.packet(raw.CANCEL, 41))
    assert victim.completion()[:2] == (41, CANCELLED)


def test_rule_1_a_hundred_thousand_cancels_of_one_request_are_one(siege: Siege) -> None:
    guest = siege.guest()
    guest.put(guest.ask(WAIT, 5))
    siege.until(lambda held: held["waiting"] == 1, "the request did not begin")
    cancel = raw.packet(raw.CANCEL, 5)
    burst = [cancel] * 1000
    for _ in range(100):
        while guest.sending.free_bytes() <= len(burst) * 24 + 8:
            pass
        guest.put(*burst)
    assert guest.completion()[:2] == (5, CANCELLED)
    assert guest.fetch(READ) == SMALL


def test_rule_4_requests_beyond_the_credits_are_refused_and_none_is_lost(siege: Siege) -> None:
    guest = siege.guest()
    extra = 50
    for transaction_id in range(1, CREDITS + extra + 1):
        while guest.sending.free_bytes() < 1024:
            pass
        guest.put(guest.ask(WAIT, transaction_id, slot=transaction_id % SLOTS))
    refused = [guest.completion() for _ in range(extra)]
    assert {status for _, status, _ in refused} == {QUOTA}
    siege.until(lambda held: held["requests"] == CREDITS, "not every request was taken")
    siege.bystander.read()
    guest.put(*[raw.packet(raw.CANCEL, transaction_id) for transaction_id in range(1, CREDITS + extra + 1)])
    answers = [guest.completion() for _ in range(CREDITS)]
    assert {status for _, status, _ in answers} == {CANCELLED}
    assert {one[0] for one in answers + refused} == set(range(1, CREDITS + extra + 1))


def test_rule_5_a_deadline_of_a_millisecond_is_held(siege: Siege) -> None:
    guest = siege.guest()
    guest.put(guest.ask(WAIT, 1, timeout_ms=1))
    assert guest.completion()[:2] == (1, DEADLINE)


@pytest.mark.parametrize("timeout_ms", [0, 0xFFFF_FFFF])
def test_rule_5_a_deadline_for_ever_is_the_hosts_longest(siege: Siege, timeout_ms: int) -> None:
    """The guest is gone before; what it began ends with it."""
    guest = siege.guest()
    guest.put(guest.ask(WAIT, 1, timeout_ms=timeout_ms))
    siege.until(lambda held: held["waiting"] == 1, "the request did not begin")


def test_r7_a_guest_that_leaves_with_requests_of_every_kind_running(siege: Siege) -> None:
    guest = siege.guest()
    upload = [("x-ms-blob-type", "BlockBlob"), ("pvblob-body-offset", "0"), ("pvblob-body-length", "900000")]
    guest.put(
        guest.ask(WAIT, 1),
        guest.ask("/bystander/large", 2, slot=1, data_length=16),
        guest.ask("/bystander/half", 3, slot=2, method="PUT", fields=upload, data_valid=1000),
        guest.ask("/bystander/large", 4, slot=3),
    )
    siege.until(lambda held: held["waiting"] == 1, "the request did not begin")


# ---- bodies in pieces


def piece(guest: RawGuest, offset: object, length: object, *, guid: bytes, valid: int = 1000, **more: Any) -> int:
    """Send one piece of an upload and return its device status (0x103 = 202 received, 0x101 = 201 executed)."""
    fields = [("x-ms-blob-type", "BlockBlob"), ("pvblob-body-offset", str(offset)), ("pvblob-body-length", str(length))]
    guest.put(guest.ask("/bystander/pieces", 9, method="PUT", fields=fields, guid=guid, data_valid=valid, **more))
    _, status, response_bytes = guest.completion()
    return guest.response(response_bytes)[0] if status == OK else status


PIECES: dict[str, list[tuple[object, object, int, int]]] = {
    # (offset, length, valid, expected) one after the other; 202 received, 201 executed
    "with a gap": [(0, 3000, 1000, 202), (2000, 3000, 1000, MALFORMED)],
    "that overlap": [(0, 3000, 1000, 202), (500, 3000, 1000, MALFORMED)],
    "sent twice": [(0, 3000, 1000, 202), (0, 3000, 1000, MALFORMED)],
    "past the total": [(0, 1500, 1000, 202), (1000, 1500, 1000, MALFORMED)],
    "without a beginning": [(1000, 3000, 1000, MALFORMED)],
    "without bytes": [(0, 3000, 0, MALFORMED)],
    "of a total of zero": [(0, 0, 1000, MALFORMED)],
    "of a total below the first": [(0, 999, 1000, MALFORMED)],
    "of a petabyte": [(0, 10**14, 1000, 413)],
    "of a total of sixteen digits": [(0, 10**16, 1000, MALFORMED)],
    "of a negative total": [(0, -1, 1000, MALFORMED)],
    "at a negative offset": [(-1, 3000, 1000, MALFORMED)],
    "at an offset of letters": [("ten", 3000, 1000, MALFORMED)],
    "at an offset of other digits": [("\u00b2", 3000, 1000, MALFORMED)],
    "behind the end": [(0, 2000, 1000, 202), (1000, 2000, 1000, 201), (2000, 2000, 1000, MALFORMED)],
}


@pytest.mark.parametrize("steps", PIECES.values(), ids=PIECES)
def test_rule_6_upload_pieces(siege: Siege, steps: list[tuple[object, object, int, int]]) -> None:
    guest, guid = siege.guest(), os.urandom(16)
    for offset, length, valid, expected in steps:
        assert piece(guest, offset, length, guid=guid, valid=valid) == expected
    assert guest.fetch(READ) == SMALL


def test_rule_6_a_piece_for_another_guests_upload_is_refused(siege: Siege) -> None:
    victim, attacker, guid = siege.guest(), siege.guest(), os.urandom(16)
    assert piece(victim, 0, 2000, guid=guid) == 202
    assert piece(attacker, 1000, 2000, guid=guid) == MALFORMED
    assert piece(victim, 1000, 2000, guid=guid) == 201


def test_rule_6_more_uploads_than_a_guest_may_begin_are_refused(siege: Siege) -> None:
    guest = siege.guest()
    statuses = [piece(guest, 0, 2000, guid=os.urandom(16)) for _ in range(257)]
    assert statuses == [202] * 256 + [QUOTA]
    assert siege.host.holdings()["uploads"] == 256


def fetch_piece(guest: RawGuest, offset: int, guid: bytes, data_length: int = 64) -> int:
    guest.put(guest.ask("/x", 9, fields=[("pvblob-body-offset", str(offset))], guid=guid, data_length=data_length))
    _, status, response_bytes = guest.completion()
    return guest.response(response_bytes)[0] if status == OK else status


def begin_download(guest: RawGuest, guid: bytes) -> None:
    """Ask for the large blob with room for 64 bytes: the host keeps the rest."""
    assert guest.status_of(guest.ask("/bystander/large", 8, guid=guid, data_length=64)) == OK


def test_rule_6_pieces_of_an_answer_that_is_anothers_or_nobodys_are_gone(siege: Siege) -> None:
    victim, attacker, guid = siege.guest(), siege.guest(), os.urandom(16)
    begin_download(victim, guid)
    assert fetch_piece(attacker, 0, guid) == 410
    assert fetch_piece(attacker, 0, os.urandom(16)) == 410
    assert fetch_piece(victim, 0, guid) == 200


@pytest.mark.parametrize("offset", [len(LARGE) + 1, 10**15 - 1])
def test_rule_6_a_piece_behind_the_end_of_an_answer_is_gone(siege: Siege, offset: int) -> None:
    guest, guid = siege.guest(), os.urandom(16)
    begin_download(guest, guid)
    assert fetch_piece(guest, offset, guid) == 410
    assert fetch_piece(guest, len(LARGE) - 64, guid) == 200


def test_rule_6_answers_begun_and_never_fetched_are_bounded_and_end_with_the_guest(siege: Siege) -> None:
    guest = siege.guest()
    for _ in range(1100):
        begin_download(guest, os.urandom(16))
    held = siege.host.holdings()
    assert held["answers_kept"] == 1024
    assert held["pins"] <= 1030


def test_a_head_as_large_as_the_codec_allows_is_answered(siege: Siege) -> None:
    guest = siege.guest()
    line = ("x-ms-meta-a", "v" * 500)
    count = (SLOT_REQUEST * PAGE_BYTES - 300) // 520
    guest.put(guest.ask(READ, 1, fields=[line] * count))
    assert guest.completion()[:2] == (1, OK)
