"""Nobody is served, and no byte of a body asked for, before the front knows who asks (design rule 8)."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from pvblob.blobs.auth import DEVELOPMENT_ACCOUNT, DEVELOPMENT_ACCOUNT_KEY
from pvblob.front import HttpFront
from tests.front.backends import MemoryBackend
from tests.front.conftest import OTHER_ACCOUNT, OTHER_KEY
from tests.front.wire import BLOB, Wire, head


async def test_an_anonymous_request_is_challenged(wire: Wire, backend: MemoryBackend) -> None:
    await wire.send(head("GET", BLOB, {"host": "x", "x-ms-client-request-id": "mine"}))
    reply = await wire.reply()
    assert (reply.status, reply.code) == (401, b"NoAuthenticationInformation")
    assert reply.one(b"www-authenticate") == b"SharedKey"
    assert reply.one(b"x-ms-client-request-id") == b"mine"
    assert ElementTree.fromstring(reply.content).findtext("Code") == "NoAuthenticationInformation"
    assert backend.requests == []


async def test_a_refused_head_has_its_code_in_a_field_only(wire: Wire) -> None:
    await wire.send(head("HEAD", BLOB, {"host": "x"}))
    reply = await wire.reply(head_only=True)
    assert (reply.status, reply.code) == (401, b"NoAuthenticationInformation")
    assert (await wire.ask("GET", BLOB)).status == 204


async def test_a_wrong_signature_is_answered_with_the_string_to_sign(wire: Wire, backend: MemoryBackend) -> None:
    await wire.send(wire.signed("GET", f"{BLOB}?comp=metadata", {"x-ms-meta-a": "<&>"}, key=b"wrong"))
    reply = await wire.reply()
    assert (reply.status, reply.code) == (403, b"AuthenticationFailed")
    detail = ElementTree.fromstring(reply.content).findtext("AuthenticationErrorDetail") or ""
    assert "Server used following string to sign: 'GET\n" in detail
    assert f"x-ms-meta-a:<&>\nx-ms-version:2021-12-02\n/{DEVELOPMENT_ACCOUNT}{BLOB}\ncomp:metadata'" in detail
    assert backend.requests == []


async def test_every_account_has_its_own_key(wire: Wire, backend: MemoryBackend) -> None:
    await wire.send(wire.signed("GET", f"/{OTHER_ACCOUNT}/box", account=OTHER_ACCOUNT, key=OTHER_KEY))
    assert (await wire.reply()).status == 204
    # The well-known key, signing in its own account's name, asks for the other account.
    await wire.send(wire.signed("GET", f"/{OTHER_ACCOUNT}/box"))
    assert (await wire.reply()).status == 403
    await wire.send(wire.signed("GET", f"/{OTHER_ACCOUNT}/box", account=OTHER_ACCOUNT, key=DEVELOPMENT_ACCOUNT_KEY))
    assert (await wire.reply()).status == 403
    assert [request.target for request in backend.requests] == [f"/{OTHER_ACCOUNT}/box"]


async def test_a_host_style_authority_names_the_account(wire: Wire, backend: MemoryBackend) -> None:
    """blobs.target reads the account from the host name there; a path that begins with another is a container."""
    wire.authority = f"{OTHER_ACCOUNT}.blob.core.windows.net"
    await wire.send(wire.signed("GET", f"/{DEVELOPMENT_ACCOUNT}/box"))
    assert (await wire.reply()).status == 403
    await wire.send(wire.signed("GET", f"/{DEVELOPMENT_ACCOUNT}/box", account=OTHER_ACCOUNT, key=OTHER_KEY))
    assert (await wire.reply()).status == 204


async def test_the_development_account_can_be_left_out(backend: MemoryBackend) -> None:
    front = HttpFront(backend, "127.0.0.1", 0, development_account=False)
    await front.start()
    wire = await Wire.open(front.url)
    try:
        reply = await wire.ask("GET", BLOB)
        assert (reply.status, backend.requests) == (403, [])
    finally:
        await wire.close()
        await front.stop()


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH"])
async def test_a_refused_sender_is_not_asked_for_its_body(wire: Wire, backend: MemoryBackend, method: str) -> None:
    await wire.send(head(method, BLOB, {"host": "x", "expect": "100-continue", "content-length": "1000"}))
    reply = await wire.reply()
    assert (reply.status, reply.one(b"connection")) == (401, b"close")
    assert backend.requests == []


async def test_a_refused_sender_of_a_body_still_reads_the_answer(wire: Wire, backend: MemoryBackend) -> None:
    """The answer must not be lost in a reset while the client is still sending."""
    size_bytes = 8 * 1024 * 1024
    await wire.send(head("PUT", BLOB, {"host": "x", "content-length": str(size_bytes)}))
    await wire.send(b"x" * size_bytes)
    reply = await wire.reply()
    assert (reply.status, reply.one(b"connection")) == (401, b"close")
    assert await wire.at_end()
    assert backend.requests == []


async def test_refusals_are_counted(wire: Wire, front: HttpFront) -> None:
    await wire.send(head("GET", BLOB, {"host": "x"}))
    await wire.reply()
    assert (front.counters.received, front.counters.refused) == (1, 1)
