"""Contents that break off, stall, lie about their length or change: resumed to the byte, or not given at all."""

from __future__ import annotations

import os

import pytest

from pvblob.http import BytesBody
from tests.upstream.answers import OpenAccount, code, content_of, request, said
from tests.upstream.proxy import answering
from tests.upstream.world import Authority

DATA = os.urandom(3_000_000)


def ranged(head: bytes, etag: str, *, lie: int = 0, cut: int | None = None) -> bytes:
    """Answer a GET as a blob of DATA; *lie* is added to Content-Length, *cut* ends the connection in the content."""
    fields = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in head.split(b"\r\n")[1:]}
    span = fields.get(b"x-ms-range")
    if fields.get(b"if-match", etag.encode()) != etag.encode():
        return said("412 x", b"", "x-ms-error-code: ConditionNotMet")
    first, last = (int(part) for part in span[6:].split(b"-")) if span else (0, len(DATA) - 1)
    part = DATA[first : last + 1]
    status = "206 x" if span else "200 OK"
    text = (
        f"HTTP/1.1 {status}\r\ncontent-length: {len(part) + lie}\r\netag: {etag}\r\nx-ms-blob-type: BlockBlob\r\n"
        f"content-range: bytes {first}-{first + len(part) - 1}/{len(DATA)}\r\n"
        f"{'connection: close' if cut is not None or lie else 'x-y: z'}\r\n\r\n"
    )
    return text.encode() + part[:cut]


async def test_a_content_that_breaks_off_goes_on_where_it_broke(account: OpenAccount, authority: Authority) -> None:
    """Issue 5: a broken body resumes by range with If-Match; a wrong Content-Length is a broken body."""
    heads: list[bytes] = []

    def answer(head: bytes) -> bytes:
        heads.append(head)
        return ranged(head, '"1"', cut=1_000_000 if len(heads) == 1 else 700_000 if len(heads) == 2 else None)

    async with answering(authority.issue(), answer) as port:
        backend = await account(port)
        response = await backend.execute(request("GET"), BytesBody())
        assert response.fields.get("content-length") == str(len(DATA))
        assert await content_of(response) == DATA
    assert len(heads) == 3
    assert b'if-match: "1"' in heads[1]
    assert int(heads[1].partition(b"bytes=")[2].partition(b"-")[0]) == 1_000_000, "what had come is not asked for again"


async def test_a_length_that_is_too_long_is_resumed_and_one_that_never_is_right_ends(
    account: OpenAccount, authority: Authority
) -> None:
    async with answering(authority.issue(), lambda head: ranged(head, '"1"', lie=10)) as port:
        backend = await account(port)
        response = await backend.execute(request("GET", within_s=5), BytesBody())
        with pytest.raises(ConnectionError):
            await content_of(response)


async def test_a_blob_that_changes_while_it_is_read_is_never_mixed(account: OpenAccount, authority: Authority) -> None:
    versions = iter(['"1"', '"2"', '"2"'])
    async with answering(authority.issue(), lambda head: ranged(head, next(versions), cut=500_000)) as port:
        backend = await account(port)
        response = await backend.execute(request("GET"), BytesBody())
        with pytest.raises(ConnectionError) as lost:
            await content_of(response)
    assert code(lost.value.response) == (412, "ConditionNotMet")  # type: ignore[attr-defined]


async def test_a_content_that_stalls_is_asked_for_elsewhere(account: OpenAccount, authority: Authority) -> None:
    """Issue 5: slow and dead bodies."""
    count = 0

    async def answer(head: bytes) -> bytes:
        nonlocal count
        count += 1
        whole = ranged(head, '"1"')
        return whole if count > 1 else whole[:400_000]  # and then nothing, the connection staying open

    async with answering(authority.issue(), answer) as port:
        backend = await account(port, stall_timeout_s=0.5)
        response = await backend.execute(request("GET"), BytesBody())
        assert await content_of(response) == DATA


async def test_bytes_of_unknown_length_and_chunks_arrive_whole(account: OpenAccount, authority: Authority) -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nX-Ms-Meta-CamelCase: v\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (DATA[:10], DATA[10:100_000])) + b"0\r\n\r\n"
    large = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + DATA * 4
    answers = iter([chunked + body, large])
    async with answering(authority.issue(), lambda _head: next(answers)) as port:
        backend = await account(port)
        listing = await backend.execute(request("GET", "/c?comp=list&restype=container"), BytesBody())
        document = await backend.execute(request("GET", "/c?comp=list&restype=container"), BytesBody())
    assert listing.content == DATA[:100_000]
    assert listing.fields.get("content-length") == "100000"
    assert listing.fields.get("pvblob-metadata-names") == "CamelCase"
    assert "transfer-encoding" not in listing.fields
    (extent,) = document.content.extents  # type: ignore[union-attr]
    assert os.pread(extent.fd, extent.length, extent.offset) == DATA * 4
    document.content.release()  # type: ignore[union-attr]
