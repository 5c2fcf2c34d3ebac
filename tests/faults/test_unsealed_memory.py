"""Memory that may shrink, against a host process: what may lie there, what cutting it can do (rule 1, W-11, W-15)."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable

import pytest

from pvblob.vmbus import messages as m
from tests.faults import ring as raw
from tests.faults.buffers import bhttp_request, device_request
from tests.faults.conftest import LARGE, SMALL, Siege
from tests.faults.guest import DATA_GPA, RING_BYTES, RawGuest, memfd
from tests.faults.ring import PAGE_BYTES

MALFORMED = 0x80070057
UNSEALED_GPA = 0x3000_0000
UNSEALED_PAGES = 80
UNSEALED = list(range(UNSEALED_GPA // PAGE_BYTES, UNSEALED_GPA // PAGE_BYTES + UNSEALED_PAGES))
SEALED = DATA_GPA // PAGE_BYTES


def with_unsealed(siege: Siege) -> tuple[RawGuest, int]:
    """Return a guest that has lent memory which it can cut, and the descriptor."""
    guest = siege.guest()
    fd = guest.keep(memfd(UNSEALED_PAGES * PAGE_BYTES, seals=0))
    assert guest.lend(UNSEALED_GPA, UNSEALED_PAGES * PAGE_BYTES, fd, flags=0) == 0
    return guest, fd


def packet(
    guest: RawGuest, data: list[int], request: list[int], response: list[int], message: bytes, **device: int
) -> bytes:
    """Write *message* to the place of the request and return the packet over these pages."""
    if request[0] < UNSEALED[0]:
        at = (request[0] - SEALED) * PAGE_BYTES
        guest.memory[at : at + len(message)] = message
    places = (len(data) * PAGE_BYTES, len(request) * PAGE_BYTES, len(response) * PAGE_BYTES)
    payload = device_request(places, request_length=len(message), **device)
    header = raw.range_header([*data, *request, *response])
    return raw.packet(raw.GPA_DIRECT, 7, payload, header=header, flags=1)


def sealed_pages(first: int, count: int) -> list[int]:
    return list(range(SEALED + first, SEALED + first + count))


GET_SMALL = bhttp_request("GET", "/bystander/small")
GET_LARGE = bhttp_request("GET", "/bystander/large")


def test_data_buffers_may_lie_in_unsealed_memory(siege: Siege) -> None:
    guest, fd = with_unsealed(siege)
    for pages in (UNSEALED[:1], UNSEALED[5:78], [*sealed_pages(30, 1), *UNSEALED[3:78]]):
        get = GET_LARGE if len(pages) > 1 else GET_SMALL
        assert guest.status_of(packet(guest, pages, sealed_pages(0, 4), sealed_pages(4, 4), get)) == 0
    assert os.pread(fd, len(SMALL), 0) == SMALL
    at = 3 * PAGE_BYTES - PAGE_BYTES
    assert os.pread(fd, len(LARGE) - PAGE_BYTES, at + PAGE_BYTES) == LARGE[PAGE_BYTES:]


@pytest.mark.parametrize("place", ["request", "response", "one page of the response"])
def test_messages_may_not(siege: Siege, place: str) -> None:
    """W-11: refused without a look at the memory, and nothing is executed."""
    guest, fd = with_unsealed(siege)
    request, response = sealed_pages(0, 4), sealed_pages(4, 4)
    if place == "request":
        request = UNSEALED[:4]
        os.pwrite(fd, GET_SMALL, 0)
    elif place == "response":
        response = UNSEALED[:4]
    else:
        response[2] = UNSEALED[0]
    assert guest.status_of(packet(guest, UNSEALED[40:50], request, response, GET_SMALL)) == MALFORMED
    assert guest.fetch("/bystander/small") == SMALL


def test_rings_may_not(siege: Siege) -> None:
    guest = siege.connected().contacted()
    assert guest.lend(UNSEALED_GPA, 2 * RING_BYTES, guest.keep(memfd(2 * RING_BYTES, seals=0)), flags=0) == 0
    guest.describe([UNSEALED_GPA // PAGE_BYTES + page for page in range(2 * RING_BYTES // PAGE_BYTES)])
    assert guest.expect(m.GpadlCreated).status == 0
    guest.send(guest.open_message())
    assert guest.expect(m.OpenChannelResult).status != 0


def disk_file() -> int:
    with tempfile.TemporaryFile(dir=os.getcwd()) as file:  # noqa: PTH109  # the checkout lies on a disk
        file.truncate(PAGE_BYTES)
        return os.dup(file.fileno())


def pipe_end() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def read_only() -> int:
    fd = memfd(PAGE_BYTES, seals=0)
    other = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.close(fd)
    return other


KINDS: dict[str, Callable[[], int]] = {
    "a file on disk": disk_file,
    "a socket": lambda: socket.socket(socket.AF_UNIX).detach(),
    "a pipe": pipe_end,
    "an eventfd": lambda: os.eventfd(0),
    "a directory": lambda: os.open("/dev/shm", os.O_RDONLY),
    "/dev/zero": lambda: os.open("/dev/zero", os.O_RDWR),
    "a reader's memfd": read_only,
    "a short memfd": lambda: memfd(0, seals=0),
    "a memfd sealed against writing": lambda: memfd(PAGE_BYTES, seals=0x8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_descriptors_are_refused_and_the_guest_lives_on(siege: Siege, kind: str) -> None:
    guest = siege.guest()
    assert guest.lend(UNSEALED_GPA, PAGE_BYTES, guest.keep(KINDS[kind]()), flags=0) != 0
    assert guest.lend(UNSEALED_GPA, PAGE_BYTES, guest.keep(memfd(PAGE_BYTES, seals=0)), flags=0) == 0
    assert guest.fetch("/bystander/small") == SMALL


@pytest.mark.parametrize("file_page", [1, 2**32 - 1])
def test_a_place_in_the_descriptor_that_is_not_there_is_refused(siege: Siege, file_page: int) -> None:
    guest = siege.guest()
    for flags, seals in ((0, 0), (1, 7)):
        fd = guest.keep(memfd(PAGE_BYTES, seals=seals))
        guest.send(m.MemoryRegion(UNSEALED_GPA, PAGE_BYTES, flags, file_page), [fd])
        assert guest.expect(m.MemoryRegionResult).status != 0


def test_cutting_the_memory_fails_the_request_that_meets_the_hole(siege: Siege) -> None:
    guest, fd = with_unsealed(siege)
    request, response = sealed_pages(0, 4), sealed_pages(4, 4)
    listing = bhttp_request("GET", "/bystander?restype=container&comp=list")
    upload = bhttp_request("PUT", "/bystander/never", [("x-ms-blob-type", "BlockBlob")])
    os.ftruncate(fd, PAGE_BYTES)
    for message, pages, valid in (
        (GET_LARGE, UNSEALED, 0),  # from files
        (listing, UNSEALED[1:20], 0),  # from memory
        (upload, UNSEALED[:3], 3 * PAGE_BYTES),
        (upload, UNSEALED[2:3], 10),
    ):
        packet_ = packet(guest, pages, request, response, message, data_valid=valid)
        assert guest.status_of(packet_) == MALFORMED
    assert os.fstat(fd).st_size == PAGE_BYTES, "the host made it long again"
    assert guest.status_of(packet(guest, UNSEALED[:1], request, response, GET_SMALL)) == 0
    guest.put(packet(guest, [], request, response, bhttp_request("HEAD", "/bystander/never")))
    _, status, response_bytes = guest.completion()
    at = 4 * PAGE_BYTES
    assert status == 0
    assert b"BlobNotFound" in bytes(guest.memory[at : at + response_bytes])


def test_cutting_and_growing_all_the_time_harms_only_those_requests(siege: Siege) -> None:
    """No SIGBUS, whatever the moment: the host is the same process afterwards, and the bystander reads."""
    guest, fd = with_unsealed(siege)
    stop = threading.Event()

    def cut() -> None:
        while not stop.is_set():
            os.ftruncate(fd, PAGE_BYTES)
            os.ftruncate(fd, UNSEALED_PAGES * PAGE_BYTES)

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        upload = bhttp_request("PUT", "/bystander/perhaps", [("x-ms-blob-type", "BlockBlob")])
        statuses = []
        for round_ in range(400):
            message, valid = (GET_LARGE, 0) if round_ % 2 else (upload, 70 * PAGE_BYTES)
            one = packet(guest, UNSEALED, sealed_pages(0, 4), sealed_pages(4, 4), message, data_valid=valid)
            statuses.append(guest.status_of(one))
    finally:
        stop.set()
        cutter.join()
    assert set(statuses) <= {0, MALFORMED}
    assert siege.host.holdings()
    delete = bhttp_request("DELETE", "/bystander/perhaps")
    assert guest.status_of(packet(guest, [], sealed_pages(0, 4), sealed_pages(4, 4), delete)) == 0
