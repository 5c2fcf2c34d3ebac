"""Heads pass unchanged both ways, and nothing a client sends is answered with 500 (design §3, §5)."""

from __future__ import annotations

import pytest

from pvblob.front import FrontLimits
from pvblob.http import METADATA_NAMES, Fields, Response
from tests.front.backends import MemoryBackend
from tests.front.conftest import Connect, StartFront
from tests.front.wire import BLOB, Wire


@pytest.mark.parametrize(
    "target",
    [
        f"{BLOB}/a%2Fb%20c%C3%BC",
        f"{BLOB}/%zz%",
        f"{BLOB}//double//slashes/../.",
        f"{BLOB}?comp=list&prefix=a+b%2B&empty=",
        f"{BLOB}/h#ash",
    ],
)
async def test_a_target_reaches_the_backend_byte_for_byte(wire: Wire, backend: MemoryBackend, target: str) -> None:
    reply = await wire.ask("GET", target)
    assert reply.status == 204
    assert backend.requests[0].target == target


async def test_field_values_are_octets_both_ways(wire: Wire, backend: MemoryBackend) -> None:
    """`http` module: every character of a field value stands for one byte."""
    backend.answer = Response(200, Fields([("x-ms-meta-Name", "caf\xe9 \xff"), ("content-length", "0")]))
    reply = await wire.ask("GET", BLOB, {"x-ms-meta-Odd": "na\xefve \xc3\xa9"})
    assert backend.requests[0].fields.get("x-ms-meta-odd") == "na\xefve \xc3\xa9"
    assert reply.one(b"x-ms-meta-name") == b"caf\xe9 \xff"


async def test_repeated_fields_keep_their_order(wire: Wire, backend: MemoryBackend) -> None:
    backend.answer = Response(200, Fields([("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("content-length", "0")]))
    reply = await wire.ask("GET", BLOB)
    found = [pair for pair in reply.pairs if pair[0].startswith(b"x-")]
    assert found == [(b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3")]


async def test_absolute_form_names_authority_and_path(wire: Wire, backend: MemoryBackend) -> None:
    """RFC 9112 §3.2.2: the target's authority wins over Host."""
    await wire.send(b"GET http://acct.blob.core.windows.net/box?x=1 HTTP/1.1\r\nhost: other\r\n\r\n")
    reply = await wire.reply()
    assert (reply.status, reply.code) == (401, b"NoAuthenticationInformation")
    assert backend.requests == []


@pytest.mark.parametrize("line", [b"OPTIONS * HTTP/1.1", b"CONNECT example.com:443 HTTP/1.1"])
async def test_a_target_without_a_path_is_refused(wire: Wire, line: bytes) -> None:
    await wire.send(line + b"\r\nhost: x\r\n\r\n")
    reply = await wire.reply()
    assert (reply.status, reply.code) == (400, b"InvalidUri")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"x-one: 1\r\n" * 400 + b"\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n",
        b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
        b"GET /caf\xc3\xa9 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"get lower case\r\n\r\n",
    ],
    ids=[
        "target",
        "field",
        "fields",
        "no-host",
        "tls",
        "length",
        "negative",
        "two-lengths",
        "smuggling",
        "version",
        "not-ascii",
        "odd",
    ],
)
async def test_a_head_that_cannot_be_read_is_a_client_error_and_ends_the_connection(
    wire: Wire, backend: MemoryBackend, head: bytes
) -> None:
    await wire.send(head)
    reply = await wire.reply()
    assert 400 <= reply.status < 500
    assert reply.all(b"server") == []
    assert await wire.at_end()
    assert backend.requests == []


async def test_a_long_name_and_long_metadata_are_served(wire: Wire, backend: MemoryBackend) -> None:
    """Azure REST: names up to 1,024 characters (12 KiB percent-encoded), metadata up to 8 KiB."""
    target = f"{BLOB}/" + "%F0%9F%92%A9" * 1024
    assert (await wire.ask("GET", target, {"x-ms-meta-all": "m" * 8192})).status == 204


async def test_metadata_names_keep_their_case_both_ways(wire: Wire, backend: MemoryBackend) -> None:
    """Decision 3; what only guests may say is not taken from an HTTP client."""
    spelled = Fields([("x-ms-meta-somekey", "1"), ("x-ms-meta-b", "2"), (METADATA_NAMES, "someKey,b")])
    backend.answer = Response(200, Fields([("content-length", "0"), *spelled]))
    sent = {"X-Ms-Meta-someKey": "1", "x-ms-meta-b": "2", "pvblob-metadata-names": "SOMEKEY", "Pvblob-Body-Offset": "1"}
    reply = await wire.ask("PUT", BLOB, sent)
    assert [pair for pair in backend.requests[-1].fields if pair[0].startswith(("x-ms-meta", "pvblob"))] == [*spelled]
    assert [pair for pair in reply.pairs if pair[0].lower().startswith((b"x-ms-meta", b"pvblob"))] == [
        (b"x-ms-meta-someKey", b"1"),
        (b"x-ms-meta-b", b"2"),
    ]


async def test_an_answer_has_one_date_and_names_no_software(wire: Wire, backend: MemoryBackend) -> None:
    plain = await wire.ask("GET", BLOB)
    backend.answer = Response(200, Fields([("Date", "Fri, 26 Jun 2015 23:39:12 GMT"), ("content-length", "0")]))
    dated = await wire.ask("GET", BLOB)
    assert len(plain.all(b"date")) == 1
    assert dated.all(b"date") == [b"Fri, 26 Jun 2015 23:39:12 GMT"]
    assert plain.all(b"server") == dated.all(b"server") == []


async def test_a_stored_line_end_cannot_split_an_answer(wire: Wire, backend: MemoryBackend) -> None:
    """RFC 9110 §5.5; metadata that came over a channel may hold any byte (design rule 1)."""
    value = "a\r\nx-evil: 1\r\n\r\nHTTP/1.1 200 OK\0"
    backend.answer = Response(200, Fields([("x-ms-meta-a", value), ("content-length", "0")]))
    reply = await wire.ask("GET", BLOB)
    assert reply.all(b"x-evil") == []
    assert reply.one(b"x-ms-meta-a").startswith(b"a  x-evil")
    backend.answer = None
    assert (await wire.ask("GET", BLOB)).status == 204


async def test_framing_is_the_fronts_own(wire: Wire, backend: MemoryBackend) -> None:
    """A backend's Content-Length or connection fields cannot put the connection out of step."""
    fields = [("Content-Length", "99"), ("Transfer-Encoding", "chunked"), ("Connection", "close"), ("x-a", "1")]
    backend.answer = Response(200, Fields(fields), b"four")
    for _ in range(2):
        reply = await wire.ask("GET", BLOB)
        assert reply.content == b"four"
        assert reply.all(b"transfer-encoding") == []
        assert reply.all(b"connection") == [b"keep-alive"]


async def test_head_says_what_get_would_have_and_sends_nothing(wire: Wire, backend: MemoryBackend) -> None:
    backend.put(BLOB, b"x" * 100_000)
    reply = await wire.ask("HEAD", BLOB)
    assert (reply.status, reply.one(b"content-length")) == (200, b"100000")
    assert backend.releases == backend.pinned == 1
    assert (await wire.ask("GET", BLOB)).content == b"x" * 100_000


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_content_is_followed_by_the_next_answer(
    wire: Wire, backend: MemoryBackend, status: int
) -> None:
    backend.answer = Response(status, Fields(), b"must not be sent")
    assert (await wire.ask("GET", BLOB)).status == status
    assert (await wire.ask("GET", BLOB)).status == status


async def test_requests_sent_ahead_are_answered_in_order(wire: Wire, backend: MemoryBackend) -> None:
    backend.put(f"{BLOB}1", b"one")
    backend.put(f"{BLOB}2", b"two" * 100_000)
    await wire.send(b"".join(wire.signed("GET", f"{BLOB}{n}") for n in (1, 2, 1)))
    contents = [(await wire.reply()).content for _ in range(3)]
    assert contents == [b"one", b"two" * 100_000, b"one"]


async def test_a_client_may_end_the_connection_with_its_request(wire: Wire) -> None:
    reply = await wire.ask("GET", BLOB, {"connection": "close"})
    assert reply.one(b"connection") == b"close"
    assert await wire.at_end()


async def test_http_1_0_is_served_and_closed(wire: Wire) -> None:
    await wire.send(wire.signed("GET", BLOB).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert (await wire.reply()).status == 204
    assert await wire.at_end()


async def test_a_fault_of_the_backend_is_one_500_with_an_error_code(wire: Wire, backend: MemoryBackend) -> None:
    backend.fault = RuntimeError("a bug")
    reply = await wire.ask("GET", BLOB)
    assert (reply.status, reply.code) == (500, b"InternalError")
    assert b"a bug" not in reply.content
    backend.fault = None
    assert (await wire.ask("GET", BLOB)).status == 204


async def test_a_connection_above_the_bound_is_told_so(start_front: StartFront, connect: Connect) -> None:
    front = await start_front(FrontLimits(connections_max=1))
    first = await connect(front)
    assert (await first.ask("GET", BLOB)).status == 204
    second = await connect(front)
    reply = await second.reply()
    assert (reply.status, reply.code) == (503, b"ServerBusy")
    assert await second.at_end()
    assert front.counters.turned_away == 1
    assert (await first.ask("GET", BLOB)).status == 204
