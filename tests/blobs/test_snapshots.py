"""Snapshots: made, read, listed, copied, deleted; their bytes shared and given back.

Source: Azure REST, "Snapshot Blob", "Delete Blob", "List Blobs".
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pvblob.blobs.answers import Refusal
from pvblob.blobs.moments import moment_text, parse_moment
from pvblob.blobs.service import EmbeddedService
from tests.blobs.conftest import Caller, make_old_store, read_content
from tests.blobs.test_offers import wanting
from tests.crash.conftest import used_bytes

URL = "https://acct.blob.core.windows.net"
CONTAINER = "/con?restype=container"


async def snapshot(call: Caller, target: str = "/con/b", **fields: str) -> str:
    made = await call("PUT", f"{target}?comp=snapshot", {name.replace("_", "-"): v for name, v in fields.items()})
    assert made.status == 201, made.code
    moment = made.fields.get("x-ms-snapshot")
    assert moment is not None
    return moment


async def listed(call: Caller, query: str = "", page: int = 5000) -> list[tuple[str, str | None]]:
    """Return (name, snapshot) of everything in the container, page after page."""
    found: list[tuple[str, str | None]] = []
    marker = ""
    while True:
        got = await call("GET", f"{CONTAINER}&comp=list&include=snapshots&maxresults={page}&marker={marker}{query}")
        assert got.status == 200
        found += [(blob.findtext("Name") or "", blob.findtext("Snapshot")) for blob in got.xml.iter("Blob")]
        marker = got.xml.findtext("NextMarker") or ""
        if not marker:
            return found


def space(call: Caller) -> int:
    """Return the bytes that are used in segments, which must be those that the catalog refers to."""
    store = call.service._store
    assert store is not None
    tails, free = store.extents.usage()
    assert tails - free == used_bytes(store.reader)
    return tails - free


def test_moments_are_read_as_they_are_written() -> None:
    for ticks in (0, 1, 639_000_000_000_000_001, 639_000_000_009_999_999):
        assert parse_moment(moment_text(ticks)) == ticks
    assert moment_text(parse_moment("2026-11-28T22:45:01.0000700Z")) == "2026-11-28T22:45:01.0000700Z"
    for text in ("", "2026-11-28", "2026-11-28T22:45:01.123Z", "2026-13-28T22:45:01.1234567Z", "x" * 100):
        with pytest.raises(Refusal, match="InvalidQueryParameterValue"):
            parse_moment(text)


async def test_a_snapshot_stays_what_the_blob_was(call: Caller) -> None:
    etag = (await call.put("/con/b", b"first", x_ms_meta_a="1", x_ms_tags="k=v", x_ms_blob_content_type="x/y")).etag
    first = await snapshot(call)
    await call.put("/con/b", b"second")
    own = await snapshot(call, x_ms_meta_own="2")
    await call("PUT", "/con/b?comp=metadata", {"x-ms-meta-a": "3"})
    call.service.close()
    call.service.open()
    got = await call("GET", f"/con/b?snapshot={first}")
    assert (got.body, got.etag) == (b"first", etag)
    for name, value in (("x-ms-meta-a", "1"), ("content-type", "x/y"), ("x-ms-tag-count", "1")):
        assert got.fields.get(name) == value
    assert got.fields.get("x-ms-lease-state") is None
    assert (await call("HEAD", f"/con/b?snapshot={first}")).fields.get("content-length") == "5"
    assert (await call("GET", f"/con/b?snapshot={first}", {"range": "bytes=1-2"})).body == b"ir"
    assert b"<Value>v</Value>" in (await call("GET", f"/con/b?comp=tags&snapshot={first}")).body
    got = await call("GET", f"/con/b?comp=metadata&snapshot={own}")
    assert (got.fields.get("x-ms-meta-own"), got.fields.get("x-ms-meta-a")) == ("2", None)
    assert got.etag != (await call("GET", "/con/b")).etag
    assert (await call("GET", f"/con/b?snapshot={own}")).body == b"second"
    assert (await call("GET", f"/con/b?snapshot={first}", {"if-none-match": etag})).status == 304


async def test_what_is_no_snapshot_is_not_found_and_what_cannot_be_done_to_one_is_refused(call: Caller) -> None:
    await call.put("/con/b", b"body")
    moment = await snapshot(call)
    absent = "2026-01-01T00:00:00.0000000Z"
    assert (await call("GET", f"/con/b?snapshot={absent}")).code == "BlobNotFound"
    assert (await call("DELETE", f"/con/b?snapshot={absent}")).code == "BlobNotFound"
    assert (await call("GET", "/con/b?snapshot=yesterday")).code == "InvalidQueryParameterValue"
    assert (await call("PUT", "/con/absent?comp=snapshot")).code == "BlobNotFound"
    for query in ("comp=metadata", "comp=block&blockid=AAAA", "comp=lease", "comp=snapshot", "comp=tier", "comp=tags"):
        got = await call("PUT", f"/con/b?{query}&snapshot={moment}", {"x-ms-access-tier": "Hot"})
        assert (got.status, got.code) == (400, "InvalidQueryParameterValue"), query
    got = await call("PUT", f"/con/b?snapshot={moment}", {"x-ms-blob-type": "BlockBlob"}, b"new")
    assert got.code == "InvalidQueryParameterValue"
    assert (await call("PUT", "/con/b?comp=snapshot", {"if-match": '"0x1"'})).code == "ConditionNotMet"
    response = await wanting(call.service, "HEAD", f"/con/b?snapshot={moment}")
    assert response.status == 200
    assert response.offer is None


async def test_a_blob_with_snapshots_is_deleted_with_them_or_not_at_all(call: Caller) -> None:
    await call.put("/con/b", b"body")
    first, second = await snapshot(call), await snapshot(call)
    got = await call("DELETE", "/con/b")
    assert (got.status, got.code) == (409, "SnapshotsPresent")
    both = await call("DELETE", f"/con/b?snapshot={first}", {"x-ms-delete-snapshots": "only"})
    assert both.code == "InvalidHeaderValue"
    assert (await call("DELETE", f"/con/b?snapshot={first}", {"if-match": '"0x1"'})).code == "ConditionNotMet"
    assert (await call("DELETE", f"/con/b?snapshot={first}")).status == 202
    assert await listed(call) == [("b", second), ("b", None)]
    assert (await call("DELETE", "/con/b", {"x-ms-delete-snapshots": "only"})).status == 202
    assert await listed(call) == [("b", None)]
    assert (await call("GET", "/con/b")).body == b"body"
    await snapshot(call)
    assert (await call("DELETE", "/con/b", {"x-ms-delete-snapshots": "include"})).status == 202
    assert await listed(call) == []
    assert space(call) == 0


async def test_a_batch_knows_snapshots(call: Caller) -> None:
    await call.put("/con/b", b"body")
    moment = await snapshot(call)
    fields = {"content-type": "multipart/mixed; boundary=b"}
    part = "--b\r\nContent-Type: application/http\r\n\r\n{} HTTP/1.1\r\n\r\n"
    for line, status in (
        ("DELETE /con/b", 409),
        (f"PUT /con/b?comp=tier&snapshot={moment}", 501),
        (f"DELETE /con/b?snapshot={moment}", 202),
        ("DELETE /con/b", 202),
    ):
        got = await call("POST", "/?comp=batch", fields, f"{part.format(line)}--b--\r\n".encode())
        assert f"HTTP/1.1 {status}".encode() in got.body, line


async def test_snapshots_share_their_bytes_until_nobody_has_them(call: Caller) -> None:
    size = 100_000
    await call.put("/con/b", b"1" * size)
    alone = space(call)
    first, second = await snapshot(call), await snapshot(call)
    assert space(call) == alone, "a snapshot stores nothing"
    await call.put("/con/b", b"2" * size)
    assert space(call) == 2 * alone
    begun = await call.raw("GET", f"/con/b?snapshot={first}")
    await call("DELETE", f"/con/b?snapshot={first}")
    assert space(call) == 2 * alone
    await call("DELETE", f"/con/b?snapshot={second}")
    for number in (3, 4):
        await call.put("/con/other", b"%d" % number * size)
    assert read_content(begun) == b"1" * size, "what is being read stays"
    await call("DELETE", "/con/b")
    await call("DELETE", "/con/other")
    assert space(call) == 0


async def test_blocks_are_shared_one_by_one(call: Caller) -> None:
    ids = [base64.b64encode(b"%03d" % number).decode() for number in range(4)]

    async def commit(*kept: int, fresh: tuple[int, ...] = ()) -> None:
        for number in fresh:
            await call("PUT", f"/con/b?comp=block&blockid={ids[number]}", {}, b"%d" % number * 1000)
        body = "".join(f"<Latest>{ids[number]}</Latest>" for number in kept)
        done = await call("PUT", "/con/b?comp=blocklist", {}, f"<BlockList>{body}</BlockList>".encode())
        assert done.status == 201

    await commit(0, 1, fresh=(0, 1))
    one = await snapshot(call)
    await commit(1, 2, fresh=(2,))
    two = await snapshot(call)
    await commit(2, 3, fresh=(3,))
    assert space(call) == 4 * 1024
    await call("DELETE", f"/con/b?snapshot={two}")
    assert space(call) == 4 * 1024, "block 1 is the first snapshot's, block 2 the blob's"
    assert (await call("GET", f"/con/b?snapshot={one}")).body == b"0" * 1000 + b"1" * 1000
    await call("DELETE", f"/con/b?snapshot={one}")
    assert space(call) == 2 * 1024
    assert (await call("GET", "/con/b")).body == b"2" * 1000 + b"3" * 1000


async def test_a_snapshot_of_an_append_blob_ends_where_it_did(call: Caller) -> None:
    await call("PUT", "/con/b", {"x-ms-blob-type": "AppendBlob"})
    moments = []
    for number in range(3):
        await call("PUT", "/con/b?comp=appendblock", {}, b"%d" % number)
        moments.append(await snapshot(call))
    for number, moment in enumerate(moments):
        got = await call("GET", f"/con/b?snapshot={moment}")
        assert got.body == b"012"[: number + 1]
        assert got.fields.get("x-ms-blob-committed-block-count") == str(number + 1)
    await call("PUT", "/con/b", {"x-ms-blob-type": "AppendBlob"})
    await call("PUT", "/con/b?comp=appendblock", {}, b"anew")
    assert (await call("GET", f"/con/b?snapshot={moments[1]}")).body == b"01"
    for moment in moments[:2]:
        await call("DELETE", f"/con/b?snapshot={moment}")
    assert (await call("GET", f"/con/b?snapshot={moments[2]}")).body == b"012"
    space(call)
    await call("DELETE", f"/con/b?snapshot={moments[2]}")
    assert space(call) == 512
    assert (await call("GET", "/con/b")).body == b"anew"


async def test_copies_come_from_snapshots_too(call: Caller) -> None:
    await call.put("/con/b", b"old", x_ms_meta_a="1")
    moment = await snapshot(call)
    await call.put("/con/b", b"new")
    source = {"x-ms-copy-source": f"{URL}/con/b?snapshot={moment}"}
    assert (await call("PUT", "/con/copy", source)).status == 202
    assert (await call("PUT", "/con/url", {**source, "x-ms-blob-type": "BlockBlob"})).status == 201
    assert (await call("PUT", "/con/b", source)).status == 202, "the blob itself becomes what it was"
    for name in ("copy", "url", "b"):
        assert (await call("GET", f"/con/{name}")).body == b"old"
    await call("DELETE", f"/con/b?snapshot={moment}")
    assert (await call("GET", "/con/b")).body == b"old"
    assert (await call("PUT", "/con/copy", source)).code == "CannotVerifyCopySource"
    space(call)


@pytest.mark.parametrize("page", [1, 2, 3, 5000])
async def test_a_listing_shows_each_snapshot_once_before_its_blob(call: Caller, page: int) -> None:
    expected: list[tuple[str, str | None]] = []
    for name in ("a", "b", "b/c", "d"):
        await call.put(f"/con/{name}", name.encode())
        expected += [(name, await snapshot(call, f"/con/{name}")) for _ in range(len(name))]
        expected.append((name, None))
    await call("PUT", "/con/e?comp=block&blockid=AAAA", {}, b"x")
    assert await listed(call, page=page) == expected
    assert await listed(call, "&prefix=b", page) == [entry for entry in expected if entry[0].startswith("b")]
    with_blocks = await call("GET", f"{CONTAINER}&comp=list&include=snapshots,uncommittedblobs&maxresults=5000")
    assert len(list(with_blocks.xml.iter("Blob"))) == len(expected) + 1
    plain = await call("GET", f"{CONTAINER}&comp=list")
    assert [blob.findtext("Name") for blob in plain.xml.iter("Blob")] == ["a", "b", "b/c", "d"]
    assert [blob.findtext("Properties/LeaseState") for blob in plain.xml.iter("Blob")] == ["available"] * 4


async def test_a_marker_nobody_gave_does_no_harm(call: Caller) -> None:
    await call.put("/con/b", b"")
    await snapshot(call)
    for raw in (b"\xff", b"\xff" * 9, b"\xff" * 8 + b"\x00b", b"\xff" + bytes(8) + b"b"):
        marker = base64.urlsafe_b64encode(raw).decode()
        got = await call("GET", f"{CONTAINER}&comp=list&include=snapshots&marker={marker}")
        assert got.status == 200


async def test_a_leased_blob_is_snapshot_without_its_lease(call: Caller) -> None:
    await call.put("/con/b", b"body")
    taken = await call("PUT", "/con/b?comp=lease", {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "-1"})
    moment = await snapshot(call)
    await snapshot(call, x_ms_lease_id=taken.fields.get("x-ms-lease-id") or "")
    other = {"x-ms-lease-id": "0000000a-0000-0000-0000-000000000000"}
    assert (await call("PUT", "/con/b?comp=snapshot", other)).code == "LeaseIdMismatchWithBlobOperation"
    assert (await call("DELETE", f"/con/b?snapshot={moment}")).status == 202
    assert (await call("DELETE", "/con/b", {"x-ms-delete-snapshots": "include"})).code == "LeaseIdMissing"


async def test_a_deleted_container_gives_back_what_its_snapshots_held(call: Caller) -> None:
    for name in ("a", "b"):
        await call.put(f"/con/{name}", b"1" * 5000)
        await snapshot(call, f"/con/{name}")
        await call.put(f"/con/{name}", b"2" * 5000)
    await call("PUT", "/con/log", {"x-ms-blob-type": "AppendBlob"})
    await call("PUT", "/con/log?comp=appendblock", {}, b"x")
    await snapshot(call, "/con/log")
    await call("PUT", "/con/log", {"x-ms-blob-type": "AppendBlob"})
    await call("DELETE", CONTAINER)
    call.service.close()
    call.service.open()
    store, writer = call.service._store, call.service._writer
    assert store is not None
    assert writer is not None
    await call.make("barrier")  # the committer has worked, and reclaims when it has nothing else to do
    for _ in range(200):
        if store.reader.execute("SELECT count(*) FROM containers WHERE deleted").fetchone() == (0,):
            break
        await call("PUT", "/barrier?restype=container&comp=metadata")
    for table in ("snapshots", "blobs", "appended"):
        assert store.reader.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


class History:
    """Changes of one blob at random, and what it and each of its snapshots must hold."""

    def __init__(self, call: Caller, chance: random.Random) -> None:
        self.call = call
        self.chance = chance
        self.ids = [base64.b64encode(b"%03d" % number).decode() for number in range(5)]
        self.blocks: dict[str, bytes] = {}
        self.kept: dict[str, bytes] = {}
        self.body: bytes | None = None
        self.steps = (self.put, self.commit, self.snapshot, self.snapshot, self.delete, self.restore, self.append)

    async def put(self) -> None:
        self.body, self.blocks = self.chance.randbytes(self.chance.randrange(1, 3000)), {}
        await self.call.put("/con/b", self.body)

    async def commit(self) -> None:
        """Commit new blocks and some of those that are committed already."""
        call, chance = self.call, self.chance
        if self.body is not None and not self.blocks:
            await call.put("/con/b")
        fresh = {name: chance.randbytes(chance.randrange(1, 900)) for name in chance.sample(self.ids, 2)}
        for name, data in fresh.items():
            await call("PUT", f"/con/b?comp=block&blockid={name}", {}, data)
        known = {**self.blocks, **fresh}
        chosen = chance.sample(sorted(known), chance.randrange(1, len(known) + 1))
        entries = "".join(f"<Latest>{name}</Latest>" for name in chosen)
        done = await call("PUT", "/con/b?comp=blocklist", {}, f"<BlockList>{entries}</BlockList>".encode())
        assert done.status == 201
        self.blocks = {name: known[name] for name in chosen}
        self.body = b"".join(self.blocks.values())

    async def append(self) -> None:
        if self.blocks or self.chance.random() < 0.5 or self.body is None:
            await self.call("PUT", "/con/b", {"x-ms-blob-type": "AppendBlob"})
            self.body, self.blocks = b"", {}
        piece = self.chance.randbytes(700)
        if (await self.call("PUT", "/con/b?comp=appendblock", {}, piece)).status == 201:
            self.body += piece

    async def snapshot(self) -> None:
        if self.body is not None:
            self.kept[await snapshot(self.call)] = self.body

    async def delete(self) -> None:
        if self.kept:
            moment = self.chance.choice(list(self.kept))
            del self.kept[moment]
            assert (await self.call("DELETE", f"/con/b?snapshot={moment}")).status == 202

    async def restore(self) -> None:
        if self.kept:
            moment = self.chance.choice(list(self.kept))
            source = {"x-ms-copy-source": f"{URL}/con/b?snapshot={moment}"}
            if (await self.call("PUT", "/con/b", source)).status == 202:
                self.body, self.blocks = self.kept[moment], {}

    async def judge(self, where: str) -> None:
        for moment, held in self.kept.items():
            assert (await self.call("GET", f"/con/b?snapshot={moment}")).body == held, where
        assert self.body is None or (await self.call("GET", "/con/b")).body == self.body, where
        space(self.call)


async def test_any_history_of_a_blob_with_snapshots_keeps_every_byte_and_leaks_none(call: Caller) -> None:
    """The rule by which runs are given back, against a dictionary of what every snapshot must hold."""
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    history = History(call, chance)
    for number in range(250):
        step = chance.choice(history.steps)
        await step()
        if chance.random() < 0.05:
            call.service.close()
            call.service.open()
        await history.judge(f"seed {seed}, step {number}: {step.__name__}")
    await call("DELETE", "/con/b", {"x-ms-delete-snapshots": "include"})
    assert space(call) == 0, f"seed {seed}"


async def test_a_store_of_before_snapshots_opens(tmp_path: Path, open_service: Callable[..., EmbeddedService]) -> None:
    make_old_store(tmp_path / "store", 4)
    caller = Caller(open_service())
    moment = await snapshot(caller)
    assert (await caller("GET", f"/con/b?snapshot={moment}")).status == 200
