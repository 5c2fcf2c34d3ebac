"""What one machine may take of an account, between guests; and an account whose address or patience changes."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter

import pytest

from pvblob import _native
from pvblob.http import BytesBody
from pvblob.upstream.budget import Budget
from pvblob.upstream.transport import NO_BODY, Transport
from tests.upstream.answers import OpenAccount, request, said
from tests.upstream.proxy import answering
from tests.upstream.world import Authority

KIB = 1 << 10


async def test_too_many_requests_stops_every_guest_once_and_costs_one_request(
    account: OpenAccount, authority: Authority
) -> None:
    """Issue 5: 429 with Retry-After honoured once for all guests: the service sees each request once, and one twice."""
    seen: Counter[str] = Counter()
    refused_s: list[float] = []
    early: list[float] = []

    def answer(head: bytes) -> bytes:
        seen[head.split(b" ")[1].decode().rpartition("/")[2]] += 1
        if not refused_s:
            refused_s.append(time.monotonic())
            return said("429 Too Many Requests", b"", "retry-after: 1")
        early.extend([time.monotonic() - refused_s[0]] if time.monotonic() - refused_s[0] < 0.9 else [])
        return said("200 OK", b"x")

    async with answering(authority.issue(), answer) as port:
        backend = await account(port)
        first = asyncio.ensure_future(backend.execute(request("GET", "/c/first"), BytesBody()))
        while not backend.attempts.pause.left_s:  # noqa: ASYNC110 - the host has its answer a moment later
            await asyncio.sleep(0.01)
        asked = []
        for number in range(20):
            one = request("GET", f"/c/other{number}")
            one.guest = f"guest{number % 5}"
            asked.append(backend.execute(one, BytesBody()))
        answers = await asyncio.gather(first, *asked)
    assert [one.status for one in answers] == [200] * 21
    assert seen.pop("first") == 2
    assert set(seen.values()) == {1}
    assert not early


async def test_bytes_per_second_are_shared_guest_by_guest() -> None:
    """Issue 5: budget of bandwidth with fair shares: one that asks for a hundred reads delays another's by one."""
    budget = Budget(64, bytes_per_s=1e6)
    budget.count_bytes(1_000_000)  # the second that a bucket holds
    order: list[str] = []

    async def read(guest: str) -> None:
        lease = await budget.acquire(guest, 0)
        order.append(guest)
        budget.count_bytes(20_000)
        lease.release()

    began_s = time.monotonic()
    await asyncio.gather(*(read(guest) for guest in ["greedy"] * 40 + ["modest"] * 5))
    assert order[:10].count("modest") >= 4, order
    assert 0.8 <= time.monotonic() - began_s < 10


async def test_what_comes_counts_however_small_it_is(account: OpenAccount, authority: Authority) -> None:
    content = bytes(100 * KIB)  # comes with the head, in one step
    async with answering(authority.issue(), lambda _head: said("200 OK", content)) as port:
        backend = await account(port, bytes_per_s=500 * KIB)
        began_s = time.monotonic()
        for _ in range(8):  # the bucket holds five
            assert (await backend.execute(request("GET"), BytesBody())).status == 200
        assert time.monotonic() - began_s >= 0.3


async def naming_itself(address: str, port: int, authority: Authority) -> asyncio.Server:
    """Serve at *address*: every answer's content is the address."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(authority.issue())

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.read(4096):
            assert head.endswith(b"\r\n\r\n")
            writer.write(said("200 OK", address.encode()))
        writer.close()

    return await asyncio.start_server(talk, address, port, ssl=tls)


async def test_a_changed_address_is_followed_and_old_connections_retire(authority: Authority) -> None:
    """Issue 5, shown by: DNS change. Connections of the old address are used until their age, and no longer."""
    first = await naming_itself("127.0.0.1", 0, authority)
    port = first.sockets[0].getsockname()[1]
    second = await naming_itself("127.0.0.2", port, authority)
    limits = {"connect_timeout_s": 5.0, "stall_timeout_s": 5.0, "idle_timeout_s": 60.0, "age_s_max": 1.0}
    endpoint = _native.UpstreamEndpoint("localhost", port, authority.file.read_bytes(), idle_max=4, **limits)
    endpoint.resolve_to(["127.0.0.1"])
    transport = Transport(threads=1)

    async def who() -> bytes:
        asked = request("GET")
        asked.fields.set("host", "localhost")
        answer = await transport.send(endpoint, asked, NO_BODY, 5.0, 4096)
        assert answer.content is not None
        return answer.content

    try:
        born_s = time.monotonic()
        await transport.warm(endpoint, 2)
        assert await who() == b"127.0.0.1"
        endpoint.resolve_to(["127.0.0.2"])
        found = [await who()]
        if time.monotonic() - born_s < 0.9:
            assert found == [b"127.0.0.1"], "a warm connection is not thrown away"
        await asyncio.sleep(max(0.0, born_s + 1.1 - time.monotonic()))
        assert [await who() for _ in range(3)] == [b"127.0.0.2"] * 3
        assert endpoint.open == 1, "the old ones are closed"
    finally:
        transport.close()
        for server in (first, second):
            server.close()
            await server.wait_closed()


def test_an_address_that_is_none_is_refused(authority: Authority) -> None:
    limits = {"connect_timeout_s": 5.0, "stall_timeout_s": 5.0, "idle_timeout_s": 60.0, "age_s_max": 1.0}
    endpoint = _native.UpstreamEndpoint("localhost", 1, authority.file.read_bytes(), idle_max=4, **limits)
    with pytest.raises(ValueError, match='"localhost" is not an IP address'):
        endpoint.resolve_to(["localhost"])
