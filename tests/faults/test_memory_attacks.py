"""Attacks with descriptors and lent memory: what is not sealed memory of the right size is refused (design rule 1).

Descriptors that come with the wrong message, too many or too few, end the guest; every one of them is closed.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator

import pytest

from pvblob.vmbus import messages as m
from tests.faults.conftest import SMALL, Siege
from tests.faults.guest import DATA_GPA, RINGS_GPA, SEALS, SLOT_PAGES, SLOTS, RawGuest, memfd
from tests.faults.host_process import LENT_BYTES_MAX
from tests.faults.ring import PAGE_BYTES

READ = "/bystander/small"
LENGTH = 16 * PAGE_BYTES
FREE_GPA = 0x4000_0000
F_SEAL_FUTURE_WRITE = 0x10
SHRINK, GROW, SEAL, WRITE = fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL, fcntl.F_SEAL_WRITE


def file() -> int:
    fd = os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR)
    os.ftruncate(fd, LENGTH)
    return fd


def pipe() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


def read_only_memfd() -> int:
    fd = memfd(LENGTH)
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    finally:
        os.close(fd)


def path_only_memfd() -> int:
    fd = memfd(LENGTH)
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_PATH)
    finally:
        os.close(fd)


DESCRIPTORS: dict[str, Callable[[], int]] = {
    "memory without seals": lambda: memfd(LENGTH, seals=0),
    "memory that may shrink": lambda: memfd(LENGTH, seals=GROW | SEAL),
    "memory that may grow": lambda: memfd(LENGTH, seals=SHRINK | SEAL),
    "memory whose seals may change": lambda: memfd(LENGTH, seals=SHRINK | GROW),
    "memory sealed against writing": lambda: memfd(LENGTH, seals=SEALS | WRITE),
    "memory sealed against later writers": lambda: memfd(LENGTH, seals=SEALS | F_SEAL_FUTURE_WRITE),
    "memory a page short": lambda: memfd(LENGTH - PAGE_BYTES),
    "memory a page long": lambda: memfd(LENGTH + PAGE_BYTES),
    "memory of no bytes": lambda: memfd(0),
    "memory of huge pages": lambda: memfd(2 << 20, flags=os.MFD_HUGETLB),
    "memory opened for reading": read_only_memfd,
    "memory opened as a path": path_only_memfd,
    "a file": file,
    "a device of zeros": lambda: os.open("/dev/zero", os.O_RDWR),
    "a directory": lambda: os.open("/", os.O_RDONLY),
    "a pipe": pipe,
    "a socket": lambda: socket.socket(socket.AF_UNIX).detach(),
    "an eventfd": lambda: os.eventfd(0),
    "a timer": lambda: os.pidfd_open(os.getpid()),
}


@pytest.mark.parametrize("make", DESCRIPTORS.values(), ids=DESCRIPTORS)
def test_rule_1_lent(siege: Siege, make: Callable[[], int]) -> None:
    """Refused with a status; the guest goes on with memory that is right."""
    guest = siege.guest()
    fd = guest.keep(make())
    length = 2 << 20 if os.fstat(fd).st_blksize == 2 << 20 else LENGTH
    assert guest.lend(FREE_GPA, length, fd) != 0
    assert guest.lend(FREE_GPA, LENGTH) == 0
    assert guest.fetch(READ) == SMALL


def test_rule_1_the_control_socket_itself_lent_as_memory(siege: Siege) -> None:
    guest = siege.guest()
    assert guest.lend(FREE_GPA, LENGTH, guest.socket.fileno()) != 0
    assert guest.fetch(READ) == SMALL


def test_rule_1_sealed_memory_cannot_be_shrunk_grown_or_unsealed(siege: Siege) -> None:
    """What would raise SIGBUS in the host fails here; a hole reads as zeros."""
    guest = siege.guest()
    fd = guest._own[1]
    for size_bytes in (0, PAGE_BYTES, 1 << 40):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size_bytes)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, WRITE)
    guest.put(guest.ask(READ, 1))
    assert guest.completion()[:2] == (1, 0)


PLACES = {
    "at an odd address": (FREE_GPA + 1, LENGTH),
    "of an odd length": (FREE_GPA, LENGTH + 1),
    "of no bytes": (FREE_GPA, 0),
    "past the end of the address space": (2**64 - PAGE_BYTES, LENGTH),
    "of every byte there is": (0, 2**64 - PAGE_BYTES),
    "over the rings": (RINGS_GPA, LENGTH),
    "over the last page of another": (DATA_GPA + (SLOTS * SLOT_PAGES - 1) * PAGE_BYTES, LENGTH),
    "around another": (DATA_GPA - PAGE_BYTES, 1 << 30),
}


@pytest.mark.parametrize(("gpa", "length"), PLACES.values(), ids=PLACES)
def test_w_10_a_region(siege: Siege, gpa: int, length: int) -> None:
    guest = siege.guest()
    guest.send(m.MemoryRegion(gpa, length, 1), [guest.keep(memfd(LENGTH))])
    answer = guest.receive()
    assert isinstance(answer, m.Refused) or (isinstance(answer, m.MemoryRegionResult) and answer.status)


def test_w_26_more_regions_than_the_bound(siege: Siege) -> None:
    guest = siege.guest()
    for number in range(254):
        assert guest.lend(FREE_GPA + number * LENGTH, LENGTH) == 0
    guest.send(m.MemoryRegion(FREE_GPA + 300 * LENGTH, LENGTH, 1), [guest.keep(memfd(LENGTH))])
    assert "bound" in guest.refusal()


def test_design_10_more_bytes_than_a_guest_may_lend(siege: Siege) -> None:
    guest = siege.guest()
    assert guest.lend(FREE_GPA, LENT_BYTES_MAX) != 0
    assert guest.lend(FREE_GPA, LENT_BYTES_MAX // 2) == 0
    assert guest.lend(FREE_GPA + LENT_BYTES_MAX, LENT_BYTES_MAX // 2) != 0
    assert guest.fetch(READ) == SMALL


# ---- descriptors where none belong


@pytest.mark.parametrize("count", [0, 2, 3, 100, 253])
def test_w_2_memory_with_another_number_of_descriptors(siege: Siege, count: int) -> None:
    guest = siege.guest()
    fd = guest.keep(memfd(LENGTH))
    guest.send(m.MemoryRegion(FREE_GPA, LENGTH, 1), [fd] * count)
    assert "descriptors" in guest.refusal()


@pytest.mark.parametrize("count", [1, 2, 253])
def test_w_2_descriptors_with_a_message_that_carries_none(siege: Siege, count: int) -> None:
    guest = siege.guest()
    guest.send(m.ModifyChannel(guest.relid, 1), [guest.keep(memfd(LENGTH))] * count)
    assert "descriptors" in guest.refusal()


@pytest.fixture
def lingering() -> Iterator[int]:
    """A TCP socket whose last close waits an hour: unsent bytes, a peer that does not read, SO_LINGER."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        peer = server.accept()[0]
    sender.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sender.send(bytes(1 << 20))
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    yield sender.detach()
    peer.close()


def inside_another_socket(fd: int) -> int:
    """Return a socket in whose queue *fd* lies."""
    outer, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with outer:
        socket.send_fds(outer, [b"x"], [fd])
    os.close(fd)
    return inner.detach()


def lent(guest: RawGuest, fd: int) -> None:
    guest.send(m.MemoryRegion(FREE_GPA, LENGTH, 1), [fd])


def sent_third(guest: RawGuest, fd: int) -> None:
    memory = guest.keep(memfd(LENGTH))
    guest.send(m.MemoryRegion(FREE_GPA, LENGTH, 1), [memory, memory, fd])


def left_unread(guest: RawGuest, fd: int) -> None:
    guest.send(m.RequestOffers())  # illegal: the host ends this guest and reads no further
    guest.send(m.MemoryRegion(FREE_GPA, LENGTH, 1), [fd])


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "inside another socket"])
@pytest.mark.parametrize("how", [lent, sent_third, left_unread], ids=lambda how: how.__name__)
def test_rule_1_a_descriptor_whose_close_waits_for_an_hour(
    siege: Siege, lingering: int, how: Callable[[RawGuest, int], None], nested: bool
) -> None:
    """The host's loop never makes the last close of a descriptor that a guest chose."""
    guest = siege.guest()
    fd = inside_another_socket(lingering) if nested else lingering
    begun = time.monotonic()
    os.kill(siege.host.pid, signal.SIGSTOP)  # so that ours is not the last close
    try:
        how(guest, fd)
        os.close(fd)
    finally:
        os.kill(siege.host.pid, signal.SIGCONT)
    siege.bystander.read()
    guest.close()
    siege.bystander.read()
    assert time.monotonic() - begun < 5
    siege.until(lambda held: held["closing"] > 0 and held["guests"] == siege.baseline["guests"], "nothing is stuck")


# ---- memory taken back


def test_rule_1_a_request_on_pages_that_were_taken_back(siege: Siege) -> None:
    guest = siege.guest()
    packet = guest.ask(READ, 1)
    guest.send(m.MemoryRegionRemove(DATA_GPA))
    guest.expect(m.MemoryRegionRemoved)
    assert guest.status_of(packet) == 0x8007_0057


def test_w_12_memory_under_a_running_request_is_let_go_when_the_request_ends(siege: Siege) -> None:
    """H16, H22: the answer comes after the last user; until then the bytes count as lent."""
    guest = siege.guest()
    guest.put(guest.ask("/wait/x", 1))
    siege.until(lambda held: held["waiting"] == 1, "the request did not begin")
    guest.send(m.MemoryRegionRemove(DATA_GPA))
    guest.send(m.ModifyChannel(guest.relid, 1))
    guest.expect(m.ModifyChannelResponse)
    guest.put(b"\x0a\x00\x02\x00\x02\x00\x00\x00" + struct.pack("<Q", 1))
    guest.expect(m.MemoryRegionRemoved)


def test_design_10_memory_pinned_by_requests_cannot_pass_the_bound(siege: Siege) -> None:
    """Lend, pin, take back, lend again: the host's mappings stay within what a guest may lend."""
    guest = siege.guest()
    half = LENT_BYTES_MAX // 2 - (8 << 20)
    statuses = []
    for number in range(6):
        gpa = 0x1_0000_0000 + number * LENT_BYTES_MAX
        statuses.append(guest.lend(gpa, half))
        if statuses[-1] == 0:
            pin(guest, gpa, number + 1)
            siege.until(lambda held, number=number: held["waiting"] == number + 1, "not pinned")  # type: ignore[misc]
            guest.send(m.MemoryRegionRemove(gpa))
    assert statuses[:2] == [0, 0]
    assert all(statuses[2:])


def pin(guest: RawGuest, gpa: int, transaction_id: int) -> None:
    """Start a request that never ends whose response lies in the first page at *gpa*."""
    packet = bytearray(guest.ask("/wait/x", transaction_id, slot=transaction_id))
    last_pfns = 16 + 16 + (SLOT_PAGES - 4) * 8
    packet[last_pfns : last_pfns + 32] = struct.pack("<4Q", *range(gpa // PAGE_BYTES, gpa // PAGE_BYTES + 4))
    guest.put(bytes(packet))


def test_w_28_an_unload_is_answered_when_nothing_touches_the_memory_any_more(siege: Siege) -> None:
    guest = siege.guest()
    guest.put(*[guest.ask("/wait/x", number, slot=number) for number in range(8)])
    siege.until(lambda held: held["waiting"] == 8, "the requests did not begin")
    guest.send(m.Unload())
    guest.expect(m.UnloadResponse)
    assert siege.host.holdings()["waiting"] == 0


def test_w_12_memory_under_the_rings_of_an_open_channel_is_let_go_when_it_closes(siege: Siege) -> None:
    guest = siege.guest()
    guest.send(m.MemoryRegionRemove(RINGS_GPA))
    assert guest.fetch(READ) == SMALL
    guest.send(m.CloseChannel(guest.relid))
    guest.expect(m.MemoryRegionRemoved)


# ---- what the host shares


def test_rule_1_the_host_page_cannot_be_written_shrunk_or_punched(siege: Siege) -> None:
    guest = siege.connected()
    guest.send(m.InitiateContact(0x50003))
    guest.expect(m.VersionResponse)
    guest.expect(m.HostPage)
    (page,) = guest.descriptors
    with pytest.raises(PermissionError):
        mmap.mmap(page, PAGE_BYTES)
    for attempt in (
        lambda: os.pwrite(page, b"\xff" * 4, 0),
        lambda: os.ftruncate(page, 0),
        lambda: os.posix_fallocate(page, 0, 2 * PAGE_BYTES),
        lambda: fcntl.fcntl(page, fcntl.F_ADD_SEALS, WRITE),
    ):
        with pytest.raises(PermissionError):
            attempt()


def test_rule_1_shared_descriptors_made_blocking_and_filled_stall_nobody(siege: Siege) -> None:
    """O_NONBLOCK cleared and counters filled on every descriptor the host shares with this guest."""
    guest = siege.guest()
    os.write(guest.bell, struct.pack("=Q", 2**64 - 2))
    for fd in [*guest.descriptors, guest.socket.fileno()]:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    for transaction_id in range(1, 200):
        guest.sending.write(guest.ask(READ, transaction_id, slot=transaction_id % SLOTS))
        guest.receiving.set_word(0x08, 0)
        guest.sending.commit()
    siege.bystander.read()


def test_rule_1_a_doorbell_that_is_shut_or_passed_on_stalls_nobody(siege: Siege) -> None:
    guest = siege.guest()
    with socket.socket(fileno=os.dup(guest.bell_socket)) as bell:
        bell.shutdown(socket.SHUT_RDWR)
    guest.put(guest.ask(READ, 1))
    siege.until(lambda _: guest.receiving.word(0) == 40, "the host did not complete")
    assert guest.receiving.take() is not None
