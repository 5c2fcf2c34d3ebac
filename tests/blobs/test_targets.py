"""Request targets. Source: Azure REST, "Naming and referencing containers, blobs, and metadata"."""

from __future__ import annotations

import pytest

from pvblob.blobs.target import InvalidTarget, parse_target

AZURE = "acct.blob.core.windows.net"


@pytest.mark.parametrize(
    ("authority", "target", "expected"),
    [
        (AZURE, "/", ("acct", None, None)),
        (AZURE, "/con?restype=container", ("acct", "con", None)),
        (AZURE, "/con", ("acct", "$root", b"con")),
        (AZURE, "/con/", ("acct", "$root", b"con")),
        (AZURE, "/con/a/b//c", ("acct", "con", b"a/b//c")),
        (AZURE, "/$root/a", ("acct", "$root", b"a")),
        (AZURE, "/%24root/a", ("acct", "$root", b"a")),
        (AZURE, "/con/a%2520b", ("acct", "con", b"a%20b")),
        (AZURE, "/con/a+b", ("acct", "con", b"a+b")),
        (AZURE, "/con/%C3%BC%25", ("acct", "con", "ü%".encode())),
        ("ACCT.blob.core.windows.net:443", "/con/b", ("acct", "con", b"b")),
        ("acct.z6.blob.storage.azure.net", "/con/b", ("acct", "con", b"b")),
        ("127.0.0.1:10000", "/devstoreaccount1/con/b", ("devstoreaccount1", "con", b"b")),
        ("[::1]:10000", "/devstoreaccount1?comp=list", ("devstoreaccount1", None, None)),
        ("localhost", "/devstoreaccount1/con?restype=container", ("devstoreaccount1", "con", None)),
        ("acct.blob.localhost:10000", "/con/b", ("acct", "con", b"b")),
    ],
)
def test_a_target_names_account_container_and_blob(authority, target, expected):
    parsed = parse_target(authority, target)
    assert (parsed.account, parsed.container, parsed.blob) == expected


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/Con/b", "InvalidResourceName"),
        ("/co/b", "InvalidResourceName"),
        ("/a--b/b", "InvalidResourceName"),
        ("/-ab/b", "InvalidResourceName"),
        ("/ab-/b", "InvalidResourceName"),
        (f"/{'a' * 64}/b", "InvalidResourceName"),
        ("/$other/b", "InvalidResourceName"),
        ("/con%0A/b", "InvalidResourceName"),
        ("/con/%FF", "InvalidUri"),
        (f"/con/{'a' * 1025}", "InvalidUri"),
        ("//b", "InvalidUri"),
        ("con/b", "InvalidUri"),
    ],
)
async def test_a_name_that_cannot_be_is_refused(call, target, code):
    with pytest.raises(InvalidTarget) as caught:
        parse_target(AZURE, target)
    assert caught.value.code == code
    got = await call("GET", target)
    assert (got.status, got.code) == (400, code)


def test_a_name_of_1024_characters_is_allowed_whatever_its_bytes():
    assert parse_target(AZURE, "/con/" + "%C3%BC" * 1024).blob == "ü".encode() * 1024


def test_a_query_is_decoded_once_and_plus_is_a_space():
    parsed = parse_target(AZURE, "/con?RESTYPE=container&prefix=a+b%2B%2520&prefix=second&empty=&flag")
    assert parsed.query == {"restype": "container", "prefix": "a b+%20", "empty": "", "flag": ""}
