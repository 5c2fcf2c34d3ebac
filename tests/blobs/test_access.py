"""Every operation is classified before it is judged: none slips past policy (design rule 8, issue 4)."""

from __future__ import annotations

import pytest

from pvblob.access import Access
from pvblob.blobs.access import BATCHES, KINDS, asked
from pvblob.blobs.batch import SUB_REQUESTS_MAX
from pvblob.blobs.service import OPERATIONS
from pvblob.http import BytesBody, Fields, Request, Response

HOST = "acct.blob.core.windows.net"


async def accesses(method: str, target: str, *fields: tuple[str, str], body: bytes = b"") -> list[Access]:
    answered = await asked(Request(method, "https", HOST, target, Fields(fields)), BytesBody(body))
    assert not isinstance(answered, Response), answered.content
    return list(answered[0])


async def refused(method: str, target: str, *fields: tuple[str, str], body: bytes = b"") -> str | None:
    answered = await asked(Request(method, "https", HOST, target, Fields(fields)), BytesBody(body))
    assert isinstance(answered, Response)
    return answered.fields.get("x-ms-error-code")


@pytest.mark.parametrize("key", list(OPERATIONS), ids=str)
def test_every_operation_of_the_embedded_service_is_classified(key: tuple[str, str, str | None, str | None]) -> None:
    assert key in KINDS or key in BATCHES, f"say in blobs/access.py what {key} is"
    if key in KINDS and OPERATIONS[key].changes:
        assert KINDS[key].operation in ("write", "delete"), f"{key} changes something"


def test_no_operation_that_only_reads_is_called_a_change_and_none_is_called_unknown() -> None:
    for (method, _, _, comp), kind in KINDS.items():
        assert kind.operation != "unknown"
        if method in ("GET", "HEAD"):
            assert kind.operation in ("read", "list"), comp


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", "/box/a%20b/%C3%BC?timeout=3", Access("read", "acct", "box", "a b/ü".encode())),
        ("HEAD", "/box?restype=container", Access("read", "acct", "box")),
        ("PUT", "/box/a?comp=block&blockid=QQ==", Access("write", "acct", "box", b"a")),
        ("DELETE", "/box/a", Access("delete", "acct", "box", b"a")),
        ("DELETE", "/box?restype=container", Access("delete", "acct", "box")),
        ("GET", "/box?restype=container&comp=list", Access("list", "acct", "box", None, b"")),
        ("GET", "/box?restype=container&comp=list&prefix=a%2Fb", Access("list", "acct", "box", None, b"a/b")),
        ("GET", "/?comp=list&prefix=lo", Access("list", "acct", None, None, b"lo")),
        ("GET", "/box?restype=container&comp=blobs&where=x&prefix=a", Access("list", "acct", "box", None, b"")),
        ("GET", "/?comp=blobs&where=x&prefix=a", Access("list", "acct")),
        ("GET", "/name", Access("read", "acct", "$root", b"name")),
        ("GET", "/?restype=account&comp=properties", Access("read", "acct")),
        ("POST", "/?restype=service&comp=userdelegationkey", Access("unknown", "acct")),
        ("PUT", "/box/a?comp=newthing", Access("unknown", "acct", "box", b"a")),
        ("PATCH", "/box/a", Access("unknown", "acct", "box", b"a")),
        ("GET", "/box/a?comp=LIST", Access("unknown", "acct", "box", b"a")),
    ],
    ids=str,
)
async def test_a_request_asks_for_what_its_method_and_target_say(method: str, target: str, expected: Access) -> None:
    assert await accesses(method, target) == [expected]


async def test_a_copy_also_asks_to_read_its_source() -> None:
    url = f"https://{HOST}/private/secret%2Fa?sig=x"
    found = await accesses("PUT", "/box/a", ("x-ms-copy-source", url))
    assert found == [Access("write", "acct", "box", b"a"), Access("read", "acct", "private", b"secret/a")]
    other = await accesses("PUT", "/box/a?comp=block", ("x-ms-copy-source", "http://127.0.0.1:1/other/box/b"))
    assert other[1] == Access("read", "other", "box", b"b")
    assert await refused("PUT", "/box/a", ("x-ms-copy-source", "box/b")) == "InvalidUri"


@pytest.mark.parametrize("query", ["comp=list&comp=x", "prefix=a&comp=list&PREFIX=", "comp=list&pre%66ix=a&prefix=b"])
async def test_a_target_that_can_be_read_in_two_ways_is_refused(query: str) -> None:
    assert await refused("GET", f"/box?restype=container&{query}") == "InvalidQueryParameterValue"


async def test_a_target_that_names_nothing_is_answered_as_the_service_would() -> None:
    assert await refused("GET", "/UPPER/a") == "InvalidResourceName"


def batch_of(*lines: str) -> bytes:
    parts = [f"--b\r\nContent-Type: application/http\r\n\r\n{line} HTTP/1.1\r\n\r\n" for line in lines]
    return ("".join(parts) + "--b--\r\n").encode()


MULTIPART = ("content-type", "multipart/mixed; boundary=b")


async def test_a_batch_asks_for_what_each_request_in_it_asks() -> None:
    body = batch_of("DELETE /box/a", "PUT /box/b?comp=tier", "GET /box/c", "DELETE /UPPER/x")
    found = await accesses("POST", "/?comp=batch", MULTIPART, body=body)
    assert found == [
        Access("delete", "acct", "box", b"a"),
        Access("write", "acct", "box", b"b"),
        Access("read", "acct", "box", b"c"),
        Access("unknown", "acct"),
    ]


async def test_a_request_of_a_batch_that_leaves_its_container_is_unknown() -> None:
    found = await accesses("POST", "/box?restype=container&comp=batch", MULTIPART, body=batch_of("DELETE /other/a"))
    assert found == [Access("unknown", "acct", "box")]


async def test_a_batch_that_is_none_or_too_large_is_refused_before_it_is_judged() -> None:
    assert await refused("POST", "/?comp=batch", MULTIPART, body=b"no") == "InvalidInput"
    many = batch_of(*["DELETE /box/a"] * (SUB_REQUESTS_MAX + 1))
    assert await refused("POST", "/?comp=batch", MULTIPART, body=many) == "ExceedsMaxBatchRequestCount"
