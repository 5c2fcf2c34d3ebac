"""Structured messages: what the SDK's own encoder sends is stored unframed, what we frame its decoder accepts, and no
damage to any frame passes. The oracle is azure-storage-blob's code, the format that of blobs/structured.py."""

from __future__ import annotations

import asyncio
import io
import random

import pytest
from azure.storage.blob._shared.streams import (
    StructuredMessageDecoder,
    StructuredMessageEncodeStream,
    StructuredMessageProperties,
)

from pvblob.blobs import structured

HEADER = "XSM/1.0; properties=crc64"
SIZES = [0, 1, 9, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (9 << 20) + 7]


def encoded(data: bytes, segment_bytes: int = 4 << 20) -> bytes:
    flags = StructuredMessageProperties.CRC64
    return StructuredMessageEncodeStream(io.BytesIO(data), len(data), flags, segment_size=segment_bytes).read()


def decoded(framed: bytes, piece_bytes: int = 1 << 20) -> bytes:
    pieces = (framed[at : at + piece_bytes] for at in range(0, len(framed), piece_bytes))
    return b"".join(StructuredMessageDecoder(pieces, len(framed), block_size=1 << 20))


def upload_fields(size: int) -> dict[str, str]:
    return {"x-ms-structured-body": HEADER, "x-ms-structured-content-length": str(size)}


@pytest.fixture
def put(call):
    async def put(framed: bytes, size: int):
        return await call("PUT", "/con/b", {"x-ms-blob-type": "BlockBlob", **upload_fields(size)}, framed)

    return put


@pytest.mark.parametrize("size", SIZES)
async def test_what_the_sdk_frames_is_stored_without_frames_and_read_back_with_them(call, put, size):
    data = random.Random(size).randbytes(size)
    answer = await put(encoded(data), size)
    assert (answer.status, answer.fields.get("x-ms-structured-body")) == (201, HEADER)
    plain = await call("GET", "/con/b")
    assert plain.body == data
    framed = await call("GET", "/con/b", {"x-ms-structured-body": HEADER})
    assert framed.fields.get("x-ms-structured-body") == HEADER
    assert framed.fields.get("x-ms-structured-content-length") == str(size)
    assert decoded(framed.body) == data
    assert call.service._store.extents._pins == {}


async def test_a_range_over_several_blocks_is_framed_and_block_and_message_borders_do_not_matter(call):
    """The frames cut the content wherever 4 MiB end, the blob's blocks lie where they lie."""
    pieces = [random.Random(number).randbytes(3 << 20) for number in range(4)]
    names = [f"AAA{number}" for number in range(4)]
    for name, piece in zip(names, pieces, strict=True):
        assert (await call("PUT", f"/con/b?comp=block&blockid={name}", {}, piece)).status == 201
    listed = "".join(f"<Latest>{name}</Latest>" for name in names)
    await call("PUT", "/con/b?comp=blocklist", {}, f"<BlockList>{listed}</BlockList>".encode())
    fields = {"x-ms-structured-body": HEADER, "x-ms-range": "bytes=1000000-11999999"}
    answer = await call("GET", "/con/b", fields)
    assert (answer.status, answer.fields.get("content-range")) == (206, f"bytes 1000000-11999999/{12 << 20}")
    assert decoded(answer.body) == b"".join(pieces)[1000000:12000000]


async def test_a_block_may_be_framed_in_any_segments(call):
    data = random.Random(5).randbytes(100_000)
    staged = await call("PUT", "/con/b?comp=block&blockid=AAAA", upload_fields(len(data)), encoded(data, 999))
    assert (staged.status, staged.fields.get("x-ms-structured-body")) == (201, HEADER)
    body = b"<BlockList><Latest>AAAA</Latest></BlockList>"
    assert (await call("PUT", "/con/b?comp=blocklist", {}, body)).status == 201
    assert (await call("GET", "/con/b")).body == data


@pytest.mark.parametrize("seed", range(40))
async def test_no_damage_to_a_message_is_stored(call, put, seed):
    """Every bit of a message matters: one that flips anywhere is refused, and nothing is left of the upload."""
    chance = random.Random(seed)
    data = chance.randbytes(3000)
    framed = bytearray(encoded(data, 1000))
    at = chance.randrange(len(framed)) if seed >= 13 else seed
    framed[at] ^= 1 << chance.randrange(8)
    answer = await put(bytes(framed), len(data))
    assert answer.status == 400, (seed, at)
    assert answer.code in ("InvalidInput", "Crc64Mismatch")
    used, free = call.service._store.extents.usage()
    assert used == free


@pytest.mark.parametrize(
    "message",
    [b"", b"\x01", encoded(b"abc")[:-1], encoded(b"abc") + b"x", encoded(b"abcd"), encoded(b"ab"), bytes(49)],
    ids=["nothing", "one byte", "cut", "longer", "more content", "less content", "zeros"],
)
async def test_a_body_that_is_no_message_of_the_stated_content_is_refused(call, put, message):
    answer = await put(message, 3)
    assert (answer.status, answer.code) == (400, "InvalidInput")
    used, free = call.service._store.extents.usage()
    assert used == free


@pytest.mark.parametrize("stated", [None, "", "-1", "x", "9" * 16])
async def test_the_content_length_must_be_stated(call, stated):
    fields = {"x-ms-blob-type": "BlockBlob", "x-ms-structured-body": HEADER}
    if stated is not None:
        fields["x-ms-structured-content-length"] = stated
    assert (await call("PUT", "/con/b", fields, encoded(b"abc"))).code == "MissingRequiredHeader"


async def test_an_unknown_version_is_refused_on_reads_too(call):
    await call.put("/con/b", b"1")
    answer = await call("GET", "/con/b", {"x-ms-structured-body": "XSM/1.0; properties=sha256"})
    assert (answer.status, answer.code) == (400, "InvalidHeaderValue")


async def test_a_cancelled_framing_lets_go_of_its_content(call, monkeypatch):
    await call.put("/con/b", bytes(9 << 20))
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    checksums = structured._checksums

    def noticed(*arguments):
        loop.call_soon_threadsafe(started.set)
        return checksums(*arguments)

    monkeypatch.setattr(structured, "_checksums", noticed)
    task = asyncio.create_task(call.raw("GET", "/con/b", {"x-ms-structured-body": HEADER}))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.service._store.extents._pins == {}
