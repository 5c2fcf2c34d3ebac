"""Metadata names: kept as they were set, compared without case. Source: Azure REST, "Setting and retrieving properties
and metadata for Blob Storage resources"; decision 3."""

from __future__ import annotations

import pytest

from pvblob.http import METADATA_NAMES, BytesBody, Fields, Request, metadata_spelling, spelled_metadata
from tests.blobs.conftest import HOST


def test_only_names_that_would_lose_their_case_are_noted():
    assert metadata_spelling(["a", "b_1"]) == []
    assert metadata_spelling(["a", "bC"]) == [(METADATA_NAMES, "a,bC")]


def test_the_first_spelling_of_a_name_counts():
    assert spelled_metadata(Fields([(METADATA_NAMES, "Foo,fOO,a")])) == {
        "x-ms-meta-foo": "x-ms-meta-Foo",
        "x-ms-meta-a": "x-ms-meta-a",
    }


@pytest.mark.parametrize("noted", ["", ",", "Other", "x-ms-meta-Foo", "Foo,\xff,"])
async def test_a_spelling_that_fits_no_metadata_changes_nothing_else(call, noted):
    """Rule 1: what a guest says about its names is looked up, never trusted."""
    answer = await call.put("/con/b", b"1", x_ms_meta_bar="1", pvblob_metadata_names=noted)
    assert answer.status == 201
    got = await call("HEAD", "/con/b")
    assert got.fields.get("x-ms-meta-bar") == "1"
    assert METADATA_NAMES not in got.fields


async def test_names_keep_their_case_on_blobs_containers_and_in_listings(call):
    spelled = {METADATA_NAMES: "someKey,OTHER", "x-ms-meta-somekey": "1", "x-ms-meta-other": "2"}
    await call("PUT", "/con/b", {"x-ms-blob-type": "BlockBlob", **spelled}, b"1")
    await call("PUT", "/con?restype=container&comp=metadata", spelled)
    for method, target in [
        ("GET", "/con/b"),
        ("HEAD", "/con/b"),
        ("GET", "/con/b?comp=metadata"),
        ("HEAD", "/con?restype=container"),
    ]:
        fields = (await call(method, target)).fields
        assert fields.get(METADATA_NAMES) == "someKey,OTHER"
        assert fields.get("x-ms-meta-somekey") == "1"
    for target in ("/con?restype=container&comp=list&include=metadata", "/?comp=list&include=metadata"):
        found = (await call("GET", target)).xml.find(".//Metadata")
        assert {child.tag: child.text for child in found} == {"someKey": "1", "OTHER": "2"}


async def test_values_of_names_that_differ_in_case_only_are_joined_under_the_first(call):
    request = Fields([("x-ms-blob-type", "BlockBlob"), ("x-ms-meta-foo", "1"), ("x-ms-meta-FOO", "2")])
    request.add(METADATA_NAMES, "Foo,FOO")
    await call.service.execute(Request("PUT", "https", HOST, "/con/b", request), BytesBody(b""))
    fields = (await call("HEAD", "/con/b")).fields
    assert (fields.get("x-ms-meta-foo"), fields.get(METADATA_NAMES)) == ("1,2", "Foo")
