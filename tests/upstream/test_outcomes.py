"""One clean outcome for every failure on the way: what is repeated, what is not, and what the guest is told (rule 4).

The accounts run in this process; what answers is a real server that answers badly.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pvblob.http import BytesBody
from tests.upstream.answers import OpenAccount, code, content_of, request, said
from tests.upstream.proxy import answering
from tests.upstream.world import ACCOUNT, Authority


async def test_a_pause_the_service_asks_for_holds_for_all_guests_and_is_asked_for_once(
    account: OpenAccount, authority: Authority
) -> None:
    """Issue 5: 429/503 with Retry-After honoured once for all guests."""
    moments: list[float] = []
    asked = asyncio.Event()

    def answer(_head: bytes) -> bytes:
        moments.append(time.monotonic())
        asked.set()
        return said("503 Busy", b"", "retry-after: 1") if len(moments) == 1 else said("200 OK", b"x")

    async with answering(authority.issue(), answer) as port:
        backend = await account(port)
        first = asyncio.ensure_future(backend.execute(request("GET"), BytesBody()))
        await asked.wait()
        while not backend.attempts.pause.left_s:  # noqa: ASYNC110 - the host has its answer a moment later
            await asyncio.sleep(0.01)
        others = [backend.execute(request("PUT"), BytesBody(b"data")) for _ in range(20)]
        answers = await asyncio.gather(first, *others)
    assert [one.status for one in answers] == [200] * 21
    assert len(moments) == 22
    assert min(moments[1:]) - moments[0] >= 0.9
    assert backend.attempts.pause.begun == 1


@pytest.mark.parametrize("status", ["500 x", "502 x", "504 x", "408 x"])
async def test_a_write_that_may_have_been_executed_is_sent_again_only_if_it_is_once_only(
    status: str, account: OpenAccount, authority: Authority
) -> None:
    """Design rule 4."""
    seen: Counter[bytes] = Counter()

    def answer(head: bytes) -> bytes:
        line = head.split(b"\r\n")[0]
        seen[line] += 1
        return said(status) if seen[line] == 1 else said("201 Created")

    async with answering(authority.issue(), answer) as port:
        backend = await account(port)
        bare = await backend.execute(request("PUT", "/c/bare"), BytesBody(b"x"))
        lease = await backend.execute(request("PUT", "/c/l?comp=lease", ("if-match", '"1"')), BytesBody())
        again = [
            request("PUT", "/c/match", ("if-match", '"1"')),
            request("PUT", "/c/none", ("if-none-match", "*")),
            request("PUT", "/c/block?comp=block&blockid=QQ%3D%3D"),
            request("PUT", "/c/append?comp=appendblock", ("x-ms-blob-condition-appendpos", "0")),
            request("GET", "/c/read"),
        ]
        outcomes = [await backend.execute(one, BytesBody(b"" if one.method == "GET" else b"x")) for one in again]
    assert (bare.status, lease.status) == (int(status[:3]),) * 2
    assert [one.status for one in outcomes] == [201] * 5
    assert sorted(seen.values()) == [1, 1, 2, 2, 2, 2, 2]


async def test_a_write_whose_connection_breaks_has_an_unknown_outcome_and_is_sent_once(
    account: OpenAccount, authority: Authority
) -> None:
    """Design rule 4: else the caller learns that the outcome is unknown."""
    seen: Counter[bytes] = Counter()

    def answer(head: bytes) -> bytes:
        seen[head.split(b" ")[0]] += 1
        return b"" if seen[head.split(b" ")[0]] == 1 else said("200 OK", b"x")

    async with answering(authority.issue(), answer) as port:
        backend = await account(port)
        write = await backend.execute(request("PUT"), BytesBody(b"data"))
        read = await backend.execute(request("GET"), BytesBody())
    assert code(write) == (500, "OperationTimedOut")
    assert ACCOUNT.encode() in await content_of(write)
    assert (read.status, read.content) == (200, b"x")
    assert seen == {b"PUT": 1, b"GET": 2}


async def test_a_condition_that_fails_at_the_second_attempt_cannot_tell_whose_write_it_met(
    account: OpenAccount, authority: Authority
) -> None:
    answers = iter([b"", said("412 x", b"", "x-ms-error-code: ConditionNotMet")])
    async with answering(authority.issue(), lambda _head: next(answers)) as port:
        backend = await account(port)
        outcome = await backend.execute(request("PUT", "/c/b", ("if-match", '"1"')), BytesBody(b"x"))
    assert code(outcome) == (500, "OperationTimedOut")


async def test_retries_end_before_the_deadline_with_the_services_own_answer(
    account: OpenAccount, authority: Authority
) -> None:
    """Issue 5: one clean outcome within the deadline, never a minute of hidden sleeps."""
    async with answering(authority.issue(), lambda _head: said("503 x", b"why", "x-ms-error-code: ServerBusy")) as port:
        backend = await account(port)
        began_s = time.monotonic()
        outcome = await backend.execute(request("GET", within_s=1.5), BytesBody())
        took_s = time.monotonic() - began_s
    assert code(outcome) == (503, "ServerBusy")
    assert outcome.content == b"why"
    assert took_s < 1.5
    assert backend.attempts.counters.attempts > 1


async def test_a_pause_longer_than_the_deadline_is_not_waited_for(account: OpenAccount, authority: Authority) -> None:
    async with answering(authority.issue(), lambda _head: said("503 x", b"", "retry-after: 60")) as port:
        backend = await account(port)
        began_s = time.monotonic()
        outcomes = [await backend.execute(request("GET"), BytesBody()) for _ in range(2)]
    assert [one.status for one in outcomes] == [503, 503]
    assert time.monotonic() - began_s < 5
    assert backend.attempts.counters.attempts == 1


async def test_silence_ends_before_the_deadline_too(account: OpenAccount, authority: Authority) -> None:
    async def answer(_head: bytes) -> bytes:
        await asyncio.sleep(30)
        return b""

    async with answering(authority.issue(), answer) as port:
        backend = await account(port)
        began_s = time.monotonic()
        read, write = await asyncio.gather(
            backend.execute(request("GET", within_s=3), BytesBody()),
            backend.execute(request("PUT", within_s=3), BytesBody(b"x")),
        )
    assert time.monotonic() - began_s < 3
    assert code(read) == (503, "ServerBusy")
    assert code(write) == (500, "OperationTimedOut")


async def test_who_cannot_prove_to_be_the_service_gets_no_request(
    account: OpenAccount, authority: Authority, tmp_path: Path
) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    expired = authority.issue("expired", not_before=past - timedelta(days=2), not_after=past)
    asked: list[bytes] = []
    for certificate, reason in ((expired, b"xpired"), (Authority(tmp_path).issue(), b"UnknownIssuer")):
        async with answering(certificate, lambda head: asked.append(head) or b"") as port:
            backend = await account(port)
            began_s = time.monotonic()
            for method in ("GET", "PUT"):
                outcome = await backend.execute(request(method), BytesBody())
                assert code(outcome) == (502, "PvblobUpstreamUntrusted")
                assert reason in await content_of(outcome)
            assert time.monotonic() - began_s < 5
    assert not asked


async def test_nobody_there_is_said_when_the_deadline_is_near(account: OpenAccount, authority: Authority) -> None:
    async with answering(authority.issue(), lambda _head: b"") as port:
        backend = await account(port)
    for method in ("GET", "PUT"):
        outcome = await backend.execute(request(method, within_s=1), BytesBody(b"" if method == "GET" else b"x"))
        assert code(outcome) == (503, "ServerBusy"), "nothing was sent, so nothing is unknown"


async def test_reads_turn_to_the_secondary_and_writes_do_not(account: OpenAccount, authority: Authority) -> None:
    """Issue 5: secondary location for RA-GRS reads; what it does not have yet may be at the primary."""
    asked: Counter[tuple[str, bytes]] = Counter()

    def serve(name: str, answers: dict[bytes, bytes]) -> Callable[[bytes], bytes]:
        def answer(head: bytes) -> bytes:
            method, target = head.split(b" ")[:2]
            asked[name, method] += 1
            return answers[target.rpartition(b"/")[2]]

        return answer

    first = serve("primary", {b"old": said("500 x"), b"new": said("500 x"), b"w": said("500 x")})
    second = serve("secondary", {b"old": said("200 OK", b"copy"), b"new": said("404 x")})
    certificate = authority.issue()
    async with answering(certificate, first) as one, answering(certificate, second) as two:
        backend = await account(one, secondary_endpoint=f"https://127.0.0.1:{two}/{ACCOUNT}-secondary")
        old = await backend.execute(request("GET", "/c/old"), BytesBody())
        new = await backend.execute(request("GET", "/c/new", within_s=4), BytesBody())
        write = await backend.execute(request("PUT", "/c/w"), BytesBody(b"x"))
    assert (old.status, old.content, new.status, write.status) == (200, b"copy", 500, 500)
    assert asked["secondary", b"GET"] == 2, "a secondary that lags behind is not asked twice"
    assert asked["secondary", b"PUT"] == 0


async def test_a_key_that_is_refused_is_read_again_once_and_then_the_log_says_so_once(
    account: OpenAccount, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 5: rotation without restart: a replaced key counts even within the second of its file."""
    file = tmp_path / "key"
    file.write_text("b2xk")
    refused = said("403 x", b"", "x-ms-error-code: AuthenticationFailed")
    seen: list[bytes] = []

    def answer(head: bytes) -> bytes:
        seen.append(head)
        if len(seen) == 1:
            file.write_text("bmV3Lg==")
        return refused if len(seen) != 2 else said("200 OK", b"x")

    async with answering(authority.issue(), answer) as port:
        backend = await account(port, authorization="key", secret_file=file)
        outcomes = [await backend.execute(request("GET"), BytesBody()) for _ in range(3)]
    assert [one.status for one in outcomes] == [200, 403, 403]
    assert len(seen) == 4
    (told,) = [one for one in caplog.messages if "refuses the host's credential" in one]
    assert ACCOUNT in told
    assert "bmV3Lg" not in told
    signatures = [head.partition(b"SharedKey ")[2].partition(b"\r")[0] for head in seen]
    assert signatures[0] != signatures[1]


async def test_connections_are_kept_and_bounded(account: OpenAccount, authority: Authority) -> None:
    """Issue 5: one pool per account, bounded."""
    running = most = 0

    async def answer(_head: bytes) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return said("200 OK", b"x")

    async with answering(authority.issue(), answer) as port:
        backend = await account(port, connections_max=4)
        outcomes = await asyncio.gather(*(backend.execute(request("GET"), BytesBody()) for _ in range(40)))
        dialed = backend.attempts.primary.connections.dialed
    assert [one.status for one in outcomes] == [200] * 40
    assert most == 4
    assert dialed == 4


async def test_a_slow_read_is_asked_a_second_time_and_a_write_is_not(
    account: OpenAccount, authority: Authority
) -> None:
    """Issue 5: hedged second request for a slow tail (off by default)."""
    asked: Counter[bytes] = Counter()

    async def answer(head: bytes) -> bytes:
        method = head.split(b" ")[0]
        asked[method] += 1
        if asked[method] == 1:
            await asyncio.sleep(1.0 if method == b"PUT" else 30.0)
        return said("200 OK", b"x")

    async with answering(authority.issue(), answer) as port:
        backend = await account(port, hedge_after_s=0.1, connections_max=2)
        began_s = time.monotonic()
        outcomes = [await backend.execute(request(method), BytesBody()) for method in ("GET", "PUT")]
        assert time.monotonic() - began_s < 10
    assert [one.status for one in outcomes] == [200, 200]
    assert asked == {b"GET": 2, b"PUT": 1}
    assert backend.attempts.counters.hedged == 1
    assert backend.attempts.budget.connections.free == 2
