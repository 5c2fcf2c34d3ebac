"""The compiled codec and extents as Python sees them: the golden vectors, round trips, error texts, real files.

The same vectors are read by `cargo test -p blobdev`; here the hex of device.json is also held against `struct`, so that
the file itself is checked by something that is not ours.
"""

from __future__ import annotations

import array
import errno
import hashlib
import json
import mmap
import os
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvblob import _native
from pvblob.http import Fields

VECTORS = Path(__file__).parent / "vectors"
BHTTP: dict[str, Any] = json.loads((VECTORS / "bhttp.json").read_text("utf-8"))
DEVICE: dict[str, Any] = json.loads((VECTORS / "device.json").read_text("utf-8"))
TYPICAL = ("GET", "https", "account.blob.core.windows.net", "/container/a%20blob?snapshot=2026-01-01")


def by_name(case: dict[str, Any]) -> str:
    return str(case["name"])


def pairs(case: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in case["fields"]]


# ---- golden vectors (design §3) --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", BHTTP["requests"], ids=by_name)
def test_a_golden_request_decodes_to_what_it_says_and_encodes_to_it_if_canonical(case: dict[str, Any]) -> None:
    message, content = bytes.fromhex(case["hex"]), bytes.fromhex(case["content"])
    control = (case["method"], case["scheme"], case["authority"], case["path"])
    assert _native.decode_request(message) == (*control, pairs(case), content)
    assert (_native.encode_request(*control, pairs(case), content) == message) is case["canonical"]


@pytest.mark.parametrize("case", BHTTP["responses"], ids=by_name)
def test_a_golden_response_decodes_to_what_it_says_and_encodes_to_it_if_canonical(case: dict[str, Any]) -> None:
    message, content = bytes.fromhex(case["hex"]), bytes.fromhex(case["content"])
    assert _native.decode_response(message) == (case["status"], pairs(case), content)
    assert (_native.encode_response(case["status"], pairs(case), content) == message) is case["canonical"]


@pytest.mark.parametrize("case", BHTTP["refused"], ids=by_name)
def test_a_refused_message_raises_an_error_that_names_the_byte(case: dict[str, Any]) -> None:
    decode = _native.decode_request if case["message"] == "request" else _native.decode_response
    with pytest.raises(ValueError, match=rf"\(byte {case['at']}\)$"):
        decode(bytes.fromhex(case["hex"]))


def test_the_device_vector_says_what_the_specs_offsets_say() -> None:
    """spec/azure-blob-device.md §2.1: ten little-endian words, then the GUID; §2.3: three words."""
    *words, guid = struct.unpack("<10I16s", bytes.fromhex(DEVICE["request"]["hex"]))
    fields = dict(DEVICE["request"]["fields"])
    assert fields.pop("guid") == guid.hex()
    assert list(fields.values()) == words
    for case in DEVICE["responses"]:
        length, error, response_len = struct.unpack_from("<3I", bytes.fromhex(case["hex"]))
        assert (length, f"{error:08x}", response_len) == (12, case["error"], case["response_len"])


def test_the_status_table_is_the_designs() -> None:
    assert {name: f"{value:08x}" for name, value in _native.HRESULT.items()} == DEVICE["statuses"]


# ---- round trips -----------------------------------------------------------------------------------------------------

LATIN1 = st.characters(max_codepoint=0xFF, exclude_characters="\r\n\0")
NAME = st.text(alphabet="abcxyz0189-_.!~", min_size=1, max_size=40)
FIELDS = st.lists(st.tuples(NAME, st.text(LATIN1, max_size=60).map(lambda value: value.strip(" \t"))), max_size=12)


@given(FIELDS, st.binary(max_size=3000))
def test_a_request_survives_the_round_trip(fields: list[tuple[str, str]], content: bytes) -> None:
    message = _native.encode_request(*TYPICAL, fields, content)
    assert _native.decode_request(message) == (*TYPICAL, fields, content)


@given(st.integers(200, 599), FIELDS, st.binary(max_size=3000))
def test_a_response_survives_the_round_trip(status: int, fields: list[tuple[str, str]], content: bytes) -> None:
    message = _native.encode_response(status, fields, content)
    assert _native.decode_response(message) == (status, fields, content)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_value_error(message: bytes) -> None:
    """Design rule 1: a panic would arrive here as another exception."""
    for decode in (_native.decode_request, _native.decode_response):
        for start in (b"", b"\0", b"\x01\x40\xc8"):
            with suppress(ValueError):
                decode(start + message)


def test_names_are_lowered_and_blanks_around_values_dropped_as_http_does() -> None:
    """RFC 9110 §5.5: blanks around a value are no part of it; §5.1: names have no case."""
    message = _native.encode_response(200, [("Content-Type", " \ttext/plain; a=b\t ")], b"")
    assert _native.decode_response(message)[1] == [("content-type", "text/plain; a=b")]


def test_every_byte_from_80_to_ff_passes_through_a_value_unchanged() -> None:
    value = "".join(map(chr, range(0x80, 0x100)))
    assert _native.decode_response(_native.encode_response(200, [("a", value)], b""))[1] == [("a", value)]


def test_decoded_fields_go_into_fields_without_a_copy() -> None:
    decoded = _native.decode_response(_native.encode_response(200, [("A", "1"), ("b", "2"), ("a", "3")], b""))[1]
    fields = Fields.lowered(decoded)
    assert fields.pairs() is decoded
    assert (fields.get("a"), fields.get("B")) == ("1", "2")


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 100_000])
@pytest.mark.parametrize(
    "wrap", [bytes, bytearray, memoryview, lambda data: memoryview(data + b"x" * len(data))[: len(data)]]
)
def test_content_and_messages_may_be_any_contiguous_buffer(size: int, wrap: Any) -> None:
    content = os.urandom(size)
    message = _native.encode_request(*TYPICAL, [], wrap(content))
    assert _native.decode_request(wrap(message)) == (*TYPICAL, [], content)
    answer = _native.encode_response(200, [], wrap(content))
    assert _native.decode_response(wrap(answer)) == (200, [], content)


def test_fields_may_be_any_sequence() -> None:
    assert _native.encode_response(200, (("a", "b"),), b"") == _native.encode_response(200, [("a", "b")], b"")


# ---- errors say what and where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ([("ok", ""), ("a b", "")], "fields[1]: a field name that is no lower-case token"),
        ([("", "x")], "fields[0]: a field name that is no lower-case token"),
        ([("a", "x\r\ny: z")], "fields[0]: CR, LF or NUL in a field value"),
        ([("a", "x\0")], "fields[0]: CR, LF or NUL in a field value"),
        ([("n" * 257, "")], "fields[0]: a length beyond its bound"),
        ([("n", "v" * 16385)], "fields[0]: a length beyond its bound"),
        ([("n", "v" * 16000)] * 5, "head: a length beyond its bound (head 65536"),
        ([("n", "")] * 257, "fields[256]: more than 256 fields"),
        ([("a", "€")], "fields[0]: '€' at character 0 is outside ISO 8859-1; percent-encode it"),
    ],
)
def test_an_illegal_field_is_named(fields: list[tuple[str, str]], text: str) -> None:
    for encode in (
        lambda: _native.encode_request(*TYPICAL, fields, b""),
        lambda: _native.encode_response(200, fields, b""),
    ):
        with pytest.raises(ValueError) as raised:
            encode()
        assert str(raised.value).startswith(text)


@pytest.mark.parametrize(("index", "part"), list(enumerate(["method", "scheme", "authority", "path"])))
def test_an_illegal_part_of_the_control_data_is_named(index: int, part: str) -> None:
    for illegal, text in (("a\nb", f"{part}: an illegal byte"), ("/\u0100", f"{part}: 'Ā' at character 1 is outside")):
        method, scheme, authority, path = [*TYPICAL[:index], illegal, *TYPICAL[index + 1 :]]
        with pytest.raises(ValueError) as raised:
            _native.encode_request(method, scheme, authority, path, [], b"")
        assert str(raised.value).startswith(text)


@pytest.mark.parametrize("status", [0, 100, 199, 600, 65535])
def test_a_status_that_is_not_final_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match=r"^status: a status outside 200\.\.=599$"):
        _native.encode_response(status, [], b"")


def test_what_is_no_contiguous_buffer_is_a_type_error() -> None:
    for wrong in ("text", None, memoryview(b"abcd")[::2]):
        with pytest.raises(TypeError):
            _native.decode_request(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            _native.crc64(wrong)  # type: ignore[arg-type]


# ---- bytes in files --------------------------------------------------------------------------------------------------


def test_crc64_gives_the_standards_check_value_and_continues() -> None:
    """spec/azure-blob-device.md §8.1."""
    assert _native.crc64(b"123456789") == 0xAE8B14860A799888
    assert _native.crc64(b"6789", _native.crc64(b"12345")) == 0xAE8B14860A799888
    assert _native.crc64(b"", 7) == 7


@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 1_000_000])
def test_store_bytes_writes_every_byte_and_gives_their_checksums(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    expected = (_native.crc64(data), hashlib.md5(data).digest())
    for source in (data, bytearray(data), memoryview(data)):
        path = tmp_path / "stored"
        with path.open("wb") as file:
            assert _native.store_bytes(source, file.fileno(), 3, True) == expected
        assert path.read_bytes() == (b"\0\0\0" + data if size else b"")
    with path.open("wb") as file:
        assert _native.store_bytes(data, file.fileno(), 0, False) == (expected[0], None)


def test_a_buffer_of_wider_items_is_stored_as_its_bytes(tmp_path: Path) -> None:
    numbers = array.array("d", [1.5, -2.0])
    with (tmp_path / "stored").open("w+b") as file:
        assert _native.store_bytes(numbers, file.fileno(), 0, False)[0] == _native.crc64(numbers.tobytes())
        assert os.pread(file.fileno(), 99, 0) == numbers.tobytes()


def test_the_checksums_are_those_of_the_bytes_written_while_another_thread_changes_the_buffer(tmp_path: Path) -> None:
    """Design rule 1: copy once, check the copy, use the copy."""
    shared, stop = mmap.mmap(-1, 1 << 20), threading.Event()

    def scribble() -> None:
        turn = 0
        while not stop.is_set():
            turn = (turn + 1) % 256
            shared[:] = bytes([turn]) * len(shared)

    writer = threading.Thread(target=scribble)
    writer.start()
    try:
        with (tmp_path / "stored").open("w+b") as file:
            for _ in range(50):
                crc64, md5 = _native.store_bytes(shared, file.fileno(), 0, True)
                written = os.pread(file.fileno(), len(shared), 0)
                assert (crc64, md5) == (_native.crc64(written), hashlib.md5(written).digest())
    finally:
        stop.set()
        writer.join()


def test_a_digest_runs_over_several_stores(tmp_path: Path) -> None:
    digest = _native.Digest(True)
    with (tmp_path / "stored").open("w+b") as file:
        digest.write(b"message ", file.fileno(), 0)
        digest.write(bytearray(b"digest"), file.fileno(), 8)
        assert os.pread(file.fileno(), 99, 0) == b"message digest"
    assert digest.md5() == hashlib.md5(b"message digest").digest()
    assert digest.crc64 == _native.crc64(b"message digest")
    assert _native.Digest(False).md5() is None


def test_a_refused_write_raises_the_systems_error(tmp_path: Path) -> None:
    path = tmp_path / "read-only"
    path.touch()
    with path.open("rb") as file, pytest.raises(OSError) as raised:
        _native.store_bytes(b"x", file.fileno(), 0, False)
    assert (raised.value.errno, raised.value.strerror) == (errno.EBADF, os.strerror(errno.EBADF))
    with pytest.raises(ValueError, match="-1 is no file descriptor"):
        _native.store_bytes(b"x", -1, 0, False)


def test_a_full_disk_is_told_by_its_errno() -> None:
    """The committer answers ENOSPC with "storage full"; /dev/full refuses every write with it."""
    with Path("/dev/full").open("wb") as file, pytest.raises(OSError) as raised:
        _native.store_bytes(b"x", file.fileno(), 0, False)
    assert raised.value.errno == errno.ENOSPC


def test_a_punched_hole_reads_as_zero_gives_space_back_and_keeps_the_size(tmp_path: Path) -> None:
    with (tmp_path / "holed").open("w+b") as file:
        fd, size = file.fileno(), 1 << 20
        _native.store_bytes(b"\xab" * size, fd, 0, False)
        os.fsync(fd)
        before = os.fstat(fd).st_blocks
        _native.punch_hole(fd, 65536, 8 * 65536)
        assert os.fstat(fd).st_size == size
        assert os.fstat(fd).st_blocks <= before - 8 * 65536 // 512
        assert os.pread(fd, size, 0) == b"\xab" * 65536 + bytes(8 * 65536) + b"\xab" * 7 * 65536
        with pytest.raises(OSError) as raised:
            _native.punch_hole(fd, 0, 0)
        assert raised.value.errno == errno.EINVAL


@pytest.fixture
def no_switches() -> Iterator[None]:
    """While the fixture lives a thread gives the GIL away only by releasing it, never because its time is over."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("call", ["store_bytes", "crc64", "write"])
@pytest.mark.usefixtures("no_switches")
def test_another_thread_runs_while_many_bytes_are_worked_on(tmp_path: Path, call: str) -> None:
    """`_native.pyi`: every function that copies bulk data releases the GIL."""
    data, order, started = bytes(64 << 20), [], threading.Event()
    with (tmp_path / "stored").open("w+b") as file:
        work = {
            "store_bytes": lambda: _native.store_bytes(data, file.fileno(), 0, True),
            "crc64": lambda: _native.crc64(data),
            "write": lambda: _native.Digest(True).write(data, file.fileno(), 0),
        }[call]

        def run() -> None:
            started.set()
            work()
            order.append("worked")

        thread = threading.Thread(target=run)
        thread.start()
        started.wait()
        order.append("other")
        thread.join()
    assert order == ["other", "worked"]
