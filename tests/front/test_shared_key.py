"""Shared Key as Azure's page "Authorize with Shared Key" says, held against Microsoft's own signer (design rule 8)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import string
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from azure.core.rest import HttpRequest
from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy, _storage_header_sort
from hypothesis import given
from hypothesis import strategies as st

from pvblob.blobs.auth import DEVELOPMENT_ACCOUNT, DEVELOPMENT_ACCOUNT_KEY, Rejection, authenticate, string_to_sign
from pvblob.blobs.auth.shared_key import service_rank
from pvblob.http import Fields, Request

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
NOW_TEXT = format_datetime(NOW, usegmt=True)
KEYS = {DEVELOPMENT_ACCOUNT: DEVELOPMENT_ACCOUNT_KEY, "other": b"other key"}
PATH = f"/{DEVELOPMENT_ACCOUNT}/box/blob"


def signed_by_azure(method: str, target: str, fields: dict[str, str]) -> Request:
    """Return the request after azure-storage-blob's policy has put its Authorization field on it."""
    outgoing = HttpRequest(method, f"http://127.0.0.1:10000{target}", headers=fields)
    key = base64.b64encode(DEVELOPMENT_ACCOUNT_KEY).decode()
    context = SimpleNamespace(transport=None)
    SharedKeyCredentialPolicy(DEVELOPMENT_ACCOUNT, key).on_request(
        SimpleNamespace(http_request=outgoing, context=context)
    )
    return Request(method, "http", "127.0.0.1:10000", target, Fields(outgoing.headers.items()))


def signed(method: str, target: str, fields: dict[str, str], *, lite: bool = False, text: str | None = None) -> Request:
    request = Request(method, "http", "127.0.0.1:10000", target, Fields(fields.items()))
    text = text if text is not None else string_to_sign(request, DEVELOPMENT_ACCOUNT, lite=lite)
    mac = base64.b64encode(hmac.digest(DEVELOPMENT_ACCOUNT_KEY, text.encode(), hashlib.sha256)).decode()
    request.fields.set("authorization", f"SharedKey{'Lite' if lite else ''} {DEVELOPMENT_ACCOUNT}:{mac}")
    return request


def verdict(request: Request, account: str = DEVELOPMENT_ACCOUNT, now: datetime = NOW) -> str | Rejection:
    return authenticate(request, account, KEYS, now)


def test_the_pages_own_example_gives_its_string_to_sign() -> None:
    """The page's example: Get Container Metadata, version 2015-02-21."""
    fields = Fields([("x-ms-version", "2015-02-21"), ("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT")])
    target = "/mycontainer?restype=container&comp=metadata&timeout=20"
    request = Request("GET", "https", "myaccount.blob.core.windows.net", target, fields)
    assert string_to_sign(request, "myaccount") == (
        "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n"
        "/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
    )


def test_the_pages_multiple_values_are_sorted_and_joined_by_commas() -> None:
    fields = Fields([("x-ms-date", NOW_TEXT)])
    target = "/mycontainer?restype=container&comp=list&include=snapshots&include=metadata&include=uncommittedblobs"
    text = string_to_sign(Request("GET", "https", "myaccount.blob.core.windows.net", target, fields), "myaccount")
    assert text.endswith(
        "/myaccount/mycontainer\ncomp:list\ninclude:metadata,snapshots,uncommittedblobs\nrestype:container"
    )


@pytest.mark.parametrize(
    ("method", "target", "fields"),
    [
        ("GET", PATH, {}),
        ("GET", f"/{DEVELOPMENT_ACCOUNT}?comp=list&prefix=a%20b%2Bc&include=metadata", {}),
        ("HEAD", f"{PATH}%2Fa%20b%C3%BC~-_.", {"If-Match": '"0x1"', "If-Modified-Since": NOW_TEXT}),
        ("PUT", PATH, {"Content-Length": "0", "x-ms-meta-B": "2", "x-ms-meta-a": "1"}),
        ("PUT", PATH, {"Content-Length": "5", "Content-MD5": "XUFAKrxLKna5cZ2REBfFkg==", "Content-Type": "text/plain"}),
        ("PUT", f"{PATH}?comp=block&blockid=QUFB%3D%3D", {"Content-Length": "7", "x-ms-meta-two": "with  spaces"}),
        ("PUT", PATH, {"Content-Length": "5", "Content-Encoding": "gzip", "Content-Language": "de"}),
        ("DELETE", PATH, {"If-None-Match": "*", "If-Unmodified-Since": NOW_TEXT}),
        ("PUT", PATH, {"x-ms-meta-a-b": "1", "x-ms-meta-ab": "2", "x-ms-meta-a_b": "3", "x-ms-meta-a.b": "4"}),
        ("GET", f"{PATH}?snapshot=&versionid=2020", {"x-ms-range": "bytes=0-5"}),
    ],
)
def test_what_azures_signer_signed_is_accepted(method: str, target: str, fields: dict[str, str]) -> None:
    request = signed_by_azure(method, target, {"x-ms-date": NOW_TEXT, "x-ms-version": "2026-10-06", **fields})
    assert verdict(request) == DEVELOPMENT_ACCOUNT


@given(
    st.dictionaries(
        st.text(string.ascii_letters + string.digits + "-_.!#$%&'*+^`|~", min_size=1, max_size=12).map(
            lambda name: f"x-ms-meta-{name.lower()}"
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).map(str.strip),
        max_size=6,
    ),
    st.lists(st.tuples(st.sampled_from(["comp", "prefix", "marker", "timeout"]), st.text(max_size=8)), max_size=4),
)
def test_whatever_azures_signer_signs_is_accepted(fields: dict[str, str], query: list[tuple[str, str]]) -> None:
    # Each name once: the signer keeps the last value of a repeated one, the service joins them.
    target = PATH + "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in dict(query).items())
    assert verdict(signed_by_azure("PUT", target, {"x-ms-date": NOW_TEXT, **fields})) == DEVELOPMENT_ACCOUNT


@given(st.lists(st.text(string.ascii_lowercase + string.digits + "-_.!#$%&*+^`|~'", min_size=1), unique=True))
def test_names_sort_as_the_service_sorts_them(names: list[str]) -> None:
    """The service's order is not byte order; Microsoft's SDKs emulate it, and so does this."""
    pairs = [(name, "") for name in names]
    assert [(name, "") for name in sorted(names, key=service_rank)] == _storage_header_sort(pairs)


def test_a_signer_that_sorts_byte_by_byte_is_accepted_too() -> None:
    """object_store does; the page says "lexicographically"."""
    fields = {"x-ms-date": NOW_TEXT, "x-ms-meta-a-z": "1", "x-ms-meta-ab": "2"}
    text = f"GET{chr(10) * 12}x-ms-date:{NOW_TEXT}\nx-ms-meta-a-z:1\nx-ms-meta-ab:2\n/{DEVELOPMENT_ACCOUNT}{PATH}"
    assert text != string_to_sign(Request("GET", "http", "h", PATH, Fields(fields.items())), DEVELOPMENT_ACCOUNT)
    assert verdict(signed("GET", PATH, fields, text=text)) == DEVELOPMENT_ACCOUNT


def test_a_plus_in_the_query_is_signed_as_a_space() -> None:
    """Form encoding, which object_store uses: the service decodes it before it signs."""
    request = Request("GET", "http", "h", f"{PATH}?prefix=a+b%2B", Fields([("x-ms-date", NOW_TEXT)]))
    assert string_to_sign(request, DEVELOPMENT_ACCOUNT).endswith("\nprefix:a b+")


def test_date_is_signed_only_without_x_ms_date() -> None:
    """The page: with x-ms-date, the Date line of the string is empty."""
    both = Request("GET", "http", "h", PATH, Fields([("date", NOW_TEXT), ("x-ms-date", NOW_TEXT)]))
    one = Request("GET", "http", "h", PATH, Fields([("date", NOW_TEXT)]))
    assert string_to_sign(both, "a").split("\n")[6] == ""
    assert string_to_sign(one, "a").split("\n")[6] == NOW_TEXT
    assert verdict(signed("GET", PATH, {"date": NOW_TEXT})) == DEVELOPMENT_ACCOUNT


@pytest.mark.parametrize(("version", "line"), [("2014-02-14", "0"), ("2015-02-21", ""), ("2026-10-06", "")])
def test_a_zero_length_is_signed_as_nothing_since_2015(version: str, line: str) -> None:
    request = Request("PUT", "http", "h", PATH, Fields([("content-length", "0"), ("x-ms-version", version)]))
    assert string_to_sign(request, "a").split("\n")[3] == line


def test_text_that_went_out_as_latin_1_was_signed_as_utf_8() -> None:
    """http.client sends field values as ISO 8859-1; the SDK signed their UTF-8."""
    fields = {"x-ms-date": NOW_TEXT, "x-ms-meta-a": "caf\xe9"}
    as_signed = signed("GET", PATH, fields)
    sent_as_utf_8 = Fields([(n, v.encode().decode("latin-1")) for n, v in as_signed.fields])
    assert verdict(as_signed) == DEVELOPMENT_ACCOUNT
    assert verdict(Request("GET", "http", "h", PATH, sent_as_utf_8)) == DEVELOPMENT_ACCOUNT


def test_shared_key_lite_signs_less() -> None:
    """The page, "Shared Key Lite" for version 2009-09-19 and later."""
    fields = {"x-ms-date": NOW_TEXT, "content-type": "text/plain", "content-length": "3", "range": "bytes=0-1"}
    request = signed("PUT", f"{PATH}?comp=metadata&timeout=5", fields, lite=True)
    assert string_to_sign(request, DEVELOPMENT_ACCOUNT, lite=True) == (
        f"PUT\n\ntext/plain\n\nx-ms-date:{NOW_TEXT}\n/{DEVELOPMENT_ACCOUNT}{PATH}?comp=metadata"
    )
    assert verdict(request) == DEVELOPMENT_ACCOUNT


@pytest.mark.parametrize("offset_s", [0, 899, -899])
def test_a_date_within_fifteen_minutes_is_accepted(offset_s: int) -> None:
    assert verdict(signed("GET", PATH, {"x-ms-date": NOW_TEXT}), now=NOW + timedelta(seconds=offset_s)) == (
        DEVELOPMENT_ACCOUNT
    )


@pytest.mark.parametrize(("offset_s", "says"), [(901, "too old"), (-901, "future")])
def test_a_date_further_away_is_refused(offset_s: int, says: str) -> None:
    found = verdict(signed("GET", PATH, {"x-ms-date": NOW_TEXT}), now=NOW + timedelta(seconds=offset_s))
    assert isinstance(found, Rejection)
    assert (found.status, found.code) == (403, "AuthenticationFailed")
    assert says in found.detail


@pytest.mark.parametrize("fields", [{}, {"x-ms-date": "yesterday"}, {"x-ms-date": "Fri, 99 Jun 2015 23:39:12 GMT"}])
def test_a_request_without_a_date_is_refused(fields: dict[str, str]) -> None:
    found = verdict(signed("GET", PATH, fields))
    assert isinstance(found, Rejection)
    assert found.status == 403


@pytest.mark.parametrize(
    "change",
    [
        lambda r: setattr(r, "method", "DELETE"),
        lambda r: setattr(r, "target", PATH + "2"),
        lambda r: setattr(r, "target", PATH + "?comp=metadata"),
        lambda r: r.fields.set("x-ms-meta-a", "2"),
        lambda r: r.fields.add("x-ms-meta-b", "2"),
        lambda r: r.fields.discard("x-ms-meta-a"),
        lambda r: r.fields.set("content-length", "6"),
        lambda r: r.fields.set("range", "bytes=0-1"),
    ],
    ids=["method", "path", "query", "value", "added", "removed", "length", "range"],
)
def test_any_change_after_signing_is_refused_and_the_answer_shows_the_string_to_sign(
    change: Callable[[Request], object],
) -> None:
    request = signed("PUT", PATH, {"x-ms-date": NOW_TEXT, "x-ms-meta-a": "1", "content-length": "5"})
    assert verdict(request) == DEVELOPMENT_ACCOUNT
    change(request)
    found = verdict(request)
    assert isinstance(found, Rejection)
    assert (found.status, found.code) == (403, "AuthenticationFailed")
    assert string_to_sign(request, DEVELOPMENT_ACCOUNT) in found.detail


def test_a_key_opens_only_its_own_account() -> None:
    """Design rule 8: the well-known key opens only the development account, whatever the path says."""
    found = verdict(signed("GET", "/other/box", {"x-ms-date": NOW_TEXT}), account="other")
    assert isinstance(found, Rejection)
    assert found.status == 403


def test_an_unknown_account_is_refused() -> None:
    request = Request("GET", "http", "h", "/nobody/box", Fields([("authorization", "SharedKey nobody:AAAA")]))
    found = verdict(request, account="nobody")
    assert isinstance(found, Rejection)
    assert (found.status, found.code) == (403, "AuthenticationFailed")
    assert "nobody" in found.detail


def test_no_credential_is_401_with_a_challenge() -> None:
    found = verdict(Request("GET", "http", "h", PATH, Fields()))
    assert isinstance(found, Rejection)
    assert (found.status, found.code, found.challenge) == (401, "NoAuthenticationInformation", "SharedKey")


@pytest.mark.parametrize("field", ["SharedKey", "SharedKey ", "SharedKey account", "SharedKey :sig", "SharedKey acct:"])
def test_a_malformed_credential_is_a_400(field: str) -> None:
    found = verdict(Request("GET", "http", "h", PATH, Fields([("authorization", field)])))
    assert isinstance(found, Rejection)
    assert (found.status, found.code) == (400, "InvalidAuthenticationInfo")


def test_another_scheme_is_refused_by_name() -> None:
    found = verdict(Request("GET", "http", "h", PATH, Fields([("authorization", "Bearer abc")])))
    assert isinstance(found, Rejection)
    assert "Bearer" in found.detail


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_bytes_make_it_raise(value: bytes, target: bytes) -> None:
    """Never 500 because of a weird request: every octet in a field or target is judged, not tripped over."""
    octets = value.decode("latin-1")
    fields = Fields([("authorization", f"SharedKey {DEVELOPMENT_ACCOUNT}:{octets}"), ("x-ms-date", NOW_TEXT)])
    fields.add("x-ms-meta-a", octets)
    found = verdict(Request("GET", "http", "h", PATH + "?" + target.decode("latin-1"), fields))
    assert isinstance(found, Rejection)
    assert isinstance(found.response(Request("GET", "http", "h", PATH, fields)).content, bytes)
