"""The part of the clients that never waits: names to targets, pieces of bodies, batches, answers that no host gives."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvblob import BlobError, BlobPrefix, NotFound
from pvblob.client import answers, batch, bodies
from pvblob.client.exchange import Answer
from pvblob.client.operations import Operations, WriteOptions, blob_target, block_id, metadata_fields
from pvblob.client.properties import time_of
from pvblob.errors import RemoteProtocolError
from pvblob.http import Fields, Request

REQUEST = Request("GET", "https", "a.blob.core.windows.net", "/c/b", Fields())
OPERATIONS = Operations("a")


def answer(status: int, *fields: tuple[str, str], content: bytes = b"") -> Answer:
    return Answer(status, Fields(fields), content)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_target_holds_only_what_a_path_may_hold(name: str) -> None:
    """RFC 3986 §3.3: unreserved characters, "/" and percent-encoded bytes."""
    target = blob_target("c", name)
    assert target.startswith("/c/")
    assert all(character.isascii() and (character.isalnum() or character in "-._~/%") for character in target)


def test_a_read_says_what_it_wants_in_the_fewest_fields() -> None:
    """Source: Azure REST, "Specifying the range header": the last byte is inclusive."""
    whole = OPERATIONS.read("c", "b", 0, None, None, None)
    assert (whole.method, whole.target, whole.authority) == ("GET", "/c/b", "a.blob.core.windows.net")
    assert [name for name, _ in whole.fields] == ["x-ms-version"]
    assert OPERATIONS.read("c", "b", 5, 10, None, None).fields.get("x-ms-range") == "bytes=5-14"
    assert OPERATIONS.read("c", "b", 5, None, None, None).fields.get("x-ms-range") == "bytes=5-"
    assert OPERATIONS.read("c", "b", 5, 0, None, None).method == "HEAD"
    assert OPERATIONS.read("c", "b", 0, 1, '"e"', "*").fields.pairs()[-2:] == [
        ("if-match", '"e"'),
        ("if-none-match", "*"),
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("a-b", ""), ("1a", ""), ("", ""), ("é", ""), ("a", "€"), ("a", "x\r\ny: z")]
)
def test_metadata_that_no_header_can_carry_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="metadata"):
        metadata_fields({name: value})


def test_overwrite_false_is_the_condition_that_nothing_is_there() -> None:
    """Source: Azure REST, "Specifying conditional headers for Blob service operations"."""
    assert ("if-none-match", "*") in WriteOptions(overwrite=False).fields()
    assert "if-none-match" not in dict(WriteOptions().fields())


def test_block_ids_are_of_one_length_and_never_meet() -> None:
    """Source: Azure REST, "Put Block": ids of one blob have the same length, at most 64 bytes."""
    ids = {block_id(upload, index) for upload in (bytes(12), b"\xff" * 12) for index in (0, 1, 49_999)}
    assert len(ids) == 6
    assert {len(one) for one in ids} == {24}


def test_blocks_grow_so_that_50000_reach_over_two_tebibytes() -> None:
    sizes = [bodies.block_bytes(index) for index in range(bodies.BLOCKS_MAX)]
    assert sizes[0] == 8 << 20
    assert sum(sizes) > 2 << 40
    assert max(sizes) <= 4000 << 20, "the service's limit for one block"


@given(chunks=st.lists(st.binary(max_size=50)), block=st.integers(1, 40))
def test_pieces_are_the_chunks_in_order_cut_at_block_size(chunks: list[bytes], block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "BLOCK_BYTES", block)
        found = [(bytes(piece), is_last) for piece, is_last in bodies.pieces(iter(chunks))]
        whole = [(bytes(piece), is_last) for piece, is_last in bodies.pieces(b"".join(chunks))]
    for pieces in (found, whole):
        assert b"".join(piece for piece, _ in pieces) == b"".join(chunks)
        assert [is_last for _, is_last in pieces] == [False] * (len(pieces) - 1) + [True]
        assert all(len(piece) == block for piece, is_last in pieces if not is_last)


def test_a_non_blocking_file_without_bytes_is_refused() -> None:
    class Empty:
        def read(self, size: int = -1) -> bytes:
            raise AssertionError("readinto comes first")

        def readinto(self, space: memoryview) -> None:
            return None

    with pytest.raises(BlockingIOError):
        list(bodies.pieces(Empty()))


def test_a_batch_is_as_microsoft_draws_it() -> None:
    """Source: Azure REST, "Blob Batch", sample request."""
    boundary, body = batch.encode(["/c/b1", "/c/b2"])
    parts = body.decode().split(f"--{boundary}")
    assert parts[0] == ""
    assert parts[-1] == "--\r\n"
    assert parts[1].startswith(
        "\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID: 0\r\n\r\n"
    )
    assert "DELETE /c/b2 HTTP/1.1\r\n" in parts[2]


def test_a_batch_answer_is_read_by_content_id_whatever_its_order() -> None:
    content = (
        b"--r\r\nContent-Type: application/http\r\nContent-ID: 1\r\n\r\nHTTP/1.1 202 Accepted\r\n\r\n\r\n"
        b"--r\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\n"
        b"HTTP/1.1 404 Gone\r\nx-ms-error-code: BlobNotFound\r\n\r\n<xml/>\r\n--r--\r\n"
    )
    batch_answer = answer(202, ("content-type", "multipart/mixed; boundary=r"), content=content)
    failed = batch.failures(batch_answer, REQUEST, ["first", "second"])
    assert list(failed) == ["first"]
    assert isinstance(failed["first"], NotFound)
    with pytest.raises(RemoteProtocolError, match="third"):
        batch.failures(batch_answer, REQUEST, ["first", "second", "third"])


@pytest.mark.parametrize(
    ("content_type", "content"), [("text/plain", b""), ("multipart/mixed; boundary=r", b"--r\r\n\r\nnothing\r\n--r--")]
)
def test_a_batch_answer_that_is_none_is_the_hosts_error(content_type: str, content: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        batch.failures(answer(202, ("content-type", content_type), content=content), REQUEST, ["b"])


def test_an_error_without_code_or_with_broken_xml_still_says_what_it_is() -> None:
    for content in (b"", b"<broken", b"not xml", b"\xff\xfe"):
        error = answers.error(answer(500, content=content), REQUEST)
        assert type(error) is BlobError
        assert str(error) == "500 Unspecified: GET /c/b"


def test_an_errors_code_is_taken_from_the_xml_when_the_field_is_missing() -> None:
    content = b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>BlobNotFound</Code><Message>Gone.\nId</Message></Error>"
    error = answers.error(answer(404, content=content), REQUEST)
    assert str(error) == "404 BlobNotFound: Gone. (GET /c/b)"


def test_a_listing_as_azure_sends_it_is_understood() -> None:
    """Source: Azure REST, "List Blobs": ETags without quotes, names that XML cannot hold percent-encoded."""
    content = (
        b"<?xml version='1.0'?><EnumerationResults><Blobs><Blob><Name Encoded='true'>a%01</Name><Properties>"
        b"<Last-Modified>Tue, 24 Nov 2026 03:58:00 GMT</Last-Modified><Etag>0x8D</Etag>"
        b"<Content-Length>7</Content-Length>"
        b"<Content-MD5>1B2M2Y8AsgTpgAmY7PhCfg==</Content-MD5><BlobType>PageBlob</BlobType></Properties></Blob>"
        b"<BlobPrefix><Name>p/</Name></BlobPrefix></Blobs><NextMarker>m</NextMarker></EnumerationResults>"
    )
    page = answers.blob_page(answer(200, content=content), REQUEST)
    blob, prefix = page.entries
    assert page.next_marker == "m"
    assert prefix == BlobPrefix("p/")
    assert (blob.name, blob.etag, blob.size_bytes, blob.blob_type) == ("a\x01", '"0x8D"', 7, "PageBlob")
    assert blob.last_modified == datetime(2026, 11, 24, 3, 58, tzinfo=UTC)
    assert blob.content_md5 is not None
    assert blob.content_md5.hex() == "d41d8cd98f00b204e9800998ecf8427e"


@pytest.mark.parametrize(
    "text", [None, "", "yesterday", "Tue, 24 Foo 2026 03:58:00 GMT", "Tue, 99 Nov 2026 03:58:00 GMT"]
)
def test_a_malformed_date_is_unknown_not_an_error(text: str | None) -> None:
    assert time_of(text) is None
