"""Blob index tags: kept, judged by conditions, found. Source: Azure REST, "Set Blob Tags", "Find Blobs by Tags",
"Specifying conditional headers" (x-ms-if-tags)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pvblob.blobs.answers import Refusal
from pvblob.blobs.service import EmbeddedService
from pvblob.blobs.tag_expressions import parse_condition, parse_search
from tests.blobs.conftest import Answer, Caller, make_old_store
from tests.blobs.test_offers import release, wanting

URL = "https://acct.blob.core.windows.net"


def document(**tags: str) -> bytes:
    listed = "".join(f"<Tag><Key>{key}</Key><Value>{value}</Value></Tag>" for key, value in tags.items())
    return f"<Tags><TagSet>{listed}</TagSet></Tags>".encode()


def tags_in(xml: ElementTree.Element) -> dict[str, str]:
    return {tag.findtext("Key") or "": tag.findtext("Value") or "" for tag in xml.iter("Tag")}


async def tags(call: Caller, target: str) -> dict[str, str]:
    return tags_in((await call("GET", f"{target}?comp=tags")).xml)


async def tag(call: Caller, target: str, **pairs: str) -> Answer:
    return await call("PUT", f"{target}?comp=tags", {}, document(**pairs))


async def found(call: Caller, where: str, target: str = "/?comp=blobs", **query: str) -> list[str]:
    """Return the names a search gives, page after page."""
    names: list[str] = []
    marker = ""
    while True:
        asked = {"where": where, "marker": marker, **query}
        text = "&".join(
            f"{name}={value.replace('=', '%3D').replace(' ', '+').replace('@', '%40')}" for name, value in asked.items()
        )
        got = await call("GET", f"{target}&{text}")
        assert got.status == 200, got.code
        names += [f"{blob.findtext('ContainerName')}/{blob.findtext('Name')}" for blob in got.xml.iter("Blob")]
        marker = got.xml.findtext("NextMarker") or ""
        if not marker:
            return names


async def test_tags_are_kept_and_change_no_etag(call: Caller) -> None:
    etag = (await call.put("/con/b", b"body", x_ms_tags="k=v%20w&a%2Fb=")).etag
    assert await tags(call, "/con/b") == {"a/b": "", "k": "v w"}
    got = await call("GET", "/con/b")
    assert (got.fields.get("x-ms-tag-count"), got.etag) == ("2", etag)
    assert (await tag(call, "/con/b", x="1")).status == 204
    assert await tags(call, "/con/b") == {"x": "1"}
    got = await call("HEAD", "/con/b")
    assert (got.fields.get("x-ms-tag-count"), got.etag) == ("1", etag)
    call.service.close()
    call.service.open()
    await call("PUT", "/con/b?comp=metadata", {"x-ms-meta-m": "1"})
    assert await tags(call, "/con/b") == {"x": "1"}, "another change leaves them alone"
    assert (await tag(call, "/con/b")).status == 204
    assert await tags(call, "/con/b") == {}
    assert (await call("GET", "/con/b")).fields.get("x-ms-tag-count") is None


async def test_every_way_to_make_a_blob_takes_tags(call: Caller) -> None:
    await call("PUT", "/con/blocks?comp=blocklist", {"x-ms-tags": "way=list"}, b"<BlockList />")
    await call("PUT", "/con/log", {"x-ms-blob-type": "AppendBlob", "x-ms-tags": "way=append"})
    await call.put("/con/source", b"s", x_ms_tags="way=put")
    source = {"x-ms-copy-source": f"{URL}/con/source"}
    await call("PUT", "/con/copy", {**source, "x-ms-tags": "way=copy"})
    await call("PUT", "/con/kept", {**source, "x-ms-copy-source-tag-option": "COPY"})
    await call("PUT", "/con/url", {**source, "x-ms-blob-type": "BlockBlob", "x-ms-copy-source-tag-option": "COPY"})
    await call("PUT", "/con/none", source)
    for name, way in (("blocks", "list"), ("log", "append"), ("copy", "copy"), ("kept", "put"), ("url", "put")):
        assert await tags(call, f"/con/{name}") == {"way": way}
    assert await tags(call, "/con/none") == {}
    both = {**source, "x-ms-copy-source-tag-option": "COPY", "x-ms-tags": "a=b"}
    assert (await call("PUT", "/con/none", both)).code == "InvalidHeaderValue"
    assert await found(call, "way='put'") == ["con/kept", "con/source", "con/url"]
    await call.put("/con/source", b"again")
    await call("DELETE", "/con/kept")
    assert await found(call, "way='put'") == ["con/url"], "a search sees no tags of before"


@pytest.mark.parametrize(
    "text",
    ["=v", "k=ä", "a=1&a=2", "k" * 129 + "=v", "k=" + "v" * 257, "&".join(f"k{n}=v" for n in range(11)), "a=b%0A"],
)
async def test_what_is_no_set_of_tags_is_refused(call: Caller, text: str) -> None:
    got = await call.put("/con/b", b"body", x_ms_tags=text)
    assert (got.status, got.code) == (400, "InvalidTags")
    assert (await call("GET", "/con/b")).code == "BlobNotFound"
    await call.put("/con/b", b"")
    for body in (
        b"",
        b"<Tags>",
        b"<a/>",
        b"<Tags><TagSet><Tag><Key>a</Key></Tag></TagSet></Tags>",
        b"<!DOCTYPE a><Tags/>",
    ):
        assert (await call("PUT", "/con/b?comp=tags", {}, body)).code == "InvalidXmlDocument"
    assert (await call("PUT", "/con/b?comp=tags", {"x-ms-content-crc64": "AAAAAAAAAAA="}, document())).status == 400
    assert (await tag(call, "/con/absent", a="1")).code == "BlobNotFound"
    assert (await call("GET", "/con/absent?comp=tags")).code == "BlobNotFound"


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("\"k\" = 'v'", True),
        ("k='v'", True),
        ("k <> 'v'", False),
        ("k >= 'v' AND n < '2'", True),
        ("k > 'v' OR n <= '1'", True),
        ("k = 'x' OR n = '1' AND k = 'x'", False),
        ("(k = 'x' OR n = '1') AND k = 'v'", True),
        ("absent <> 'v'", False),
        ("\"K\" = 'v'", False),
    ],
)
async def test_conditions_on_tags_are_judged_by_reads_and_writes(call: Caller, condition: str, holds: bool) -> None:
    await call.put("/con/b", b"body", x_ms_tags="k=v&n=1")
    fields = {"x-ms-if-tags": condition}
    for method, target, body in (
        ("GET", "/con/b", b""),
        ("HEAD", "/con/b", b""),
        ("PUT", "/con/b?comp=metadata", b""),
        ("PUT", "/con/b?comp=tags", document(k="v", n="1")),
    ):
        got = await call(method, target, fields, body)
        assert got.code == (None if holds else "ConditionNotMet"), target
        assert holds or got.status == 412
    copied = {"x-ms-copy-source": f"{URL}/con/b", "x-ms-source-if-tags": condition}
    assert (await call("PUT", "/con/c", copied)).code == (None if holds else "SourceConditionNotMet")
    put = await call("PUT", "/con/b", {**fields, "x-ms-blob-type": "BlockBlob"}, b"new")
    assert put.code == (None if holds else "ConditionNotMet")
    assert (await call("PUT", "/con/new", {**fields, "x-ms-blob-type": "BlockBlob"}, b"")).status == 412


@pytest.mark.parametrize(
    "text", ["k", "k=", "k=v", "k='v", "'k'='v'", "(k='v'", "k='v')", "k='v' n='1'", "k='v' AND", "k=='v'", "("]
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="InvalidHeaderValue"):
        parse_condition(text)
    with pytest.raises(Refusal, match="InvalidQueryParameterValue"):
        parse_search(text)


def test_an_expression_is_bounded() -> None:
    assert len(parse_search(" AND ".join(["k='v'"] * 64))) == 64
    for text in (" AND ".join(["k='v'"] * 65), "(" * 1000 + "k='v'" + ")" * 1000):
        with pytest.raises(Refusal, match="InvalidHeaderValue"):
            parse_condition(text)


@pytest.mark.parametrize(
    "text", ["k='1' OR k='2'", "k<>'1'", "@container='con'", "@container>'a' AND k='1'", "(k='1')"]
)
def test_a_search_says_less_than_a_condition(text: str) -> None:
    with pytest.raises(Refusal, match="InvalidQueryParameterValue"):
        parse_search(text)


async def test_a_search_finds_by_every_comparison_page_by_page(call: Caller) -> None:
    await call.make("other")
    for number in range(9):
        for container in ("con", "other"):
            await call.put(f"/{container}/{number}", b"", x_ms_tags=f"n={number}&parity={number % 2}")
    con = [f"con/{number}" for number in range(9)]
    other = [f"other/{number}" for number in range(9)]
    inside = "/other?restype=container&comp=blobs"
    for size in ("1", "4", "5000"):
        assert await found(call, "n>='0'", maxresults=size) == con + other
        assert await found(call, "n>'3' AND n<='5'", maxresults=size) == [*con[4:6], *other[4:6]]
        assert await found(call, "parity='1' AND n<'4'", inside, maxresults=size) == [other[1], other[3]]
        assert await found(call, "@container='con' AND parity='0'", maxresults=size) == con[::2]
        assert await found(call, "n='1' AND parity='0'", maxresults=size) == []
    assert await found(call, "@container='con' AND n='1'", inside) == []
    got = await call("GET", "/?comp=blobs&where=n%3D'1'")
    assert [tags_in(blob) for blob in got.xml.iter("Blob")] == [{"n": "1"}] * 2, "the tags that were searched by"
    await call("DELETE", "/other?restype=container")
    assert await found(call, "n='1'") == ["con/1"]
    assert (await call("GET", "/?comp=blobs")).code == "MissingRequiredQueryParameter"
    assert (await call("GET", "/absent?restype=container&comp=blobs&where=n%3D'1'")).code == "ContainerNotFound"


async def test_names_that_need_it_are_found_unspoilt(call: Caller) -> None:
    names = ["a b/c", "ü", "a&<>", "%25"]
    for name in names:
        await call.put(
            f"/con/{name.replace('%', '%25').replace(' ', '%20').replace('ü', '%C3%BC')}", b"", x_ms_tags="t=1"
        )
    assert await found(call, "t='1'", maxresults="1") == [f"con/{name}" for name in sorted(names, key=str.encode)]


async def test_a_listing_shows_tags_when_asked(call: Caller) -> None:
    await call.put("/con/a", b"", x_ms_tags="k=v")
    await call.put("/con/b", b"")
    for include, shown in (("", {}), ("&include=tags", {"k": "v"})):
        first, second = (await call("GET", f"/con?restype=container&comp=list{include}")).xml.iter("Blob")
        assert first.findtext("Properties/TagCount") == "1"
        assert tags_in(first) == shown
        assert second.find("Tags") is None


async def test_setting_tags_moves_what_was_offered_to_the_data_plane(call: Caller) -> None:
    await call.put("/con/b", b"body")
    before = await wanting(call.service, "GET", "/con/b")
    assert before.offer is not None
    await tag(call, "/con/b", a="1", b="2")
    assert any(one.generation.value != one.value for one in before.offer.generations)
    after = await wanting(call.service, "GET", "/con/b")
    assert after.offer is not None
    assert ("x-ms-tag-count", "2") in after.offer.whole.lines
    release(before)
    release(after)


async def test_a_leased_blob_is_tagged_with_its_lease(call: Caller) -> None:
    await call.put("/con/b", b"body")
    taken = await call("PUT", "/con/b?comp=lease", {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "-1"})
    assert (await tag(call, "/con/b", a="1")).code == "LeaseIdMissing"
    lease = {"x-ms-lease-id": taken.fields.get("x-ms-lease-id") or ""}
    assert (await call("PUT", "/con/b?comp=tags", lease, document(a="1"))).status == 204


async def test_a_store_of_before_tags_opens(tmp_path: Path, open_service: Callable[..., EmbeddedService]) -> None:
    make_old_store(tmp_path / "store", 3)
    caller = Caller(open_service())
    assert (await tag(caller, "/con/b", a="1")).status == 204
    assert await found(caller, "a='1'") == ["con/b"]
