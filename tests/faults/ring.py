"""A VMBus ring in pure Python, written from spec/vmbus.md §1 and §2 alone: nothing of ours is behind it.

An attacker must be able to write what our own sender refuses to write, and a golden vector says more when two readers
that share no line agree on it. Memory is any writable buffer that holds the control page and the data pages; a word is
stored by one aligned copy, which x86-64 and Python's `memoryview` make a single store.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

PAGE_BYTES = 4096
WRITE_INDEX, READ_INDEX, INTERRUPT_MASK, PENDING_SEND_SZ, FEATURE_BITS = 0x00, 0x04, 0x08, 0x0C, 0x40
IN_BAND, GPA_DIRECT, CANCEL, COMPLETION = 0x6, 0x9, 0xA, 0xB
DESCRIPTOR = struct.Struct("<HHHHQ")
TRAILER_BYTES = 8


class Packet(NamedTuple):
    """One packet as it stands in a ring. payload: with its padding to 8 bytes."""

    kind: int
    flags: int
    transaction_id: int
    header: bytes  # between descriptor and payload
    payload: bytes


class RingError(ValueError):
    """What the peer wrote cannot be; `name` is the golden vectors' word for it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def packet(
    kind: int,
    transaction_id: int,
    payload: bytes = b"",
    *,
    header: bytes = b"",
    flags: int = 0,
    offset8: int | None = None,
    length8: int | None = None,
) -> bytes:
    """Return a packet's bytes without trailer. offset8, length8: a lie to tell instead of the truth."""
    body = header + payload
    body += bytes(-len(body) % 8)
    true_offset8, true_length8 = (DESCRIPTOR.size + len(header)) // 8, (DESCRIPTOR.size + len(body)) // 8
    told_offset8 = true_offset8 if offset8 is None else offset8
    told_length8 = true_length8 if length8 is None else length8
    return DESCRIPTOR.pack(kind, told_offset8, told_length8, flags, transaction_id) + body


def range_header(
    pfns: Sequence[int], byte_count: int | None = None, byte_offset: int = 0, *, range_count: int = 1
) -> bytes:
    """Return what stands between descriptor and payload of a GPA-direct packet: one range over whole pages *pfns*."""
    count = len(pfns) * PAGE_BYTES if byte_count is None else byte_count
    return struct.pack(f"<IIII{len(pfns)}Q", 0, range_count, count, byte_offset, *pfns)


class Ring:
    """One ring in *memory*: control page first. Either end may be played; an attacker may play both."""

    def __init__(self, memory: memoryview, start: int = 0) -> None:
        self._memory = memory
        self.data_bytes = len(memory) - PAGE_BYTES
        self.write_index = self.read_index = start

    def word(self, offset: int) -> int:
        """Read a word of the control page."""
        return int(struct.unpack_from("<I", self._memory, offset)[0])

    def set_word(self, offset: int, value: int) -> None:
        """Write a word of the control page, whatever it says."""
        self._memory[offset : offset + 4] = struct.pack("<I", value)

    def put_raw(self, at: int, data: bytes) -> int:
        """Write *data* into the data area from index *at*, across its end; return the index behind it."""
        first = min(len(data), self.data_bytes - at)
        self._memory[PAGE_BYTES + at : PAGE_BYTES + at + first] = data[:first]
        self._memory[PAGE_BYTES : PAGE_BYTES + len(data) - first] = data[first:]
        return (at + len(data)) % self.data_bytes

    def take_raw(self, at: int, length: int) -> bytes:
        """Read *length* bytes from index *at*, across the end."""
        first = min(length, self.data_bytes - at)
        return bytes(self._memory[PAGE_BYTES + at : PAGE_BYTES + at + first]) + bytes(
            self._memory[PAGE_BYTES : PAGE_BYTES + length - first]
        )

    def write(self, data: bytes) -> None:
        """Write a packet and its trailer behind the last; the peer sees it after `commit`. No room is checked for."""
        behind = self.put_raw(self.write_index, data)
        self.write_index = self.put_raw(behind, struct.pack("<II", 0, self.write_index))

    def commit(self) -> bool:
        """Publish what was written; return whether the peer must be signalled (§1.4)."""
        before = self.word(WRITE_INDEX)
        self.set_word(WRITE_INDEX, self.write_index)
        return self.word(INTERRUPT_MASK) == 0 and self.word(READ_INDEX) == before

    def free_bytes(self) -> int:
        """Return the free bytes of the ring as its sender sees them."""
        return self.data_bytes - (self.write_index - self.word(READ_INDEX)) % self.data_bytes

    def take(self) -> Packet | None:
        """Take the next packet and give its room back. Raises RingError for what no sender may write (H4 to H7)."""
        write_index = self.word(WRITE_INDEX)
        if write_index >= self.data_bytes or write_index % 8:
            raise RingError("index")
        available = (write_index - self.read_index) % self.data_bytes
        if available == 0:
            return None
        if available < DESCRIPTOR.size + TRAILER_BYTES:
            raise RingError("truncated")
        kind, offset8, length8, flags, transaction_id = DESCRIPTOR.unpack(self.take_raw(self.read_index, 16))
        _judge(kind, offset8 * 8, length8 * 8, flags, available)
        whole = self.take_raw(self.read_index, length8 * 8)
        header, payload = whole[16 : offset8 * 8], whole[offset8 * 8 :]
        if kind == GPA_DIRECT and (len(header) < 8 or header[4:8] == bytes(4)):
            raise RingError("no_ranges")
        self.read_index = (self.read_index + length8 * 8 + TRAILER_BYTES) % self.data_bytes
        self.set_word(READ_INDEX, self.read_index)
        return Packet(kind, flags, transaction_id, header, payload)


def _judge(kind: int, offset: int, length: int, flags: int, available: int) -> None:
    if length + TRAILER_BYTES > available:
        raise RingError("length")
    if offset < DESCRIPTOR.size or offset > length:
        raise RingError("payload_offset")
    if flags & ~1:
        raise RingError("flags")
    if kind not in (IN_BAND, GPA_DIRECT, CANCEL, COMPLETION):
        raise RingError("type")
