"""Append blobs: appends, their conditions, the end of appending. Source: Azure REST, "Append Block", "Append Block From
URL", "Append Blob Seal", "Put Blob"."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pvblob.blobs import append_blobs
from pvblob.blobs.service import EmbeddedService
from pvblob.blobs.streams import StreamCache
from pvblob.http import Observed, OnceKey
from tests.blobs.conftest import Answer, Caller, make_old_store, read_content
from tests.blobs.test_offers import release, wanting

URL = "https://acct.blob.core.windows.net"


async def create(call: Caller, target: str = "/con/log", **fields: str) -> Answer:
    head = {name.replace("_", "-"): value for name, value in fields.items()}
    made = await call("PUT", target, {"x-ms-blob-type": "AppendBlob", **head})
    assert made.status == 201, made.code
    return made


async def append(call: Caller, body: bytes, target: str = "/con/log", **fields: str) -> Answer:
    return await call(
        "PUT", f"{target}?comp=appendblock", {name.replace("_", "-"): value for name, value in fields.items()}, body
    )


async def test_what_is_appended_is_read_after_what_was_there(call: Caller) -> None:
    last = await create(call, x_ms_meta_kind="log", x_ms_blob_content_type="text/plain")
    pieces = [b"a" * 1000, b"b", b"c" * 513]
    for number, piece in enumerate(pieces):
        added = await append(call, piece)
        assert added.status == 201
        assert added.fields.get("x-ms-blob-append-offset") == str(sum(map(len, pieces[:number])))
        assert added.fields.get("x-ms-blob-committed-block-count") == str(number + 1)
        assert added.etag > last.etag, "each append is a version of its own"
        last = added
    whole = b"".join(pieces)
    got = await call("GET", "/con/log")
    assert (got.body, got.etag) == (whole, last.etag)
    for name, value in (
        ("x-ms-blob-type", "AppendBlob"),
        ("x-ms-blob-committed-block-count", "3"),
        ("x-ms-meta-kind", "log"),
        ("content-type", "text/plain"),
        ("x-ms-access-tier", None),
        ("x-ms-blob-sealed", None),
    ):
        assert (await call("HEAD", "/con/log")).fields.get(name) == value
    for first, last_byte in ((0, 0), (999, 1000), (1000, 1000), (500, 1200), (1001, 5000)):
        part = await call("GET", "/con/log", {"range": f"bytes={first}-{last_byte}"})
        assert part.body == whole[first : last_byte + 1]
    call.service.close()
    call.service.open()
    assert (await call("GET", "/con/log")).body == whole
    await append(call, b"more")
    assert (await call("GET", "/con/log")).body == whole + b"more"


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"x_ms_blob_condition_appendpos": "4"}, 201, None),
        ({"x_ms_blob_condition_appendpos": "3"}, 412, "AppendPositionConditionNotMet"),
        ({"x_ms_blob_condition_appendpos": "four"}, 400, "InvalidHeaderValue"),
        ({"x_ms_blob_condition_maxsize": "8"}, 201, None),
        ({"x_ms_blob_condition_maxsize": "7"}, 412, "MaxBlobSizeConditionNotMet"),
        ({"x_ms_blob_condition_maxsize": "7", "x_ms_blob_condition_appendpos": "4"}, 412, "MaxBlobSizeConditionNotMet"),
        ({"if_match": '"0x1"'}, 412, "ConditionNotMet"),
        ({"x_ms_lease_id": "0000000a-0000-0000-0000-000000000000"}, 412, "LeaseNotPresentWithBlobOperation"),
        ({"content_md5": base64.b64encode(hashlib.md5(b"more").digest()).decode()}, 201, None),
        ({"content_md5": base64.b64encode(bytes(16)).decode()}, 400, "Md5Mismatch"),
        ({"x_ms_content_crc64": "AAAAAAAAAAA="}, 400, "Crc64Mismatch"),
        ({"x_ms_structured_body": "XSM/2.0; properties=crc64"}, 400, "InvalidHeaderValue"),
        ({"x_ms_encryption_key": "x"}, 501, "NotImplemented"),
    ],
)
async def test_an_append_holds_its_conditions_and_checksums_or_leaves_no_trace(
    call: Caller, fields: dict[str, str], status: int, code: str | None
) -> None:
    await create(call)
    await append(call, b"once")
    store = call.service._store
    assert store is not None
    used, free = store.extents.usage()
    got = await append(call, b"more", **fields)
    assert (got.status, got.code) == (status, code)
    assert (await call("GET", "/con/log")).body == (b"once" if code else b"oncemore")
    if code:
        after, free_after = store.extents.usage()
        assert after - free_after == used - free
        assert (await call("HEAD", "/con/log")).fields.get("x-ms-blob-committed-block-count") == "1"


async def test_every_type_has_its_own_operations(call: Caller) -> None:
    await create(call)
    await call.put("/con/block", b"b")
    assert (await append(call, b"x", "/con/block")).code == "InvalidBlobType"
    assert (await call("PUT", "/con/block?comp=seal")).code == "InvalidBlobType"
    assert (await append(call, b"x", "/con/absent")).code == "BlobNotFound"
    for method, query, fields, body in (
        ("PUT", "comp=block&blockid=AAAA", {}, b"x"),
        ("PUT", "comp=blocklist", {}, b"<BlockList />"),
        ("GET", "comp=blocklist", {}, b""),
        ("PUT", "comp=tier", {"x-ms-access-tier": "Cool"}, b""),
    ):
        got = await call(method, f"/con/log?{query}", fields, body)
        assert (got.status, got.code) == (409, "InvalidBlobType"), query
    for source, copied_to in (("block", "log"), ("log", "block")):
        got = await call("PUT", f"/con/{copied_to}", {"x-ms-copy-source": f"{URL}/con/{source}"})
        assert got.code == "InvalidBlobType", "a copy does not change the type"
    assert (await call("PUT", "/con/n", {"x-ms-blob-type": "AppendBlob"}, b"x")).code == "InvalidHeaderValue"
    tier = {"x-ms-blob-type": "AppendBlob", "x-ms-access-tier": "Cool"}
    assert (await call("PUT", "/con/n", tier)).code == "UnsupportedHeader"
    assert (await append(call, b"")).code == "InvalidHeaderValue"


async def test_a_put_begins_the_blob_anew_whatever_it_was(call: Caller) -> None:
    await create(call)
    await append(call, b"old" * 1000)
    await create(call)
    assert (await call("GET", "/con/log")).body == b""
    assert (await append(call, b"new")).fields.get("x-ms-blob-append-offset") == "0"
    await call.put("/con/log", b"a block blob")
    assert (await call("GET", "/con/log")).body == b"a block blob"
    await create(call)
    assert (await call("PUT", "/con/log", {"x-ms-blob-type": "AppendBlob", "if-none-match": "*"})).status == 409
    await append(call, b"x")
    await call("DELETE", "/con/log")
    store = call.service._store
    assert store is not None
    used, free = store.extents.usage()
    assert used == free, "nothing refers to a byte any more"
    assert store.reader.execute("SELECT count(*) FROM appended").fetchone() == (0,)


async def test_a_sealed_blob_takes_no_more_and_can_still_be_changed_otherwise(call: Caller) -> None:
    await create(call)
    await append(call, b"all")
    position = {"x-ms-blob-condition-appendpos": "2"}
    assert (await call("PUT", "/con/log?comp=seal", position)).code == "AppendPositionConditionNotMet"
    for _ in range(2):
        sealed = await call("PUT", "/con/log?comp=seal", {"x-ms-blob-condition-appendpos": "3"})
        assert (sealed.status, sealed.fields.get("x-ms-blob-sealed")) == (200, "true")
    got = await append(call, b"more")
    assert (got.status, got.code) == (409, "BlobIsSealed")
    assert (await call("PUT", "/con/log?comp=metadata", {"x-ms-meta-a": "1"})).status == 200
    got = await call("GET", "/con/log")
    assert (got.body, got.fields.get("x-ms-blob-sealed")) == (b"all", "true")
    blob = (await call("GET", "/con?restype=container&comp=list")).xml.find("Blobs/Blob/Properties")
    assert blob is not None
    told = [blob.findtext(name) for name in ("BlobType", "Sealed", "AccessTier", "Content-Length")]
    assert told == ["AppendBlob", "true", None, "3"]


async def test_a_blob_takes_so_many_appends_and_no_more(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (append_blobs.APPENDS_MAX, append_blobs.APPEND_BLOCK_BYTES_MAX) == (50_000, 100 << 20)
    monkeypatch.setattr(append_blobs, "APPENDS_MAX", 3)
    monkeypatch.setattr(append_blobs, "APPEND_BLOCK_BYTES_MAX", 3)
    await create(call)
    for status, code in ((201, None), (201, None), (201, None), (409, "BlockCountExceedsLimit")):
        got = await append(call, b"abc")
        assert (got.status, got.code) == (status, code)
    got = await append(call, b"abcd")
    assert (got.status, got.code) == (413, "RequestBodyTooLarge")


async def test_of_appends_at_once_each_lands_whole_and_one_after_the_other(call: Caller) -> None:
    await create(call)
    bodies = [bytes([65 + number]) * (100 + number) for number in range(26)]
    answers = await asyncio.gather(*(append(call, body) for body in bodies))
    assert {answer.status for answer in answers} == {201}
    whole = (await call("GET", "/con/log")).body
    for body, answer in zip(bodies, answers, strict=True):
        at = int(answer.fields.get("x-ms-blob-append-offset") or -1)
        assert whole[at : at + len(body)] == body
    assert len(whole) == sum(map(len, bodies))


async def test_of_appends_at_one_position_exactly_one_lands(call: Caller) -> None:
    await create(call)
    position = {"x_ms_blob_condition_appendpos": "0"}
    answers = await asyncio.gather(*(append(call, b"%d" % number, **position) for number in range(9)))
    assert sorted(answer.status for answer in answers) == [201] + [412] * 8


async def test_an_append_that_is_sent_again_lands_once(call: Caller) -> None:
    """Design rule 4: the answer is replayed, also by a host that was restarted."""
    await create(call)
    first = OnceKey("uid:1", b"n" * 16, b"g" * 16, b"d" * 32, False)
    target = "/con/log?comp=appendblock"
    done = await call("PUT", target, {}, b"once", once=first)
    for restarted in (False, True):
        if restarted:
            call.service.close()
            call.service.open()
        again = await call("PUT", target, {}, b"once", once=first._replace(resubmission=True))
        assert (again.status, again.etag) == (201, done.etag)
        assert again.fields.get("x-ms-blob-append-offset") == "0"
    assert (await call("GET", "/con/log")).body == b"once"


async def test_a_reader_keeps_what_it_began_to_read(call: Caller) -> None:
    await create(call)
    await append(call, b"first")
    begun = await call.raw("GET", "/con/log")
    await append(call, b"second")
    assert read_content(begun) == b"first"
    begun = await call.raw("GET", "/con/log")
    await call("DELETE", "/con/log")
    await call.put("/con/other", b"x" * 600)
    assert read_content(begun) == b"firstsecond"


async def test_an_append_moves_what_was_offered_to_the_data_plane(call: Caller) -> None:
    """Design §7: an entry of before answers no more, and the next offer covers all that was appended."""
    await create(call)
    held: tuple[Observed, ...] = ()
    for number in range(1, 4):
        await append(call, b"12345")
        assert all(one.generation.value != one.value for one in held[:1])
        response = await wanting(call.service, "GET", "/con/log")
        assert response.offer is not None
        offer = response.offer
        assert sum(extent.length for extent in offer.extents) == 5 * number
        assert ("x-ms-blob-committed-block-count", str(number)) in offer.whole.lines
        held = offer.generations
        await append(call, b"x", x_ms_blob_condition_appendpos="0")  # refused: nothing moves
        assert all(one.generation.value == one.value for one in held)
        release(response)


async def test_blocks_come_from_other_blobs_too(call: Caller) -> None:
    await create(call)
    await call.put("/con/source", b"0123456789")
    fields = {"x_ms_copy_source": f"{URL}/con/source"}
    assert (await append(call, b"", x_ms_source_range="bytes=2-4", **fields)).status == 201
    md5 = base64.b64encode(hashlib.md5(b"0123456789").digest()).decode()
    assert (await append(call, b"", x_ms_source_content_md5=md5, **fields)).fields.get("content-md5") == md5
    assert (await append(call, b"", x_ms_source_range="bytes=99-", **fields)).code == "InvalidRange"
    assert (await append(call, b"", x_ms_source_content_md5="AAAAAAAAAAAAAAAAAAAAAA==", **fields)).code == "Md5Mismatch"
    assert (await append(call, b"", x_ms_copy_source=f"{URL}/con/absent")).code == "CannotVerifyCopySource"
    assert (await append(call, b"body", **fields)).code == "InvalidInput"
    assert (await call("GET", "/con/log")).body == b"2340123456789"
    assert (await append(call, b"", x_ms_copy_source=f"{URL}/con/log")).status == 201, "from itself"
    assert (await call("GET", "/con/log")).body == b"2340123456789" * 2


async def test_a_copy_is_an_append_blob_of_its_own(call: Caller) -> None:
    await create(call, x_ms_meta_a="1")
    for _ in range(5):
        await append(call, b"line\n")
    await call("PUT", "/con/log?comp=seal")
    copied = {"x-ms-copy-source": f"{URL}/con/log"}
    assert (await call("PUT", "/con/copy", copied)).status == 202
    assert (await call("PUT", "/con/sealed", {**copied, "x-ms-seal-blob": "true"})).status == 202
    await call("DELETE", "/con/log")
    got = await append(call, b"own", "/con/copy")
    assert got.fields.get("x-ms-blob-append-offset") == "25"
    assert got.fields.get("x-ms-blob-committed-block-count") == "6"
    assert (await call("GET", "/con/copy")).body == b"line\n" * 5 + b"own"
    assert (await append(call, b"x", "/con/sealed")).code == "BlobIsSealed"
    made = await call("PUT", "/con/block", {"x-ms-copy-source": f"{URL}/con/copy", "x-ms-blob-type": "BlockBlob"})
    assert made.status == 201
    assert (await call("GET", "/con/block")).fields.get("x-ms-blob-type") == "BlockBlob"
    await call("DELETE", "/con?restype=container")


async def test_a_long_stream_is_read_piece_by_piece_and_leaves_the_cache_whole(call: Caller) -> None:
    store = call.service._store
    assert store is not None
    store.streams = StreamCache(blocks_max=20)
    for target in ("/con/a", "/con/b"):
        await create(call, target)
    expected = b""
    for number in range(30):
        line = b"%03d\n" % number
        expected += line
        for target in ("/con/a", "/con/b"):
            await append(call, line, target)
            assert (await call("GET", target)).body == expected
    assert len(store.streams._streams) == 1
    assert store.streams._count == 30
    for target in ("/con/a", "/con/b", "/con/a"):
        assert (await call("GET", target, {"range": "bytes=116-119"})).body == b"029\n"


async def test_a_store_of_before_append_blobs_opens(
    tmp_path: Path, open_service: Callable[..., EmbeddedService]
) -> None:
    make_old_store(tmp_path / "store", 2)
    caller = Caller(open_service())
    assert (await caller("HEAD", "/con/b")).fields.get("x-ms-blob-type") == "BlockBlob"
    await create(caller)
    assert (await append(caller, b"x")).status == 201


async def test_recovery_knows_what_was_appended(tmp_path: Path, call: Caller) -> None:
    """Design rule 9: runs that streams refer to are kept, and a store that lost one says whose it was."""
    await create(call)
    await call.put("/con/gap", b"g" * 5000)
    await append(call, b"x" * 5000)
    await call("DELETE", "/con/gap")
    call.service.close()
    call.service.open()
    assert (await call("GET", "/con/log")).body == b"x" * 5000
    call.service.close()
    (segment,) = (tmp_path / "store" / "segments").iterdir()
    segment.rename(tmp_path / "gone")
    with pytest.raises(Exception, match="blob con/log needs it"):
        call.service.open()
    (tmp_path / "gone").rename(segment)
    call.service.open()
