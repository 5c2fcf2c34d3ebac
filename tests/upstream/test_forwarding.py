"""What a guest's request becomes on its way elsewhere: all bytes kept, but what is of one connection or sender."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pvblob.blobs.auth import Rejection, authenticate
from pvblob.errors import SettingsError
from pvblob.http import Fields, Request
from pvblob.upstream.credentials import SharedAccessSignature, SharedKey, strip_guests_credential
from pvblob.upstream.endpoint import EndpointUrl, account_of, target_at, url_at, url_for
from pvblob.upstream.forward import forwarded, has_dot_segment
from pvblob.upstream.secrets import SecretFile, SecretVariable

HOST_STYLE = EndpointUrl.parse("https://contoso.blob.core.windows.net")
PATH_STYLE = EndpointUrl.parse("http://127.0.0.1:10000/contoso")
GUEST = "contoso.blob.core.windows.net"
KEY = base64.b64encode(b"k" * 32).decode()


@pytest.mark.parametrize("rest", ["/c/b", "/c/a%20b/%C3%BC%25?comp=block&blockid=QUE%3D", "/?comp=list", "/c//x"])
@pytest.mark.parametrize("endpoint", [HOST_STYLE, PATH_STYLE], ids=["host", "path"])
def test_a_target_keeps_every_byte_after_the_account(rest: str, endpoint: EndpointUrl) -> None:
    assert target_at(endpoint, GUEST, rest) == endpoint.prefix + rest
    assert target_at(endpoint, "127.0.0.1:9", f"/contoso{rest}") == endpoint.prefix + rest
    assert account_of(GUEST, rest) == account_of("127.0.0.1:9", f"/contoso{rest}") == "contoso"


def test_urls_of_copy_sources_are_translated_both_ways_and_others_left_alone() -> None:
    guests = f"https://{GUEST}/c/b?snapshot=1"
    there = url_at(PATH_STYLE, "contoso", guests)
    assert there == "http://127.0.0.1:10000/contoso/c/b?snapshot=1"
    assert url_for(Request("GET", "https", GUEST, "/c/b", Fields()), PATH_STYLE, "contoso", there) == guests
    other = "https://fabrikam.blob.core.windows.net/c/b"
    assert url_at(PATH_STYLE, "contoso", other) == other
    assert url_at(PATH_STYLE, "contoso", "no url") == "no url"


def test_fields_of_the_connection_and_the_guests_credential_stay_behind() -> None:
    """Issue 5: hop-by-hop fields aside, everything is forwarded; the guest's authorization is replaced."""
    kept = [("x-ms-meta-a", "v"), ("x-ms-meta-a", "w"), ("x-odd", "\xe9"), ("x-ms-version", "2026-10-06")]
    dropped = [
        ("connection", "keep-alive, x-named"),
        ("x-named", "1"),
        ("host", "guest"),
        ("content-length", "7"),
        ("expect", "100-continue"),
        ("authorization", "SharedKey contoso:AAAA"),
        ("x-ms-date", "yesterday"),
        ("pvblob-resubmission", "1"),
    ]
    request = Request("PUT", "https", GUEST, "/c/b?sv=1&sig=a%2B&comp=page&se=2", Fields([*dropped, *kept]))
    sent = forwarded(request, PATH_STYLE, "contoso", 5, guests_own=False)
    assert sent.fields.pairs() == [*kept, ("host", "127.0.0.1:10000"), ("content-length", "5")]
    assert sent.target == "/contoso/c/b?comp=page"
    assert request.fields.get("authorization") == "SharedKey contoso:AAAA"


def test_a_write_without_content_says_so_and_a_read_does_not() -> None:
    for method, said in (("PUT", "0"), ("POST", "0"), ("GET", None), ("DELETE", None)):
        sent = forwarded(Request(method, "https", GUEST, "/c", Fields()), HOST_STYLE, "contoso", 0, guests_own=False)
        assert sent.fields.get("content-length") == said


def test_what_the_guest_sent_is_passed_on_when_the_credential_is_its_own() -> None:
    fields = [("authorization", "Bearer t"), ("x-ms-date", "now")]
    request = Request("GET", "https", GUEST, "/c/b?sig=x&sv=1", Fields(fields))
    sent = forwarded(request, HOST_STYLE, "contoso", 0, guests_own=True)
    assert sent.fields.pairs() == [*fields, ("host", GUEST)]
    assert sent.target == "/c/b?sig=x&sv=1"


@pytest.mark.parametrize("path", ["/c/../d/b", "/c/%2e%2E/d", "/..", "/c/./b", "/c/.", "/c/x\\..\\b", "/c/x%2f..%2Fb"])
def test_a_path_that_servers_would_resolve_is_recognised(path: str) -> None:
    """Policy judges the container in the path: `..` would lead to another one."""
    assert has_dot_segment(f"{path}?x")


@pytest.mark.parametrize("path", ["/c/b", "/c/..b/b..", "/c/.b", "/c/dots./..a/.b", "/c/b?x=/../y"])
def test_names_with_dots_are_not_mistaken_for_it(path: str) -> None:
    assert not has_dot_segment(path)


def test_a_signed_request_is_accepted_by_the_service_and_follows_a_new_key(tmp_path: Path) -> None:
    """Issue 5: rotation without restart."""
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    credential = SharedKey("contoso", SecretFile(file))

    def verdict(key: bytes) -> str | Rejection:
        request = Request("PUT", "https", GUEST, "/c/b%20?comp=block&blockid=QQ%3D%3D", Fields([("x-ms-meta-z", "é")]))
        sent = forwarded(request, PATH_STYLE, "contoso", 3, guests_own=False)
        credential.authorize(sent)
        return authenticate(sent, "contoso", {"contoso": key}, datetime.now(UTC))

    assert verdict(b"k" * 32) == "contoso"
    assert not credential.refused()
    file.write_text(base64.b64encode(b"n" * 32).decode())
    assert credential.refused()
    assert verdict(b"n" * 32) == "contoso"
    assert isinstance(verdict(b"k" * 32), Rejection)


async def test_a_shared_access_signature_is_appended(tmp_path: Path) -> None:
    file = tmp_path / "sas"
    file.write_text("?sv=2024&sp=rl&sig=abc%3D\n")
    credential = SharedAccessSignature(SecretFile(file))
    await credential.prepare()
    for target, expected in (("/c/b", "/c/b?sv=2024&sp=rl&sig=abc%3D"), ("/c?x=1", "/c?x=1&sv=2024&sp=rl&sig=abc%3D")):
        request = Request("GET", "https", GUEST, target, Fields())
        credential.authorize(request)
        assert request.target == expected
        strip_guests_credential(request)
        assert request.target == target


def test_secrets_come_from_files_from_systemd_or_the_environment_and_never_show(tmp_path: Path) -> None:
    (tmp_path / "name").write_text("of systemd")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "SECRET": "of the environment"}
    file, variable = SecretFile(Path("name"), environ), SecretVariable("SECRET", environ)
    assert (file.reveal(), variable.reveal()) == ("of systemd", "of the environment")
    assert "of" not in repr(file).replace(str(tmp_path), "")
    assert "of the" not in repr(variable)
    (tmp_path / "name").unlink()
    file.look_again()
    assert file.reveal() == "of systemd"
    for absent in (SecretFile(tmp_path / "none"), SecretVariable("NONE", {})):
        with pytest.raises(SettingsError, match=r"none|NONE"):
            absent.reveal()


@pytest.mark.parametrize(
    "text", ["contoso", "ftp://x", "https://", "https://x:99999", "https://a@b", "https://x?sig=s3"]
)
def test_an_endpoint_that_is_no_url_of_a_service_is_refused_without_showing_a_query(text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        EndpointUrl.parse(text)
    assert "s3" not in str(refused.value)
