"""Whatever a guest sends, `execute` answers, and never with 500. Source: http.Backend; design rule 1.

Each request begins as a good one of some operation and then has parts of it spoiled.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from pvblob.blobs.service import OPERATIONS, EmbeddedService
from pvblob.http import BytesBody, Fields, FileContent, Request

CONTAINER, BLOB, ACCOUNT = "/con?restype=container", "/con/b", "/?"
BATCH = b"--q\r\nContent-Type: application/http\r\n\r\n%s HTTP/1.1\r\n\r\n\r\n--q--"
MULTIPART = ("content-type", "multipart/mixed; boundary=q")
GOOD: list[tuple[str, str, list[tuple[str, str]], bytes]] = [
    ("GET", f"{ACCOUNT}comp=list", [], b""),
    ("GET", f"{ACCOUNT}restype=service&comp=properties", [], b""),
    ("POST", f"{ACCOUNT}comp=batch", [MULTIPART], BATCH % b"DELETE /con/b"),
    ("POST", f"{CONTAINER}&comp=batch", [MULTIPART], BATCH % b"PUT https://acct.blob.x/con/b?comp=tier"),
    ("PUT", CONTAINER, [], b""),
    ("DELETE", CONTAINER, [("if-match", "x")], b""),
    ("GET", f"{CONTAINER}&comp=list", [], b""),
    ("HEAD", CONTAINER, [], b""),
    ("PUT", f"{CONTAINER}&comp=metadata", [("x-ms-meta-a", "1")], b""),
    ("GET", BLOB, [("range", "bytes=1-2")], b""),
    ("HEAD", BLOB, [], b""),
    ("PUT", BLOB, [("x-ms-blob-type", "BlockBlob")], b"body"),
    ("PUT", BLOB, [("x-ms-copy-source", "https://acct.blob.x/con/b")], b""),
    ("PUT", f"{BLOB}?comp=block&blockid=AAAA", [], b"block"),
    ("PUT", f"{BLOB}?comp=blocklist", [], b"<BlockList><Latest>AAAA</Latest></BlockList>"),
    ("GET", f"{BLOB}?comp=blocklist&blocklisttype=all", [], b""),
    ("PUT", f"{BLOB}?comp=properties", [("x-ms-blob-content-type", "a/b")], b""),
    ("PUT", f"{BLOB}?comp=tier", [("x-ms-access-tier", "Hot")], b""),
    ("PUT", f"{BLOB}?comp=appendblock", [("x-ms-blob-condition-appendpos", "4")], b"more"),
    ("PUT", f"{BLOB}?comp=seal", [], b""),
    ("PUT", f"{BLOB}?comp=tags", [], b"<Tags><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tags>"),
    ("GET", f"{BLOB}?comp=tags", [("x-ms-if-tags", "a='b'")], b""),
    ("GET", f"{ACCOUNT}comp=blobs&where=a%3D'b'", [], b""),
    ("GET", f"{CONTAINER}&comp=blobs&where=a%3D'b'", [], b""),
    ("PUT", f"{BLOB}?comp=snapshot", [("x-ms-meta-a", "1")], b""),
    ("GET", f"{BLOB}?snapshot=2026-01-01T00:00:00.0000000Z", [], b""),
    ("GET", f"{CONTAINER}&comp=list&include=snapshots", [], b""),
    ("PUT", f"{BLOB}?comp=lease", [("x-ms-lease-action", "acquire"), ("x-ms-lease-duration", "-1")], b""),
    ("PUT", f"{CONTAINER}&comp=lease", [("x-ms-lease-action", "break")], b""),
    ("DELETE", BLOB, [("if-match", "x")], b""),
]
FIELD_NAMES = """range x-ms-range if-match if-none-match if-modified-since x-ms-blob-type content-md5 content-type
    x-ms-content-crc64 x-ms-meta-a x-ms-meta- x-ms-access-tier x-ms-copy-source x-ms-version x-ms-client-request-id
    x-ms-delete-snapshots x-ms-range-get-content-md5 x-ms-blob-content-md5 x-ms-source-if-match
    x-ms-lease-action x-ms-lease-duration x-ms-lease-id x-ms-proposed-lease-id x-ms-lease-break-period
    x-ms-tags x-ms-if-tags""".split()  # noqa: SIM905
QUERY_NAMES = """comp restype prefix delimiter marker maxresults include blockid blocklisttype startfrom
    endbefore where snapshot""".split()  # noqa: SIM905
VALUES = [
    "*", '"0x1"', "true", "bytes=9999999999999999999-", "only", "https://[", "https://127.0.0.1", "1 Jan 99999", "tier",
    "multipart/mixed; boundary=", "metadata", "99999999999999999999", "http://", "Mon, 99 Jan 2001 00:00:00 GMT",
]  # fmt: skip
BODIES = [
    BATCH % b"DELETE http://[/",
    BATCH % b"DELETE",
    BATCH % b"PUT /con/%ff?comp=tier",
    b"<BlockList><Latest>\xff</Latest></BlockList>",
    b"<a xmlns='b'/>",
]

anything = st.one_of(st.sampled_from(VALUES), st.text(st.characters(max_codepoint=255), max_size=12))


@st.composite
def requests(draw: st.DrawFn) -> tuple[Request, bytes]:
    method, target, pairs, body = draw(st.sampled_from(GOOD))
    fields = Fields(pairs)
    for name, value in draw(st.lists(st.tuples(st.sampled_from(FIELD_NAMES), anything), max_size=2)):
        fields.set(name, value)
    for name, value in draw(st.lists(st.tuples(st.sampled_from(QUERY_NAMES), anything), max_size=1)):
        target += f"{'&' if '?' in target else '?'}{name}={value}"
    target = draw(st.sampled_from([target] * 6 + [target[:-1], target.replace("con", "%63on", 1), f"/{target}"]))
    body = draw(st.one_of(st.just(body), st.sampled_from(BODIES), st.binary(max_size=40)))
    authority = draw(st.sampled_from(["acct.blob.x"] * 6 + ["127.0.0.1:1", "[::1]", "", "a.blob.", "@"]))
    return Request(method, "https", authority, target, fields), body


def test_the_good_requests_reach_every_operation_that_changes_something():
    reached = set()
    for method, target, _, _ in GOOD:
        path, _, query = target.partition("?")
        words = dict(pair.partition("=")[::2] for pair in query.split("&"))
        level = "account" if path == "/" else "blob" if "/" in path[1:] else "container"
        reached.add((method, level, words.get("restype"), words.get("comp")))
    changing = {key for key, operation in OPERATIONS.items() if operation.changes}
    assert changing - reached <= {("PUT", "blob", None, "metadata")}


@pytest.mark.long
def test_no_request_makes_the_service_fail():
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        service = stack.enter_context(EmbeddedService(Path(directory), durability="none"))
        loop = stack.enter_context(contextlib.closing(asyncio.new_event_loop()))
        for method, target, fields, body in (GOOD[4], GOOD[11]):
            request = Request(method, "https", "acct.blob.x", target, Fields(fields))
            assert loop.run_until_complete(service.execute(request, BytesBody(body))).status == 201

        @settings(max_examples=1000, deadline=None, print_blob=True)
        @given(requests())
        def answered(sent: tuple[Request, bytes]) -> None:
            request, body = sent
            response = loop.run_until_complete(service.execute(request, BytesBody(body)))
            assert 200 <= response.status < 600
            assert response.status != 500
            if response.status >= 400:
                assert response.fields.get("x-ms-error-code")
            if isinstance(response.content, FileContent):
                response.content.release()
            else:
                assert b" 500 " not in response.content
            for name, value in response.fields:
                assert name == name.lower()
                assert not {"\n", "\r", "\0"} & set(value)

        answered()
        assert service._store is not None
        assert service._store.extents._pins == {}
