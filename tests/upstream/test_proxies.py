"""Endpoints that only an HTTP proxy reaches: CONNECT, its credential, what the environment says, TLS through it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pvblob.errors import SettingsError
from pvblob.http import BytesBody
from pvblob.upstream.endpoint import EndpointUrl
from pvblob.upstream.proxies import proxy_to
from tests.upstream.answers import OpenAccount, code, content_of, request, said
from tests.upstream.connect_proxy import connect_proxy
from tests.upstream.proxy import answering
from tests.upstream.world import ACCOUNT, Authority

NAME = "elsewhere.example"
CREDENTIAL = "clerk:pass word:ü"
CONTENT = bytes(range(256)) * 4096


def _answer(head: bytes) -> bytes:
    return said("200 OK", CONTENT if head.startswith(b"GET") else b"", 'etag: "1"', "x-ms-blob-type: BlockBlob")


async def test_an_endpoint_is_reached_through_the_proxy_which_alone_knows_its_name(
    account: OpenAccount, authority: Authority, tmp_path: Path
) -> None:
    """The proxy is asked to CONNECT with its credential, and sees nothing of the requests."""
    secret = tmp_path / "proxy-credential"
    secret.write_text(CREDENTIAL, "utf-8")
    server = answering(authority.issue("named", NAME), _answer)
    async with server as port, connect_proxy({NAME: port}, CREDENTIAL) as proxy:
        settings = {"endpoint": f"https://{NAME}/{ACCOUNT}", "proxy": f"http://127.0.0.1:{proxy.port}"}
        backend = await account(port, **settings, proxy_secret_file=secret)
        read = await backend.execute(request("GET"), BytesBody())
        assert await content_of(read) == CONTENT
        written = await backend.execute(request("PUT"), BytesBody(CONTENT))
    assert (read.status, written.status) == (200, 200)
    assert [head.split(b"\r\n")[0] for head in proxy.asked] == [f"CONNECT {NAME}:443 HTTP/1.1".encode()]


async def test_whoever_answers_through_the_proxy_must_prove_to_be_the_endpoint(
    account: OpenAccount, authority: Authority
) -> None:
    async with answering(authority.issue(), _answer) as port, connect_proxy({NAME: port}) as proxy:
        settings = {"endpoint": f"https://{NAME}/{ACCOUNT}", "proxy": f"http://127.0.0.1:{proxy.port}"}
        backend = await account(port, **settings)
        assert code(await backend.execute(request("GET"), BytesBody())) == (502, "PvblobUpstreamUntrusted")


async def test_a_refused_credential_of_the_proxy_is_said_and_a_new_one_counts_without_a_restart(
    account: OpenAccount, authority: Authority, tmp_path: Path
) -> None:
    secret = tmp_path / "proxy-credential"
    secret.write_text("clerk:old", "utf-8")
    async with answering(authority.issue(), _answer) as port, connect_proxy(credential=CREDENTIAL) as proxy:
        backend = await account(port, proxy=f"http://localhost:{proxy.port}", proxy_secret_file=secret)
        refused = await backend.execute(request("GET", within_s=1.0), BytesBody())
        text = await content_of(refused)
        assert code(refused) == (503, "ServerBusy")
        assert b"407" in text
        assert b"old" not in text
        reading = asyncio.ensure_future(backend.execute(request("GET"), BytesBody()))
        asked = len(proxy.asked)
        while len(proxy.asked) == asked:  # noqa: ASYNC110 - the old one is refused once more
            await asyncio.sleep(0.01)
        secret.write_text(CREDENTIAL, "utf-8")
        response = await reading
        assert (response.status, await content_of(response)) == (200, CONTENT)


async def test_the_environment_names_the_proxy_as_for_other_programs(
    account: OpenAccount, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = answering(authority.issue("named", NAME), _answer)
    async with server as port, connect_proxy({NAME: port}, "clerk:p@ss") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://clerk:p%40ss@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "other.example")
        backend = await account(port, endpoint=f"https://{NAME}/{ACCOUNT}")
        assert (await backend.execute(request("PUT"), BytesBody())).status == 200
        assert len(proxy.asked) == 1
        local = await account(port)  # this machine itself is not reached through a proxy
        assert (await local.execute(request("PUT"), BytesBody())).status == 200
        assert len(proxy.asked) == 1


def test_settings_come_before_the_environment_and_no_proxy_before_https_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = EndpointUrl.parse(f"https://contoso.{NAME}")
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert repr(proxy_to(endpoint, None)) == "Proxy('proxy.example', 3128)"
    assert repr(proxy_to(endpoint, "http://other.example")) == "Proxy('other.example', 80)"
    assert proxy_to(endpoint, "none") is None
    assert proxy_to(EndpointUrl.parse(f"http://contoso.{NAME}"), None) is None
    monkeypatch.setenv("NO_PROXY", f"localhost,.{NAME}")
    assert proxy_to(endpoint, None) is None


@pytest.mark.parametrize(
    ("endpoint", "named", "reason"),
    [
        ("https://a.example", "socks5://p.example:1080", "must be a URL such as"),
        ("https://a.example", "https://p.example:3128", "TLS to a proxy"),
        ("https://a.example", "http://p.example:port", "must be a URL such as"),
        ("https://a.example", "http://clerk:secret@p.example", "proxy_credential_file"),
        ("http://a.example", "http://p.example:3128", "only endpoints of https"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_without_its_secret(endpoint: str, named: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as refused:
        proxy_to(EndpointUrl.parse(endpoint), named)
    assert "secret" not in str(refused.value)
