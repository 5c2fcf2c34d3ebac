"""Memory that its owner changes, empties or takes away while the host works in it (design rule 1, W-11, W-12).

Each attack runs beside reads that the data plane answers by itself, reads that have to wait for the disk, and uploads.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pvblob.vmbus import messages as m
from tests.faults.buffers import bhttp_request
from tests.faults.conftest import LARGE, SMALL, Siege
from tests.faults.guest import RINGS_GPA, RawGuest, memfd
from tests.faults.ring import PAGE_BYTES
from tests.faults.test_flood_attacks import ceaselessly
from tests.faults.test_unsealed_memory import (
    GET_LARGE,
    GET_SMALL,
    MALFORMED,
    UNSEALED,
    UNSEALED_GPA,
    UNSEALED_PAGES,
    packet,
    sealed_pages,
    with_unsealed,
)

ROUNDS = 60
SIZE = UNSEALED_PAGES * PAGE_BYTES
UPLOADED = 70 * PAGE_BYTES
UPLOAD = bhttp_request("PUT", "/bystander/perhaps", [("x-ms-blob-type", "BlockBlob")])
FALLOC_PUNCH_HOLE_KEEP_SIZE = 0x3
libc = ctypes.CDLL(None, use_errno=True)


def punch(fd: int, offset: int = 0, length: int = SIZE) -> None:
    """Give the pages back to the system; the file stays as long as it is, and they read as zeros."""
    if libc.fallocate(fd, FALLOC_PUNCH_HOLE_KEEP_SIZE, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


def cut(fd: int) -> None:
    os.ftruncate(fd, PAGE_BYTES)
    os.ftruncate(fd, SIZE)


FLAGS = (os.O_APPEND, os.O_ASYNC, os.O_NONBLOCK, os.O_APPEND | os.O_ASYNC | os.O_NONBLOCK | os.O_NOATIME, 0)


def set_flags(fd: int) -> None:
    """The open file is the host's too: so are its flags."""
    for flags in FLAGS:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


ATTACKS: dict[str, Callable[[int], None]] = {"cut": cut, "punch holes": punch, "set flags": set_flags}


class Cold:
    """Has the host's files leave the page cache, so that its next reads wait for the disk."""

    def __init__(self, siege: Siege) -> None:
        store = Path(siege.host.socket_path).parent / "store"
        self._files = [path for path in store.rglob("*") if path.is_file() and path.stat().st_size > len(LARGE)]
        assert self._files
        os.sync()

    def __call__(self) -> None:
        for path in self._files:
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def statuses(guest: RawGuest, rounds: int, message: bytes, before: Callable[[], None], **device: int) -> set[int]:
    """Send a request over sealed messages and unsealed data again and again; return the device statuses."""
    found = set()
    for _ in range(rounds):
        before()
        one = packet(guest, UNSEALED, sealed_pages(0, 4), sealed_pages(4, 4), message, **device)
        found.add(guest.status_of(one))
    return found


def nothing() -> None:
    pass


@contextmanager
def forgetting_uploads(guest: RawGuest) -> Iterator[None]:
    """Delete what the uploads of a test have left, so that the host holds what it held."""
    yield
    delete = bhttp_request("DELETE", "/bystander/perhaps")
    assert guest.status_of(packet(guest, [], sealed_pages(0, 4), sealed_pages(4, 4), delete)) == 0


@pytest.mark.parametrize("attack", ATTACKS)
def test_w11_offloaded_reads_cold_reads_and_uploads_beside_a_guest_that_changes_its_memory(
    siege: Siege, attack: str
) -> None:
    """Cutting fails requests with 0x80070057, holes and flags fail none; nothing else comes of it."""
    guest, fd = with_unsealed(siege)
    expected = {0, MALFORMED} if attack == "cut" else {0}
    cold = Cold(siege)
    with ceaselessly(lambda: ATTACKS[attack](fd)):
        assert statuses(guest, ROUNDS, GET_SMALL, nothing) <= expected
        assert statuses(guest, ROUNDS, GET_LARGE, nothing) <= expected
        assert statuses(guest, ROUNDS // 4, GET_LARGE, cold) <= expected
        assert statuses(guest, ROUNDS // 4, UPLOAD, nothing, data_valid=UPLOADED) <= expected
    assert os.fstat(fd).st_size == SIZE
    with forgetting_uploads(guest):
        assert statuses(guest, 1, UPLOAD, nothing, data_valid=UPLOADED) == {0}
    assert statuses(guest, 1, GET_LARGE, nothing) == {0}
    assert os.pread(fd, len(LARGE), 0) == LARGE, "what was done to the memory lasts"


def test_w11_a_hole_that_is_punched_into_rings_and_messages_is_zeros_to_the_host(siege: Siege) -> None:
    """A seal against shrinking does not keep pages: the ring is corrupt or empty then, and this guest's own trouble."""
    for region in (0, 1):
        guest = siege.guest()
        fd = guest._own[region]
        size = os.fstat(fd).st_size
        with ceaselessly(lambda fd=fd, size=size: punch(fd, 0, size)):  # type: ignore[misc]
            for number in range(50):
                guest.sending.write(guest.ask("/bystander/small", number + 1))
                guest.sending.commit()
                guest.ring_bell()
                if number % 10 == 0:
                    siege.bystander.read()


@pytest.mark.parametrize("cut_at", [0, 20, 40])
def test_w11_sealed_and_unsealed_pages_alternate_in_one_buffer_that_is_cut(siege: Siege, cut_at: int) -> None:
    """A read places what fits or fails as a whole; sealed pages between the others are no worse for it."""
    guest, fd = with_unsealed(siege)
    pages = [page for pair in zip(UNSEALED[:40], sealed_pages(40, 40), strict=True) for page in pair]
    read = packet(guest, pages, sealed_pages(0, 4), sealed_pages(4, 4), GET_LARGE)
    upload = packet(guest, pages, sealed_pages(8, 4), sealed_pages(4, 4), UPLOAD, data_valid=UPLOADED)
    for _ in range(5):
        assert (guest.status_of(read), guest.status_of(upload)) == (0, 0)
    with forgetting_uploads(guest):
        os.ftruncate(fd, cut_at * PAGE_BYTES)
        assert (guest.status_of(read), guest.status_of(upload)) == ((0, 0) if cut_at == 40 else (MALFORMED, MALFORMED))
        os.ftruncate(fd, SIZE)
        assert (guest.status_of(read), guest.status_of(upload)) == (0, 0)
        even = b"".join(os.pread(fd, PAGE_BYTES, page * PAGE_BYTES) for page in range(37))
        odd = bytes(guest.memory[40 * PAGE_BYTES : 77 * PAGE_BYTES])
        whole = b"".join(
            even[at : at + PAGE_BYTES] + odd[at : at + PAGE_BYTES] for at in range(0, len(even), PAGE_BYTES)
        )
        assert whole[: len(LARGE)] == LARGE


def test_w11_one_memory_lent_as_sealed_and_as_unsealed_is_two_names_for_the_guest_s_own_bytes(siege: Siege) -> None:
    """Buffers that overlap by a second name, the request that is overwritten by its own answer included."""
    guest = siege.guest()
    fd = guest.memory_fd
    size = os.fstat(fd).st_size
    assert guest.lend(UNSEALED_GPA, size, fd, flags=0) == 0
    alias = [UNSEALED[0] + number for number in range(80)]
    request, response = sealed_pages(0, 4), sealed_pages(4, 4)
    assert guest.status_of(packet(guest, alias[20:60], request, response, GET_SMALL)) == 0
    assert bytes(guest.memory[20 * PAGE_BYTES : 20 * PAGE_BYTES + len(SMALL)]) == SMALL
    for _ in range(20):
        for message, valid in ((GET_LARGE, 0), (GET_SMALL, 0), (UPLOAD, UPLOADED)):
            guest.status_of(packet(guest, alias, request, response, message, data_valid=valid))
    with forgetting_uploads(guest):
        assert guest.status_of(packet(guest, alias, request, response, UPLOAD, data_valid=UPLOADED)) == 0


def test_w11_a_ring_lent_a_second_time_as_unsealed_is_written_over_by_its_owner_s_own_read(siege: Siege) -> None:
    """The host writes where it is told, through the second name, into the guest's own ring: that guest alone ends."""
    guest = siege.guest()
    fd = guest._own[0]
    assert guest.lend(UNSEALED_GPA, os.fstat(fd).st_size, fd, flags=0) == 0
    pages = UNSEALED[: os.fstat(fd).st_size // PAGE_BYTES]
    guest.put(packet(guest, pages, sealed_pages(0, 4), sealed_pages(4, 4), GET_LARGE))
    for _ in range(20):
        guest.ring_bell()
        siege.bystander.read()


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory that has room for 16 pages."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={16 * PAGE_BYTES}", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_w11_memory_whose_file_system_has_no_room_for_it_is_the_guest_s_trouble(
    siege: Siege, small_tmpfs: Path
) -> None:
    """A page that cannot be had is SIGBUS to whoever touches it, and EFAULT to a system call."""
    guest = siege.guest()
    fd = guest.keep(os.open(small_tmpfs / "sparse", os.O_RDWR | os.O_CREAT))
    os.ftruncate(fd, SIZE)
    assert guest.lend(UNSEALED_GPA, SIZE, fd, flags=0) == 0
    assert statuses(guest, ROUNDS, GET_LARGE, nothing) == {MALFORMED}
    assert statuses(guest, ROUNDS // 4, GET_LARGE, Cold(siege)) == {MALFORMED}
    listing = bhttp_request("GET", "/bystander?restype=container&comp=list")
    one = packet(guest, UNSEALED[40:60], sealed_pages(0, 4), sealed_pages(4, 4), listing)
    assert guest.status_of(one) == MALFORMED
    with forgetting_uploads(guest):
        assert statuses(guest, 2, UPLOAD, nothing, data_valid=UPLOADED) == {0}, "holes read as zeros and need no room"
    assert guest.fetch("/bystander/small") == SMALL


@pytest.mark.parametrize("sealed", [True, False])
def test_w12_a_region_taken_back_while_requests_use_it(siege: Siege, sealed: bool) -> None:
    """They end as they would have; the host lets go when the last has ended, and says so once for every time."""
    guest = siege.guest()
    cold = Cold(siege)
    for round_ in range(20):
        fd = memfd(SIZE) if sealed else memfd(SIZE, seals=0)
        assert guest.lend(UNSEALED_GPA, SIZE, fd, flags=int(sealed)) == 0
        os.close(fd)
        cold()
        request, response = sealed_pages(0, 4), sealed_pages(4, 4)
        guest.put(packet(guest, UNSEALED, request, response, GET_LARGE))
        guest.send(m.MemoryRegionRemove(UNSEALED_GPA))
        if round_ % 2:
            assert guest.expect(m.MemoryRegionRemoved).gpa == UNSEALED_GPA
        assert guest.completion()[1] in (0, MALFORMED)
        if not round_ % 2:
            assert guest.expect(m.MemoryRegionRemoved).gpa == UNSEALED_GPA
        assert guest.status_of(packet(guest, UNSEALED, request, response, GET_LARGE)) == MALFORMED, "it is gone"


def test_w12_rings_taken_back_while_requests_are_under_way(siege: Siege) -> None:
    """The channel goes on: its rings are held until it is closed."""
    guest = siege.guest()
    guest.send(m.MemoryRegionRemove(RINGS_GPA))
    for _ in range(20):
        assert guest.fetch("/bystander/small") == SMALL
    guest.send(m.CloseChannel(guest.relid))
    assert guest.expect(m.MemoryRegionRemoved).gpa == RINGS_GPA
