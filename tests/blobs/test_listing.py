"""List Blobs. Source: Azure REST, "List Blobs"; ecosystem.md §4."""

from __future__ import annotations

import random
from urllib.parse import quote

import pytest

NAMES = ["a", "a/1", "a/2", "a/b/1", "a0", "b", "b/", "b//x", "c d/é", "ÿ", "\U0001f600/x"]
LIST = "/con?restype=container&comp=list"


@pytest.fixture
async def listed(call):
    for name in NAMES:
        await call.put(f"/con/{quote(name)}", name.encode(), x_ms_meta_len=str(len(name)))
    return call


async def pages(call, query: str = "", size: int = 5000) -> tuple[list[str], list[str], int]:
    """Follow the markers; return blob names, prefixes, number of pages."""
    names, prefixes, marker, count = [], [], "", 0
    while True:
        root = (await call("GET", f"{LIST}&maxresults={size}{query}&marker={marker}")).xml
        blobs = root.find("Blobs")
        assert len(blobs) <= size
        names += [e.text for e in blobs.findall("Blob/Name")]
        prefixes += [e.text for e in blobs.findall("BlobPrefix/Name")]
        count += 1
        assert root.find("NextMarker") is not None
        marker = root.findtext("NextMarker") or ""
        if not marker:
            return names, prefixes, count


async def test_names_come_in_byte_order(listed):
    names, prefixes, _ = await pages(listed)
    assert names == sorted(NAMES, key=str.encode)
    assert prefixes == []


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_pages_join_to_the_whole_listing(listed, size):
    names, _, count = await pages(listed, size=size)
    assert names == sorted(NAMES, key=str.encode)
    assert count == -(-len(NAMES) // size)


@pytest.mark.parametrize("size", [1, 2, 5000])
async def test_a_delimiter_rolls_names_up(listed, size):
    names, prefixes, _ = await pages(listed, "&delimiter=%2F", size)
    assert (names, prefixes) == (["a", "a0", "b", "ÿ"], ["a/", "b/", "c d/", "\U0001f600/"])
    names, prefixes, _ = await pages(listed, "&delimiter=%2F&prefix=a%2F", size)
    assert (names, prefixes) == (["a/1", "a/2"], ["a/b/"])
    names, prefixes, _ = await pages(listed, "&delimiter=%2F&prefix=b%2F", size)
    assert (names, prefixes) == (["b/"], ["b//"])


async def test_start_from_is_inclusive_and_end_before_exclusive(listed):
    assert (await pages(listed, "&startFrom=a%2F2"))[0][:2] == ["a/2", "a/b/1"]
    assert (await pages(listed, "&startFrom=a%2F2&endBefore=a0"))[0] == ["a/2", "a/b/1"]


async def test_a_prefix_with_a_space_may_come_as_plus(listed):
    assert (await pages(listed, "&prefix=c+d"))[0] == ["c d/é"]


async def test_an_entry_carries_what_the_sdk_reads(listed):
    root = (await listed("GET", f"{LIST}&include=metadata,copy,tags&prefix=a%2F1")).xml
    assert root.get("ContainerName") == "con"
    (blob,) = root.findall("Blobs/Blob")
    head = await listed("HEAD", "/con/a/1")
    assert blob.findtext("Properties/Etag") == head.etag.strip('"')
    assert blob.findtext("Properties/Content-Length") == "3"
    assert blob.findtext("Properties/Content-MD5") == head.fields.get("content-md5")
    assert blob.findtext("Properties/Last-Modified") == head.fields.get("last-modified")
    assert blob.findtext("Properties/BlobType") == "BlockBlob"
    assert blob.findtext("Metadata/len") == "3"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("&include=permissions", "InvalidQueryParameterValue"),
        ("&include=metadata,nonsense", "InvalidQueryParameterValue"),
        ("&maxresults=0", "OutOfRangeQueryParameterValue"),
        ("&maxresults=-1", "InvalidQueryParameterValue"),
        ("&maxresults=x", "InvalidQueryParameterValue"),
        ("&marker=%21%21", "InvalidQueryParameterValue"),
    ],
)
async def test_a_listing_that_makes_no_sense_is_refused(listed, query, code):
    got = await listed("GET", LIST + query)
    assert (got.status, got.code) == (400, code)


async def test_a_listing_of_a_missing_container_is_404(call):
    assert (await call("GET", "/none?restype=container&comp=list")).code == "ContainerNotFound"


async def test_uncommitted_blobs_are_listed_when_asked_for(listed):
    await listed("PUT", "/con/a/15?comp=block&blockid=AAAA", {}, b"x")
    await listed("PUT", "/con/a/1?comp=block&blockid=AAAA", {}, b"x")
    assert "a/15" not in (await pages(listed, "&prefix=a%2F"))[0]
    names, _, _ = await pages(listed, "&prefix=a%2F&include=uncommittedblobs", 1)
    assert names == ["a/1", "a/15", "a/2", "a/b/1"]


async def test_names_that_xml_cannot_hold_are_encoded_and_others_escaped(call):
    for name in ("x\x01y", "<&>\"'", "cr\rlf\n", "\ufffe"):
        await call.put(f"/con/{quote(name)}", b"")
    root = (await call("GET", LIST)).xml
    found = {(e.get("Encoded"), e.text) for e in root.findall("Blobs/Blob/Name")}
    assert found == {("true", "x%01y"), (None, "<&>\"'"), (None, "cr\rlf\n"), ("true", "%EF%BF%BE")}


@pytest.mark.parametrize("seed", [1, 2])
async def test_random_listings_match_a_sorted_list(call, seed):
    chance = random.Random(seed)
    names = {"".join(chance.choices("ab/", k=chance.randrange(1, 8))) for _ in range(400)}
    for name in names:
        await call.put(f"/con/{quote(name)}", b"")
    for _ in range(60):
        prefix = "".join(chance.choices("ab/", k=chance.randrange(0, 3)))
        delimiter = chance.choice(["", "/", "ab", "a"])
        size = chance.choice([1, 3, 50, 5000])
        matching = sorted(name for name in names if name.startswith(prefix))
        blobs, prefixes = [], []
        for name in matching:
            at = name.find(delimiter, len(prefix)) if delimiter else -1
            if at < 0:
                blobs.append(name)
            elif (common := name[: at + len(delimiter)]) not in prefixes:
                prefixes.append(common)
        query = f"&prefix={quote(prefix)}&delimiter={quote(delimiter)}"
        assert (await pages(call, query, size))[:2] == (blobs, prefixes)
