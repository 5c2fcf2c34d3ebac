"""Structured messages: content framed in segments, each followed by its CRC-64/NVME; what azure-storage-blob sends and
asks for with `validate_content="crc64"`.

    message  = version u8 (1) · message length u64 · properties u16 (bit 0: crc64) · segments u16
               segments, then CRC-64 of all content
    segment  = number u16 (from 1) · content length u64 · content · CRC-64 of the content      (all little-endian)

Upload: the framed body lands in a run of its own, is checked segment by segment while its content is copied to the run
that stays, and the first run is given back: nothing unchecked is ever committed. Download: the checksums are computed
from the pinned extents in a thread, frames go to a memfd, and the answer is extents of both, so that content moves from
the page cache as ever. Source: the header x-ms-structured-body of Azure REST, "Put Blob", "Get Blob".
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass

from pvblob import _native
from pvblob.blobs.answers import Call, Pairs, Refusal
from pvblob.blobs.committer import storage_failure
from pvblob.blobs.extents import Allocation
from pvblob.blobs.layout import Block
from pvblob.blobs.segment_work import read_run, to_the_end
from pvblob.blobs.store import EMPTY_MD5, Store, Written
from pvblob.http import Extent, Fields, FileContent

STRUCTURED_BODY = "x-ms-structured-body"
STRUCTURED_LENGTH = "x-ms-structured-content-length"
SEGMENT_BYTES = 4 << 20
SEGMENTS_MAX = 0xFFFF
_STEP_BYTES = 4 << 20
_CRC64 = 1

_MESSAGE = struct.Struct("<BQHH")
_SEGMENT = struct.Struct("<HQ")
_CHECKSUM = struct.Struct("<Q")
_KNOWN = re.compile(r"\s*XSM/1\.0\s*;\s*properties\s*=\s*crc64\s*\Z", re.IGNORECASE)


def is_structured(fields: Fields) -> bool:
    """Say whether the request speaks of structured content. Refuses a version or property that is not known."""
    asked = fields.get(STRUCTURED_BODY)
    if asked is None:
        return False
    if _KNOWN.match(asked) is None:
        raise Refusal("InvalidHeaderValue", f"{STRUCTURED_BODY} is XSM/1.0; properties=crc64.")
    return True


def content_bytes(call: Call) -> int:
    """Return how many bytes of content the request's body holds, frames left out."""
    if not is_structured(call.fields):
        return call.body.size_bytes
    stated = call.fields.get(STRUCTURED_LENGTH) or ""
    if not (stated.isascii() and stated.isdigit() and len(stated) <= 15):
        raise Refusal("MissingRequiredHeader", f"{STRUCTURED_LENGTH} is missing or no number of bytes.")
    return int(stated)


def echo(fields: Fields) -> Pairs:
    """Return what an accepted upload answers with: the SDK compares it with what it sent."""
    asked = fields.get(STRUCTURED_BODY)
    return [] if asked is None else [(STRUCTURED_BODY, asked)]


async def store_content(store: Store, call: Call, *, md5: bool) -> Written:
    """Write the request's content, unframed, to a run of its own; the caller owes `commit` or `discard`."""
    size = content_bytes(call)
    if not is_structured(call.fields):
        return await store.store_body(call.body, md5=md5)
    framed = await store.store_body(call.body, md5=False)
    try:
        if framed.block is None:
            raise _broken("it is empty")
        return await _unframe(store, framed.allocations[0], size, md5)
    finally:
        store.discard(framed)


async def _unframe(store: Store, framed: Allocation, size: int, md5: bool) -> Written:
    target: Allocation | None = None
    try:
        target = store.extents.allocate(size) if size else None
        message = _Message(framed, target, size, _native.Digest(md5))
        await to_the_end(message.unframe)
    except BaseException as error:
        if target is not None:
            store.extents.give_back((target,))
        raise storage_failure(error) if isinstance(error, OSError) else error from None
    digest = message.digest
    if target is None:
        return Written(None, 0, EMPTY_MD5 if md5 else None, ())
    block = Block(target.segment, target.offset, size, digest.crc64)
    return Written(block, digest.crc64, digest.md5(), (target,))


@dataclass(slots=True)
class _Message:
    """A framed body in its run, being taken apart. Runs in a thread; every read is of private, unchanging bytes."""

    framed: Allocation
    target: Allocation | None
    size: int
    digest: _native.Digest
    _at: int = 0
    _placed: int = 0

    def unframe(self) -> None:
        """Check every frame and checksum, and copy the content to the target. Refuses what does not add up."""
        version, length, properties, segments = _MESSAGE.unpack(self._take(_MESSAGE.size))
        if version != 1 or properties != _CRC64 or not segments:
            raise _broken("its header is not that of XSM/1.0 with crc64")
        if length != self.framed.length:
            raise _broken(f"its header says {length} bytes, {self.framed.length} came")
        for number in range(1, segments + 1):
            self._segment(number)
        if self._placed != self.size:
            raise _broken(f"it holds {self._placed} bytes of content, {STRUCTURED_LENGTH} says {self.size}")
        if _CHECKSUM.unpack(self._take(_CHECKSUM.size))[0] != self.digest.crc64:
            raise Refusal("Crc64Mismatch", "That of the whole structured message.")
        if self._at != self.framed.length:
            raise _broken("bytes follow its end")

    def _segment(self, number: int) -> None:
        found, length = _SEGMENT.unpack(self._take(_SEGMENT.size))
        if found != number or length > self.size - self._placed:
            raise _broken(f"segment {number} has number {found} and {length} bytes")
        crc64, end = 0, self._placed + length
        while self._placed < end:
            piece = self._take(min(_STEP_BYTES, end - self._placed))
            crc64 = _native.crc64(piece, crc64)
            assert self.target is not None
            self.digest.write(piece, self.target.fd, self.target.offset + self._placed)
            self._placed += len(piece)
        if _CHECKSUM.unpack(self._take(_CHECKSUM.size))[0] != crc64:
            raise Refusal("Crc64Mismatch", f"That of segment {number} of the structured message.")

    def _take(self, length: int) -> bytes:
        if length > self.framed.length - self._at:
            raise _broken("it ends early")
        taken = read_run(self.framed.fd, length, self.framed.offset + self._at)
        self._at += length
        return taken


def _broken(reason: str) -> Refusal:
    return Refusal("InvalidInput", f"The body is no structured message: {reason}.")


async def framed(content: FileContent) -> tuple[FileContent, Pairs]:
    """Return *content* (taken over, released on failure) as a structured message, and the fields that say so."""
    size = content.size_bytes
    frames_fd = -1
    try:
        frames_fd = os.memfd_create("pvblob-frames", os.MFD_CLOEXEC)
        frames = _Frames(frames_fd, content, size)
        await to_the_end(frames.build)
    except BaseException:
        if frames_fd >= 0:
            os.close(frames_fd)
        content.release()
        raise
    pairs = [(STRUCTURED_BODY, "XSM/1.0; properties=crc64"), (STRUCTURED_LENGTH, str(size))]
    return FileContent(tuple(frames.extents), _Release(content, frames_fd)), pairs


@dataclass(slots=True)
class _Release:
    """Lets go of the content and of the frames around it, once."""

    content: FileContent
    frames_fd: int

    def __call__(self) -> None:
        frames_fd, self.frames_fd = self.frames_fd, -1
        if frames_fd >= 0:
            os.close(frames_fd)
            self.content.release()


class _Frames:
    """The frames of a message, written to a memfd, and the extents that make the whole message."""

    def __init__(self, fd: int, content: FileContent, size: int) -> None:
        self.extents: list[Extent] = []
        self._fd = fd
        self._parts = list(content.extents)
        self._size = size
        # A message has at most 65,535 segments: those of a very large blob grow instead.
        self._segment_bytes = max(SEGMENT_BYTES, -(-size // SEGMENTS_MAX))
        self._written = 0

    def build(self) -> None:
        """Read the content once for its checksums; write header, segment frames and footer."""
        count = max(1, -(-self._size // self._segment_bytes))
        length = _MESSAGE.size + count * (_SEGMENT.size + _CHECKSUM.size) + self._size + _CHECKSUM.size
        frame, crc64_all = _MESSAGE.pack(1, length, _CRC64, count), 0
        for number in range(1, count + 1):
            segment = min(self._segment_bytes, self._size - (number - 1) * self._segment_bytes)
            self._add_frame(frame + _SEGMENT.pack(number, segment))
            crc64, left = 0, segment
            while left:
                part = self._next_part(left)
                self.extents.append(part)
                crc64, crc64_all = _checksums(part, crc64, crc64_all)
                left -= part.length
            frame = _CHECKSUM.pack(crc64)
        self._add_frame(frame + _CHECKSUM.pack(crc64_all))

    def _add_frame(self, frame: bytes) -> None:
        os.pwrite(self._fd, frame, self._written)
        self.extents.append(Extent(self._fd, self._written, len(frame)))
        self._written += len(frame)

    def _next_part(self, length_max: int) -> Extent:
        part = self._parts[0]
        if part.length <= length_max:
            return self._parts.pop(0)
        self._parts[0] = Extent(part.fd, part.offset + length_max, part.length - length_max)
        return Extent(part.fd, part.offset, length_max)


def _checksums(part: Extent, crc64: int, crc64_all: int) -> tuple[int, int]:
    done = 0
    while done < part.length:
        piece = read_run(part.fd, min(_STEP_BYTES, part.length - done), part.offset + done)
        crc64, crc64_all = _native.crc64(piece, crc64), _native.crc64(piece, crc64_all)
        done += len(piece)
    return crc64, crc64_all
