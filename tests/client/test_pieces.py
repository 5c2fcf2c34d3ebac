"""Design rule 6, the guest's side: bodies in pieces, each moved by one side while the other copies its neighbour.

The conversations are driven by hand: a scripted host answers every packet at once and every step is noted.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pvblob import _native
from pvblob.client.conversation import PIECE_BYTES, Packet, download, envelope, upload
from pvblob.client.sinks import Answer, BufferSink, BytesSink, LentSink, Sink
from pvblob.client.steps import Collect, Fill, Lend, Post
from pvblob.errors import RemoteProtocolError
from pvblob.http import Fields, Request

SIZE = 2 * PIECE_BYTES + 4097
CONTENT = bytes(range(251)) * (SIZE // 251 + 1)
GUID = bytes(16)


@pytest.fixture(scope="module")
def memory() -> _native.LentMemory:
    """Lent memory that no host has seen."""
    lent = _native.LentMemory(1 << 30)
    prepared = lent.prepare(64 << 20)
    assert prepared is not None
    lent.activate(prepared[0])
    return lent


class ScriptedHost:
    """Answers packets about a body of SIZE bytes and notes each step. optional: it lends optional pages."""

    def __init__(self, memory: _native.LentMemory, *, optional: bool = True) -> None:
        self.memory = memory
        self.optional = optional
        self.notes: list[str] = []
        self.received = bytearray()
        self.read_bytes = 0
        self.forgets_at: int | None = None

    def drive(self, conversation: Generator[Any, Any, Answer]) -> Answer:
        result: Any = None
        try:
            while True:
                step = conversation.send(result)
                result = getattr(self, type(step).__name__.lower())(step)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def lend(self, step: Lend) -> _native.LentBuffer | None:
        return self.memory.allocate(step.size_bytes) if self.optional or not step.optional else None

    def fill(self, step: Fill) -> int:
        self.notes.append("fill")
        step.into[:] = CONTENT[self.read_bytes : self.read_bytes + len(step.into)]
        self.read_bytes += len(step.into)
        return len(step.into)

    def post(self, step: Post) -> tuple[int, int]:
        self.notes.append("post")
        fields = dict(_native.decode_request(bytes(step.request))[4])
        assert step.data is not None
        message = self._stored(step, fields) if step.data_valid else self._placed(step, fields)
        memoryview(step.response)[: len(message)] = message
        return 0, len(message)

    def _placed(self, step: Post, fields: dict[str, str]) -> bytes:
        at = int(fields.get("pvblob-body-offset", 0))
        if self.forgets_at is not None and at >= self.forgets_at:
            return _native.encode_response(410, [("content-length", "0")], b"")
        assert step.data is not None
        part = CONTENT[at : min(at + len(step.data), SIZE)]
        memoryview(step.data)[: len(part)] = part
        total = SIZE if at == 0 else len(part)
        pairs = [("content-length", str(total)), ("pvblob-data-length", str(len(part)))]
        return _native.encode_response(200, pairs, b"")

    def _stored(self, step: Post, fields: dict[str, str]) -> bytes:
        assert int(fields["pvblob-body-offset"]) == len(self.received)
        assert step.data is not None
        self.received += memoryview(step.data)[: step.data_valid]
        if len(self.received) < SIZE:
            pairs = [("content-length", "0"), ("pvblob-body-received", str(len(self.received)))]
            return _native.encode_response(202, pairs, b"")
        return _native.encode_response(201, [("content-length", "0")], b"")

    def collect(self, step: Collect) -> tuple[int, int]:
        self.notes.append("collect")
        return step.ticket  # type: ignore[no-any-return]


def packet(host: ScriptedHost, method: str) -> Packet:
    pages = host.drive(envelope())  # type: ignore[arg-type]
    request = Request(method, "https", "devstoreaccount1.blob.core.windows.net", "/c/b", Fields())
    return Packet(request, GUID, False, pages)  # type: ignore[arg-type]


def noting(host: ScriptedHost, sink: Sink) -> Sink:
    take = sink.take

    def noted(data: _native.LentBuffer, length: int) -> None:
        host.notes.append("take")
        take(data, length)

    sink.take = noted  # type: ignore[method-assign]
    return sink


def test_each_piece_of_a_download_is_copied_while_the_host_fills_the_next(memory: _native.LentMemory) -> None:
    host = ScriptedHost(memory)
    answer = host.drive(download(packet(host, "GET"), noting(host, BytesSink()), PIECE_BYTES))
    assert answer.content == CONTENT[:SIZE]
    assert host.notes == ["post", "collect", "post", "take", "collect", "post", "take", "collect", "take"]


def test_each_piece_of_an_upload_is_filled_while_the_host_stores_the_one_before(memory: _native.LentMemory) -> None:
    host = ScriptedHost(memory)
    answer = host.drive(upload(packet(host, "PUT"), SIZE, None))
    assert (answer.status, bytes(host.received)) == (201, CONTENT[:SIZE])
    assert host.notes == ["fill", "post", "fill", "collect", "post", "fill", "collect", "post", "collect"]


def test_without_memory_for_a_second_buffer_the_pieces_take_turns_in_one(memory: _native.LentMemory) -> None:
    """Rule 10: spent memory makes a request slower, not wrong."""
    host = ScriptedHost(memory, optional=False)
    answer = host.drive(download(packet(host, "GET"), noting(host, BytesSink()), PIECE_BYTES))
    assert answer.content == CONTENT[:SIZE]
    assert host.notes == ["post", "collect", "take"] * 3
    host = ScriptedHost(memory, optional=False)
    assert host.drive(upload(packet(host, "PUT"), SIZE, None)).status == 201
    assert bytes(host.received) == CONTENT[:SIZE]
    assert host.notes == ["fill", "post", "collect"] * 3


def test_an_upload_from_lent_memory_is_sent_where_it_lies(memory: _native.LentMemory) -> None:
    host = ScriptedHost(memory)
    lent = memory.allocate(SIZE)
    assert lent is not None
    memoryview(lent)[:] = CONTENT[:SIZE]
    assert host.drive(upload(packet(host, "PUT"), SIZE, lent)).status == 201
    assert bytes(host.received) == CONTENT[:SIZE]
    assert "fill" not in host.notes


@pytest.mark.parametrize("optional", [True, False], ids=["two buffers", "one buffer"])
def test_a_download_fills_the_programs_own_buffer(memory: _native.LentMemory, optional: bool) -> None:
    host = ScriptedHost(memory, optional=optional)
    out = bytearray(SIZE + 1)
    answer = host.drive(download(packet(host, "GET"), BufferSink(memoryview(out)), PIECE_BYTES))
    assert (answer.written, out[:SIZE], out[SIZE]) == (SIZE, CONTENT[:SIZE], 0)


def test_a_download_lands_in_lent_pages_piece_behind_piece(memory: _native.LentMemory) -> None:
    host = ScriptedHost(memory)
    answer = host.drive(download(packet(host, "GET"), LentSink(None, SIZE), PIECE_BYTES))
    assert answer.view is not None
    assert bytes(answer.view) == CONTENT[:SIZE]


def test_an_answer_too_large_for_the_buffer_is_refused_before_a_byte_is_written(memory: _native.LentMemory) -> None:
    host = ScriptedHost(memory)
    out = bytearray(SIZE - 1)
    with pytest.raises(ValueError, match=f"{SIZE} bytes, the buffer holds {SIZE - 1}"):
        host.drive(download(packet(host, "GET"), BufferSink(memoryview(out)), PIECE_BYTES))
    assert not any(out)


def test_an_answer_that_the_host_lets_go_of_is_lost_not_cut_short(memory: _native.LentMemory) -> None:
    host = ScriptedHost(memory)
    host.forgets_at = 2 * PIECE_BYTES
    with pytest.raises(RemoteProtocolError, match=f"no longer keeps the rest of /c/b at byte {2 * PIECE_BYTES}"):
        host.drive(download(packet(host, "GET"), BytesSink(), PIECE_BYTES))


# ---- bytes built from pieces


def test_a_builder_hands_out_its_bytes_once_and_only_whole(memory: _native.LentMemory) -> None:
    lent = memory.allocate(10)
    assert lent is not None
    memoryview(lent)[:] = b"0123456789"
    builder = _native.BytesBuilder(15)
    builder.add(lent, 10)
    with pytest.raises(ValueError, match="10 of 15 bytes"):
        builder.finish()
    with pytest.raises(IndexError, match="6 bytes: the piece has 10, 5 are missing"):
        builder.add(lent, 6)
    with pytest.raises(IndexError):
        builder.add(lent.slice(0, 2), 3)
    builder.add(lent, 5)
    assert builder.finish() == b"012345678901234"
    with pytest.raises(ValueError, match="handed out"):
        builder.finish()
    with pytest.raises(ValueError, match="handed out"):
        builder.add(lent, 0)


def test_a_piece_is_copied_only_where_it_fits(memory: _native.LentMemory) -> None:
    lent = memory.allocate(10)
    assert lent is not None
    memoryview(lent)[:] = b"0123456789"
    out = bytearray(4)
    lent.copy_to(memoryview(out)[1:3], 2)
    assert out == b"\x0001\x00"
    with pytest.raises(IndexError):
        lent.copy_to(out, 5)
    with pytest.raises(BufferError):
        lent.copy_to(b"read-only", 2)
