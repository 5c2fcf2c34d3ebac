"""What a client promises about blobs, held by Client and AsyncClient alike, over a real channel to a real service."""

from __future__ import annotations

import array
import io
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy
import pytest

import pvblob
from pvblob.client.bodies import BLOCK_BYTES

Content = Callable[[int], bytes]
SIZES = [0, 1, 4096, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES]


@pytest.mark.parametrize("size_bytes", SIZES)
def test_what_was_put_is_what_is_got(either: Any, content: Content, size_bytes: int) -> None:
    data = content(size_bytes)
    written = either.put("things", "b", data)
    assert either.get("things", "b") == data
    known = either.stat("things", "b")
    assert (known.size_bytes, known.etag) == (size_bytes, written.etag)


@pytest.mark.parametrize("size_bytes", [0, 10, BLOCK_BYTES, BLOCK_BYTES + 10])
@pytest.mark.parametrize("kind", ["file", "raw file", "reader", "path", "iterable", "array"])
def test_every_kind_of_source_is_stored_the_same(
    either: Any, content: Content, tmp_path: Path, kind: str, size_bytes: int
) -> None:
    data = content(size_bytes)
    path = tmp_path / "source"
    path.write_bytes(data)

    class Reader:
        """A file that can only `read`, and never as much as it is asked for."""

        def __init__(self) -> None:
            self._file = io.BytesIO(data)

        def read(self, size: int = -1) -> bytes:
            return self._file.read(max(1, size // 3))

    sources: dict[str, Callable[[], object]] = {
        "file": lambda: io.BytesIO(data),
        "raw file": lambda: path.open("rb", buffering=0),
        "reader": Reader,
        "path": lambda: path,
        "iterable": lambda: (data[start : start + 999_999] for start in range(0, size_bytes, 999_999)),
        "array": lambda: array.array("H", data),
    }
    source = sources[kind]()
    either.put("things", "b", source)
    assert either.get("things", "b") == data
    if hasattr(source, "close"):
        source.close()


def test_an_async_client_stores_async_iterables_and_files(either: Any, content: Content) -> None:
    data = content(BLOCK_BYTES + 77)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1_000_003):
            yield data[start : start + 1_000_003]

    class AsyncFile:
        def __init__(self) -> None:
            self._file = io.BytesIO(data)

        async def read(self, size: int = -1) -> bytes:
            return self._file.read(size)

    if isinstance(either, pvblob.Client):
        with pytest.raises(TypeError):
            either.put("things", "b", chunks())  # type: ignore[arg-type]
        return
    for source in (chunks(), AsyncFile()):
        either.put("things", "b", source)
        assert either.get("things", "b") == data
        either.delete("things", "b")


@pytest.mark.parametrize("wrong", ["text", 7, [1, 2]])
def test_what_is_not_bytes_is_refused_before_anything_is_sent(either: Any, wrong: object) -> None:
    with pytest.raises(TypeError):
        either.put("things", "b", wrong)
    with pytest.raises(pvblob.NotFound):
        either.stat("things", "b")


def test_a_text_file_is_refused_with_advice(either: Any) -> None:
    with pytest.raises(TypeError, match="binary mode"):
        either.put("things", "b", io.StringIO("text"))


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 10, slice(0, 10)),
        (5, None, slice(5, None)),
        (90, 100, slice(90, 100)),
        (0, 0, slice(0, 0)),
        (99, 1, slice(99, 100)),
    ],
)
def test_a_range_is_cut_at_the_blobs_end(
    either: Any, content: Content, offset: int, length: int | None, expected: slice
) -> None:
    data = content(100)
    either.put("things", "b", data)
    assert either.get("things", "b", offset=offset, length=length) == data[expected]
    assert bytes(either.view("things", "b", offset=offset, length=length)) == data[expected]


def test_a_range_past_the_end_is_an_invalid_range(either: Any) -> None:
    either.put("things", "b", b"0123456789")
    for read in (either.get, either.view):
        with pytest.raises(pvblob.InvalidRange) as caught:
            read("things", "b", offset=10)
        assert isinstance(caught.value, ValueError)


def test_an_empty_blob_read_from_its_start_is_empty(either: Any) -> None:
    either.put("things", "b", b"")
    assert either.get("things", "b") == either.get("things", "b", length=100) == b""
    assert either.view("things", "b").nbytes == either.view("things", "b", length=100).nbytes == 0


def test_negative_places_are_refused(either: Any) -> None:
    with pytest.raises(ValueError, match="negative"):
        either.get("things", "b", offset=-1)
    with pytest.raises(ValueError, match="negative"):
        either.get("things", "b", length=-1)


def test_read_into_fills_the_buffer_and_names_the_version(either: Any, content: Content) -> None:
    data = content(10_000)
    written = either.put("things", "b", data)
    target = bytearray(b"\xaa" * 3000)
    known = either.read_into("things", "b", target, 500)
    assert target == data[500:3500]
    assert (known.name, known.size_bytes, known.etag) == ("b", 10_000, written.etag)


def test_read_into_past_the_end_is_an_invalid_range_that_names_both_sizes(either: Any) -> None:
    either.put("things", "b", b"0123456789")
    with pytest.raises(pvblob.InvalidRange, match="6 bytes from byte 5 pass the blob's end at 10"):
        either.read_into("things", "b", bytearray(6), 5)
    with pytest.raises(pvblob.InvalidRange):
        either.read_into("things", "b", bytearray(), 11)
    untouched = bytearray(4)
    with pytest.raises(pvblob.InvalidRange):
        either.read_into("things", "b", untouched, 10)
    assert untouched == bytes(4)


def test_read_into_fills_arrays_of_other_items(either: Any) -> None:
    numbers = numpy.arange(1000, dtype=numpy.float64)
    either.put("things", "b", numbers)
    target = numpy.zeros(1000)
    either.read_into("things", "b", target)
    assert (target == numbers).all()


def test_a_view_is_in_place_read_only_and_outlives_an_overwrite(either: Any, content: Content) -> None:
    data = content(1 << 20)
    either.put("things", "b", data)
    view = either.view("things", "b")
    numbers = numpy.frombuffer(view, dtype=numpy.uint8)
    assert view.readonly
    assert numbers.nbytes == len(data)
    del view
    either.put("things", "b", b"other")
    assert numbers.tobytes() == data


def test_a_stream_yields_one_version_in_chunks(either: Any, content: Content) -> None:
    data = content(1_000_000)
    either.put("things", "b", data)
    chunks = [bytes(chunk) for chunk in either.stream("things", "b", offset=10, length=900_000, chunk_bytes=400_000)]
    assert [len(chunk) for chunk in chunks] == [400_000, 400_000, 100_000]
    assert b"".join(chunks) == data[10:900_010]


def test_a_stream_yields_what_lies_there_and_no_piece_without_bytes(either: Any, content: Content) -> None:
    data = content(1000)
    either.put("things", "b", data)
    either.put("things", "empty", b"")

    def streamed(blob: str, **span: int) -> list[bytes]:
        return [bytes(piece) for piece in either.stream("things", blob, **span)]

    assert streamed("b") == [data]
    assert streamed("b", chunk_bytes=500) == [data[:500], data[500:]]
    assert streamed("b", offset=999, length=2) == [data[999:]]
    assert (
        streamed("b", offset=1000) == streamed("b", offset=5000) == streamed("b", length=0) == streamed("empty") == []
    )
    with pytest.raises(pvblob.NotFound):
        streamed("none", length=0)
    with pytest.raises(ValueError, match="chunk_bytes is 0"):
        streamed("b", chunk_bytes=0)


def test_a_stream_of_a_replaced_blob_fails_instead_of_mixing_versions(client: pvblob.Client) -> None:
    client.put("things", "b", bytes(1000))
    chunks = client.stream("things", "b", chunk_bytes=400)
    next(chunks)
    client.put("things", "b", bytes(1000))
    with pytest.raises(pvblob.PreconditionFailed):
        next(chunks)


def test_overwrite_false_keeps_what_is_there(either: Any, content: Content) -> None:
    either.put("things", "b", b"first", overwrite=False)
    for data in (b"second", content(BLOCK_BYTES + 1)):
        with pytest.raises(pvblob.AlreadyExists) as caught:
            either.put("things", "b", data, overwrite=False)
        assert isinstance(caught.value, FileExistsError)
    assert either.get("things", "b") == b"first"
    with pytest.raises(ValueError, match="only one"):
        either.put("things", "b", b"", overwrite=False, if_none_match='"e"')


def test_conditions_choose_the_version(either: Any) -> None:
    first = either.put("things", "b", b"1").etag
    second = either.put("things", "b", b"2", if_match=first).etag
    for use in (
        lambda: either.put("things", "b", b"3", if_match=first),
        lambda: either.get("things", "b", if_match=first),
        lambda: either.get("things", "b", if_none_match=second),
        lambda: either.view("things", "b", if_match=first),
        lambda: either.read_into("things", "b", bytearray(1), if_match=first),
        lambda: either.stat("things", "b", if_match=first),
        lambda: either.set_metadata("things", "b", {}, if_match=first),
        lambda: either.delete("things", "b", if_match=first),
    ):
        with pytest.raises(pvblob.PreconditionFailed):
            use()
    assert either.get("things", "b", if_match=second) == b"2"


def test_properties_are_those_that_were_written(either: Any) -> None:
    either.put("things", "b", b"{}", content_type="application/json", metadata={"Owner": "me", "note": "café"})
    known = either.stat("things", "b")
    assert (known.content_type, known.blob_type) == ("application/json", "BlockBlob")
    assert known.metadata == {"Owner": "me", "note": "café"}
    assert abs(datetime.now(UTC) - known.last_modified) < timedelta(minutes=1)
    either.set_metadata("things", "b", {"x": "1"})
    assert either.stat("things", "b").metadata == {"x": "1"}


def test_metadata_of_a_blob_in_blocks_is_kept(either: Any, content: Content) -> None:
    either.put("things", "b", content(BLOCK_BYTES + 1), metadata={"a": "b"}, content_type="text/x-test")
    known = either.stat("things", "b")
    assert (known.metadata, known.content_type) == ({"a": "b"}, "text/x-test")


def test_what_is_missing_is_a_file_not_found(either: Any) -> None:
    for use in (
        lambda: either.get("things", "none"),
        lambda: either.view("things", "none"),
        lambda: either.stat("things", "none"),
        lambda: either.delete("things", "none"),
        lambda: either.read_into("things", "none", bytearray(1)),
        lambda: either.set_metadata("things", "none", {}),
        lambda: list(either.stream("things", "none")),
        lambda: either.put("nowhere", "b", b""),
    ):
        with pytest.raises(pvblob.NotFound) as caught:
            use()
        assert isinstance(caught.value, FileNotFoundError)
    assert either.delete("things", "none", missing_ok=True) is False


def test_errors_name_the_request_and_the_code(either: Any) -> None:
    with pytest.raises(pvblob.NotFound, match=r"404 BlobNotFound: .*GET /things/no%20such") as caught:
        either.get("things", "no such")
    assert (caught.value.status, caught.value.code) == (404, "BlobNotFound")


@pytest.mark.parametrize(
    "name", ["a b", "a/b/c", "100%", "%2F", "ü/日本", "a+b&c=d?e#f", "~._-!$'()*,;:@", "a//b", "."]
)
def test_names_come_back_as_they_were_given(either: Any, name: str) -> None:
    either.put("things", name, name.encode())
    assert either.get("things", name) == name.encode()
    assert either.stat("things", name).name == name
    assert [entry.name for entry in either.list("things")] == [name]
    assert either.delete_many("things", [name]) == {}
    assert list(either.list("things")) == []


def test_handles_are_the_client_with_names_bound(either: Any) -> None:
    container = either.container("others")
    blob = container.blob("b")
    finish = getattr(either, "_finish", lambda value: value)
    assert finish(container.create()) is True
    assert finish(container.create(exist_ok=True)) is False
    finish(blob.put(b"0123456789", metadata={"k": "v"}))
    assert finish(blob.get(offset=2, length=3)) == b"234"
    assert bytes(finish(blob.view(length=4))) == b"0123"
    target = bytearray(2)
    assert finish(blob.read_into(target, 8)).size_bytes == 10
    assert target == b"89"
    assert finish(blob.stat()).metadata == {"k": "v"}
    assert [entry.name for entry in finish(container.list())] == ["b"]
    assert finish(blob.delete()) is True
    assert finish(container.stat()).name == "others"
    assert finish(container.delete()) is True


def test_appends_land_one_after_the_other_in_a_blob_that_is_made_for_them(either: Any) -> None:
    assert [either.append("things", "log", bytes([65 + n]) * 10) for n in range(3)] == [0, 10, 20]
    assert either.append("things", "log", b"D", position=30) == 30
    with pytest.raises(pvblob.PreconditionFailed):
        either.append("things", "log", b"E", position=30)
    assert either.get("things", "log") == b"A" * 10 + b"B" * 10 + b"C" * 10 + b"D"
    assert either.stat("things", "log").blob_type == "AppendBlob"
    either.put("things", "block", b"x")
    with pytest.raises(pvblob.Conflict, match="InvalidBlobType"):
        either.append("things", "block", b"y")
    with pytest.raises(pvblob.NotFound, match="ContainerNotFound"):
        either.append("absent", "log", b"x")
    with pytest.raises(ValueError, match="1 byte to 100 MiB"):
        either.append("things", "log", b"")
    with pytest.raises(pvblob.PreconditionFailed):
        either.append("things", "new", b"x", position=1)
    assert either.get("things", "new") == b""


def test_an_append_of_many_pieces_is_one(either: Any, content: Content) -> None:
    data = content(20 << 20)
    assert either.append("things", "log", b"x") == 0
    assert either.append("things", "log", data) == 1
    assert either.get("things", "log") == b"x" + data
