"""Attacks by quantity and by time: floods, silence, and memory that another process changes while the host reads it.

The bystander's bytes are checked while they last (rule 11, H24, R12).
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pvblob import _native
from pvblob.vmbus import messages as m
from tests.faults import ring as raw
from tests.faults.buffers import bhttp_request
from tests.faults.conftest import SMALL, HostProcess, Siege
from tests.faults.guest import GPADL_ID, PLACES, RING_PFNS, RawGuest

READ = "/bystander/small"
MALFORMED = 0x8007_0057


@contextmanager
def ceaselessly(action: Callable[[], object]) -> Iterator[None]:
    """Repeat *action* on a thread as fast as it goes."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            action()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_h24_a_flood_of_doorbells_holds_up_nobody(siege: Siege) -> None:
    guests = [siege.guest() for _ in range(3)]

    def ring_all() -> None:
        for _ in range(100):
            for guest in guests:
                guest.ring_bell()

    with ceaselessly(ring_all):
        for _ in range(5):
            siege.bystander.read()
        assert guests[0].fetch(READ) == SMALL


def test_r12_a_ring_that_is_never_empty_holds_up_nobody(siege: Siege) -> None:
    """The host takes a bounded number of packets per turn."""
    guest = siege.guest()
    cancels = [raw.packet(raw.CANCEL, 1)] * 200

    def refill() -> None:
        if guest.sending.free_bytes() > len(cancels) * 24 + 8:
            guest.put(*cancels)

    with ceaselessly(refill):
        for _ in range(5):
            siege.bystander.read()


def test_r12_a_flood_of_malformed_requests_holds_up_nobody(siege: Siege) -> None:
    guest = siege.guest()
    malformed = raw.packet(raw.GPA_DIRECT, 1, bytes(56), header=raw.range_header([1]), flags=1)

    def refill() -> None:
        while guest.receiving.take() is not None:
            pass
        if guest.sending.free_bytes() > 100 * (len(malformed) + 8) + 8:
            guest.put(*[malformed] * 100)
        else:
            guest.ring_bell()

    with ceaselessly(refill):
        for _ in range(5):
            siege.bystander.read()


def test_rule_1_a_socket_that_never_reads_is_given_up(siege: Siege) -> None:
    """W-3: what the host would say to it has a bound."""
    guest = siege.guest()
    asked = 0
    while guest.try_send(m.ModifyChannel(guest.relid, 1)) or asked < 100:
        asked += 1
        assert asked < 1_000_000, "the host goes on answering"
        if asked % 1000 == 0:
            siege.bystander.read()


def test_rule_1_a_flood_of_contacts_holds_up_nobody(siege: Siege) -> None:
    guest = siege.guest()
    for number in range(600):
        guest.send(m.InitiateContact(0x50003))
        while not isinstance(guest.receive(), m.HostPage):
            pass
        os.close(guest.descriptors.pop())
        if number % 200 == 0:
            siege.bystander.read()


def test_rule_1_a_flood_of_offers_asked_for_anew_leaks_no_relid(siege: Siege) -> None:
    guest = siege.connected()
    relids = {guest.contacted().relid for _ in range(200)}
    assert max(relids) <= 2047


def test_rule_1_a_flood_of_opens_and_closes_leaves_nothing(siege: Siege) -> None:
    guest = siege.guest()
    for _ in range(150):
        guest.send(m.CloseChannel(guest.relid))
        guest.send(m.GpadlTeardown(guest.relid, GPADL_ID))
        guest.expect(m.GpadlTorndown)
        for fd in (guest.bell, guest.bell_socket):
            guest.descriptors.remove(fd)
            os.close(fd)
        guest.describe(RING_PFNS)
        assert guest.expect(m.GpadlCreated).status == 0
        guest.reopened()
    assert guest.fetch(READ) == SMALL


def test_rule_1_a_flood_of_regions_lent_and_taken_back_leaves_nothing(siege: Siege) -> None:
    guest = siege.guest()
    for number in range(300):
        gpa = 0x8000_0000 + number % 7 * 0x10000
        assert guest.lend(gpa, 0x10000) == 0
        guest.send(m.MemoryRegionRemove(gpa))
        guest.expect(m.MemoryRegionRemoved)


def test_rule_1_a_crowd_of_guests_that_say_nothing_or_half_of_it(siege: Siege) -> None:
    for number in range(150):
        guest = siege.connected()
        if number % 3 == 1:
            guest.send(m.InitiateContact(0x50003))
        elif number % 3 == 2:
            guest.contacted()
    siege.bystander.read()


def test_rule_1_guests_that_connect_and_leave_at_once(siege: Siege) -> None:
    for _ in range(300):
        guest = RawGuest(siege.host.socket_path)
        guest.send(m.InitiateContact(0x50003))
        guest.close()
    siege.bystander.read()


def test_h21_rule_11_what_a_guest_does_wrong_a_thousand_times_is_logged_a_few_times(siege: Siege) -> None:
    guest = siege.guest()
    before = len(siege.host.log())
    fd = guest.keep(os.open("/dev/zero", os.O_RDWR))
    for number in range(1000):
        assert guest.lend(0x8000_0000 + number * 4096, 4096, fd) != 0
    assert siege.host.log().count("\n", before) < 100


# ---- memory that changes under the host, from a process of its own

FLIPPER = """
import mmap, sys
fd, at, one, other = int(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3]), bytes.fromhex(sys.argv[4])
memory = mmap.mmap(fd, 0)
print("flipping", flush=True)
while True:
    memory[at:at + len(one)] = one
    memory[at:at + len(other)] = other
"""


@contextmanager
def flipped(guest: RawGuest, at: int, one: bytes, other: bytes) -> Iterator[None]:
    """Let another process write *one* and *other* in turn at byte *at* of the data region."""
    fd = guest.memory_fd
    command = [sys.executable, "-c", FLIPPER, str(fd), str(at), one.hex(), other.hex()]
    with subprocess.Popen(command, pass_fds=[fd], stdout=subprocess.PIPE) as flipper:
        assert flipper.stdout is not None
        assert flipper.stdout.readline() == b"flipping\n"
        try:
            yield
        finally:
            flipper.kill()


def test_h1_h13_a_request_that_changes_between_two_readings_is_one_or_the_other(siege: Siege) -> None:
    """Double fetch: the copy that was judged is the copy that is executed."""
    guest = siege.guest()
    good = bhttp_request("GET", READ)
    evil = bhttp_request("GET", "/bystander/nine1")
    assert len(good) == len(evil)
    seen = set()
    with flipped(guest, guest.place() + PLACES[0], good, evil):
        for number in range(1, 400):
            guest.memory[: len(SMALL)] = bytes(len(SMALL))
            guest.put(guest.ask(READ, number))
            _, status, response_bytes = guest.completion()
            if status == 0:
                http_status = guest.response(response_bytes)[0]
                if http_status == 200:
                    assert bytes(guest.memory[: len(SMALL)]) == SMALL
                status = http_status
            seen.add(status)
    assert seen <= {200, 404, 400, MALFORMED}


def test_rule_1_a_body_that_changes_while_it_is_stored_has_the_checksum_of_what_is_stored(siege: Siege) -> None:
    """Copy, checksum the copy, write the copy (design rule 1): the blob that is read back matches what was answered."""
    guest = siege.guest()
    size = PLACES[0] - 4096
    fields = [("x-ms-blob-type", "BlockBlob"), ("content-length", str(size))]
    with flipped(guest, guest.place(1), b"\x11" * size, b"\xee" * size):
        for number in range(10):
            guest.put(guest.ask("/bystander/torn", number, slot=1, method="PUT", fields=fields, data_valid=size))
            _, status, response_bytes = guest.completion()
            assert status == 0
            http_status, answered, _ = guest.response(response_bytes, slot=1)
            assert http_status == 201
            stored = guest.fetch("/bystander/torn")
            assert (
                base64.b64encode(_native.crc64(stored).to_bytes(8, "little")).decode() == answered["x-ms-content-crc64"]
            )
    assert guest.status_of(guest.ask("/bystander/torn", method="DELETE")) == 0  # and its offload entry's pin


def test_rule_1_ring_indices_that_another_process_scribbles_over_end_this_guest_only(siege: Siege) -> None:
    guest = siege.guest()
    fd = guest._own[0]
    command = [sys.executable, "-c", FLIPPER, str(fd), "0", os.urandom(16).hex(), os.urandom(16).hex()]
    with subprocess.Popen(command, pass_fds=[fd], stdout=subprocess.PIPE) as flipper:
        assert flipper.stdout is not None
        flipper.stdout.readline()
        for _ in range(50):
            guest.ring_bell()
            siege.bystander.read()
        flipper.kill()


# ---- the host's own end


@pytest.mark.parametrize("what", ["silent", "half open", "open", "busy"])
def test_rule_3_a_host_stops_in_time_whatever_its_guests_do(tmp_path: Path, what: str) -> None:
    """The host never waits for a guest to read, to answer or to leave."""
    host = HostProcess(tmp_path)
    guest = RawGuest(host.socket_path)
    if what == "half open":
        guest.contacted()
    elif what in ("open", "busy"):
        guest.opened()
    if what == "busy":
        guest.put(*[guest.ask("/wait/x", number, slot=number) for number in range(1, 20)])
    host.stop()
    guest.close()
