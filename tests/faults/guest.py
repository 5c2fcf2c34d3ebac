"""A guest made of nothing but system calls: it can do what the specification forbids. No VSC code is used.

It speaks the raw bus (`pvblob.vmbus.messages` only turns classes into bytes; any bytes may be sent), writes rings with
`tests.faults.ring` and lays buffers out by hand. Every wait has a bound, and a broken promise of the host is an
AssertionError. Sources: spec/vmbus.md §3.1, spec/azure-blob-device.md §2, docs/wire-protocol.md.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, TypeVar

from pvblob.vmbus import messages as m
from tests.faults import ring as raw
from tests.faults.buffers import bhttp_request, device_request, read_response
from tests.faults.ring import PAGE_BYTES, Ring

WAIT_S = 10.0
RING_BYTES = 64 * 1024
RINGS_GPA, DATA_GPA = 0x1000_0000, 0x2000_0000
RING_PFNS = range(RINGS_GPA // PAGE_BYTES, (RINGS_GPA + 2 * RING_BYTES) // PAGE_BYTES)
GPADL_ID = 0xE1E10
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
# One request's place in the data region, in pages: data, request message, response.
SLOT_DATA, SLOT_REQUEST, SLOT_RESPONSE = 16, 4, 4
SLOT_PAGES = SLOT_DATA + SLOT_REQUEST + SLOT_RESPONSE
PLACES = (SLOT_DATA * PAGE_BYTES, SLOT_REQUEST * PAGE_BYTES, SLOT_RESPONSE * PAGE_BYTES)
SLOTS = 64
M = TypeVar("M", bound=m.Message)


def memfd(length: int, *, seals: int = SEALS, flags: int = 0) -> int:
    """Make memory to lend: sealed as the host wants it unless told otherwise."""
    fd = os.memfd_create("attacker", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    os.ftruncate(fd, length)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


class RawGuest:
    """One connection to the host. `opened` goes the legal way to an open channel; the rest is up to the attack."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self.socket.settimeout(WAIT_S)
        self.socket.connect(path)
        self._own: list[int] = []
        self._maps: list[mmap.mmap] = []
        self.descriptors: list[int] = []
        self.relid = 0

    def close(self) -> None:
        """Leave without a word, as a process that dies does."""
        self.socket.close()
        for fd in self._own + self.descriptors:
            os.close(fd)
        self._own, self.descriptors = [], []

    def keep(self, fd: int) -> int:
        """Close *fd* when this guest leaves."""
        self._own.append(fd)
        return fd

    # ---- the bus

    def send(self, message: m.Message | bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a message or any bytes, with any descriptors."""
        datagram = message if isinstance(message, bytes) else m.encode(message)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self.socket.sendmsg([datagram], rights)

    def try_send(self, message: m.Message | bytes) -> bool:
        """Send if the host has not ended the connection and its queue has room; say whether it went."""
        try:
            self.socket.send(message if isinstance(message, bytes) else m.encode(message), socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def receive(self) -> m.Message | None:
        """Return the host's next message, None at the end; descriptors that came with it are kept in `descriptors`."""
        try:
            datagram, ancillary, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(16))
        except ConnectionResetError:
            return self.receive()  # the host closed without reading all we sent; what it had said is still there
        for _, _, rights in ancillary:
            self.descriptors += array.array("i", rights[: len(rights) // 4 * 4])
        return m.decode(datagram) if datagram else None

    def expect(self, kind: type[M]) -> M:
        """Return the next message, which must be of *kind*."""
        message = self.receive()
        assert isinstance(message, kind), f"{message} came where {kind.NAME} was due"
        return message

    def refusal(self) -> str:
        """Return why the host ended the connection; what it said before is skipped."""
        text = "(no REFUSED before the end)"
        while (message := self.receive()) is not None:
            if isinstance(message, m.Refused):
                text = message.text
        return text

    # ---- the legal way

    def contacted(self) -> RawGuest:
        """Agree on a version and ask for the offer."""
        self.send(m.InitiateContact(0x50003))
        assert self.expect(m.VersionResponse).supported
        self.expect(m.HostPage)
        self.send(m.RequestOffers())
        self.relid = self.expect(m.OfferChannel).relid
        self.expect(m.AllOffersDelivered)
        return self

    def lend(self, gpa: int, length: int, fd: int | None = None, *, flags: int = 1) -> int:
        """Lend memory, ours unless *fd* says otherwise; return the host's status."""
        fd = self.keep(memfd(length)) if fd is None else fd
        self.send(m.MemoryRegion(gpa, length, flags), [fd])
        return self.expect(m.MemoryRegionResult).status

    def map(self, gpa: int, length: int) -> memoryview:
        """Lend fresh memory, map it here too, and return the view."""
        fd = self.keep(memfd(length))
        assert self.lend(gpa, length, fd) == 0
        mapped = mmap.mmap(fd, length)
        self._maps.append(mapped)
        return memoryview(mapped)

    def describe(self, pfns: Sequence[int], gpadl_id: int = GPADL_ID, **lies: int) -> None:
        """Send the header and bodies of a GPADL over *pfns*; *lies* replace header fields."""
        told: dict[str, Any] = {
            "range_buffer_bytes": 8 + 8 * len(pfns),
            "range_count": 1,
            "byte_count": len(pfns) * PAGE_BYTES,
            "byte_offset": 0,
        } | lies
        self.send(m.GpadlHeader(self.relid, gpadl_id, pfns=tuple(pfns[:26]), **told))
        for number, first in enumerate(range(26, len(pfns), 28), start=1):
            self.send(m.GpadlBody(gpadl_id, tuple(pfns[first : first + 28]), message_number=number))

    def open_message(self, *, downstream: int = RING_BYTES // PAGE_BYTES, gpadl_id: int = GPADL_ID) -> m.OpenChannel:
        """Return a legal OPEN_CHANNEL."""
        return m.OpenChannel(self.relid, self.relid, gpadl_id, downstream, os.urandom(16).ljust(120, b"\0"))

    def opened(self) -> RawGuest:
        """Open a channel: rings of 64 KiB each, a data region with `SLOTS` places for requests."""
        self.contacted()
        self.rings = self.map(RINGS_GPA, 2 * RING_BYTES)
        self.memory = self.map(DATA_GPA, SLOTS * SLOT_PAGES * PAGE_BYTES)
        self.memory_fd = self._own[-1]
        self.describe(RING_PFNS)
        assert self.expect(m.GpadlCreated).status == 0
        return self.reopened()

    def reopened(self) -> RawGuest:
        """Open the channel on the GPADL there is, with rings as new."""
        self.rings[:PAGE_BYTES] = bytes(PAGE_BYTES)
        self.rings[RING_BYTES : RING_BYTES + PAGE_BYTES] = bytes(PAGE_BYTES)
        self.sending, self.receiving = Ring(self.rings[:RING_BYTES]), Ring(self.rings[RING_BYTES:])
        for ring in (self.sending, self.receiving):
            ring.set_word(raw.FEATURE_BITS, 1)
        self.send(self.open_message())
        self.expect(m.Doorbells)
        self.bell, self.bell_socket = self.descriptors[-2:]
        assert self.expect(m.OpenChannelResult).status == 0
        return self

    # ---- the channel

    def ring_bell(self) -> None:
        """Signal the host."""
        os.write(self.bell, struct.pack("=Q", 1))

    def put(self, *packets: bytes) -> None:
        """Write packets, publish them, and signal the host whether it asked for it or not."""
        for one in packets:
            self.sending.write(one)
        self.sending.commit()
        self.ring_bell()

    def pfns(self, slot: int = 0) -> list[int]:
        """Return the pages of a place: data, request, response."""
        first = DATA_GPA // PAGE_BYTES + slot * SLOT_PAGES
        return list(range(first, first + SLOT_PAGES))

    def place(self, slot: int = 0) -> int:
        """Return the byte of the data region at which a place begins."""
        return slot * SLOT_PAGES * PAGE_BYTES

    def request(self, transaction_id: int, message: bytes, *, slot: int = 0, **device: Any) -> bytes:
        """Write *message* into a place; return the packet for it. *device* replaces fields of the 56 bytes."""
        at = self.place(slot) + SLOT_DATA * PAGE_BYTES
        self.memory[at : at + len(message)] = message
        payload = device_request(PLACES, **{"request_length": len(message), **device})
        header = raw.range_header(self.pfns(slot))
        return raw.packet(raw.GPA_DIRECT, transaction_id, payload, header=header, flags=1)

    def ask(self, target: str, transaction_id: int = 1, *, slot: int = 0, method: str = "GET", **device: Any) -> bytes:
        """Return the packet of a plain request for *target*."""
        fields = device.pop("fields", ())
        return self.request(transaction_id, bhttp_request(method, target, fields), slot=slot, **device)

    def completion(self) -> tuple[int, int, int]:
        """Wait for one completion: (transaction id, device status, response length)."""
        deadline = time.monotonic() + WAIT_S
        while (taken := self.receiving.take()) is None:
            self.receiving.set_word(raw.INTERRUPT_MASK, 0)
            left = deadline - time.monotonic()
            assert left > 0, "no completion came"
            if select.select([self.bell_socket], [], [], min(left, 0.05))[0]:
                assert os.read(self.bell_socket, 4096), "the host closed the doorbell"
        assert (taken.kind, taken.flags) == (raw.COMPLETION, 0)
        length, status, response_bytes = struct.unpack_from("<III", taken.payload)
        assert length == 12
        return taken.transaction_id, status, response_bytes

    def status_of(self, *packets: bytes) -> int:
        """Send packets and return the device status of the one completion that comes."""
        self.put(*packets)
        return self.completion()[1]

    def response(self, response_bytes: int, slot: int = 0) -> tuple[int, dict[str, str], bytes]:
        """Decode what lies in a place's response buffer: (HTTP status, fields, content)."""
        at = self.place(slot) + (SLOT_DATA + SLOT_REQUEST) * PAGE_BYTES
        return read_response(bytes(self.memory[at : at + response_bytes]))

    def fetch(self, target: str) -> bytes:
        """Read a blob that fits one place: the channel works."""
        self.put(self.ask(target, 0xFE7C4))
        transaction_id, status, response_bytes = self.completion()
        assert (transaction_id, status) == (0xFE7C4, 0)
        http_status, fields, content = self.response(response_bytes)
        assert http_status == 200, content
        at = self.place()
        return bytes(self.memory[at : at + int(fields["pvblob-data-length"])])
