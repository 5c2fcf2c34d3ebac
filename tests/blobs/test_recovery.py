"""Opening a store: the lock, what a crash leaves, damage. Source: design rule 9 and §7."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time

import pytest

from pvblob.blobs import recovery
from pvblob.blobs.housekeeping import Housekeeping
from pvblob.blobs.service import EmbeddedService
from pvblob.blobs.store_errors import StoreCorrupt, StoreInUse


def segments(tmp_path):
    return sorted((tmp_path / "store" / "segments").iterdir())


async def test_everything_is_there_after_reopening(call):
    await call.put("/con/a", b"a" * 5000, x_ms_meta_k="v")
    await call("PUT", "/con/b?comp=block&blockid=AAAA", {}, b"staged")
    before = await call("GET", "/con/a")
    call.service.close()
    call.service.open()
    after = await call("GET", "/con/a")
    assert (after.body, after.etag) == (before.body, before.etag)
    assert (
        await call("PUT", "/con/b?comp=blocklist", {}, b"<BlockList><Latest>AAAA</Latest></BlockList>")
    ).status == 201
    assert (await call("GET", "/con/b")).body == b"staged"
    assert (await call.put("/con/a", b"")).etag > after.etag


def test_a_second_host_is_told_who_has_the_store(tmp_path, open_service):
    open_service()
    script = "import sys; from pathlib import Path; from pvblob.blobs.service import EmbeddedService as S\n"
    script += "try: S(Path(sys.argv[1])).open()\nexcept Exception as e: print(type(e).__name__, e)"
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "store")], capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("StoreInUse")
    assert f"process {os.getpid()}" in ran.stdout
    with pytest.raises(StoreInUse):
        EmbeddedService(tmp_path / "store").open()


async def test_space_that_nothing_refers_to_is_given_back(tmp_path, call):
    for number in range(4):
        await call.put(f"/con/{number}", bytes([number]) * (2 << 20))
    await call("DELETE", "/con/1")
    await call("DELETE", "/con/3")
    (segment,) = segments(tmp_path)
    with segment.open("ab") as file:
        file.write(b"a body whose commit the crash prevented" * 1000)
    call.service.close()
    (tmp_path / "store" / "segments" / "00000009.seg").write_bytes(b"never committed")
    before = segment.stat().st_blocks
    call.service.open()
    assert segments(tmp_path) == [segment]
    assert segment.stat().st_size == 6 << 20
    assert segment.stat().st_blocks < before
    for number in (0, 2):
        assert (await call("GET", f"/con/{number}")).body == bytes([number]) * (2 << 20)
    await call.put("/con/new", b"n" * (2 << 20))
    assert segment.stat().st_size == 6 << 20  # the hole was used, not fresh space


async def test_uncommitted_blocks_are_dropped_after_seven_days(call):
    await call("PUT", "/con/b?comp=block&blockid=AAAA", {}, b"staged")
    store, writer = call.service._store, call.service._writer
    store.committer.stop()
    for days, expected in ((6.9, 200), (7.1, 404)):
        work = Housekeeping(store.extents, lambda days=days: time.time() + days * 24 * 3600)
        work.step(writer, True)
        assert (await call("GET", "/con/b?comp=blocklist&blocklisttype=all")).status == expected
    used, free = store.extents.usage()
    assert used == free


async def test_a_damaged_catalog_is_named_and_refused(tmp_path, call):
    for number in range(200):
        await call.put(f"/con/{number}", b"x", x_ms_meta_pad="p" * 500)
    call.service.close()
    path = tmp_path / "store" / "catalog.sqlite"
    content = bytearray(path.read_bytes())
    content[20_000:40_000] = b"\xa5" * 20_000
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=r"catalog\.sqlite"):
        call.service.open()
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(StoreCorrupt, match="not a database"):
        call.service.open()


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path, call):
    call.service.close()
    path = tmp_path / "store" / "catalog.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreCorrupt, match="version 99"):
        call.service.open()


@pytest.mark.parametrize("damage", ["missing", "short"])
async def test_a_segment_that_lost_bytes_is_named_with_a_blob(tmp_path, call, damage):
    await call.put("/con/precious", b"x" * 100_000)
    call.service.close()
    (segment,) = segments(tmp_path)
    if damage == "missing":
        segment.unlink()
    else:
        os.truncate(segment, 50_000)
    with pytest.raises(StoreCorrupt, match="con/precious") as caught:
        call.service.open()
    assert segment.name in str(caught.value)


async def test_overlapping_runs_are_found(tmp_path, call):
    await call.put("/con/a", b"x" * 5000)
    await call.put("/con/b", b"y" * 5000)
    writer = call.service._writer
    call.service._store.committer.stop()
    (layout,) = writer.execute("SELECT layout FROM blobs WHERE name = ?", (b"a",)).fetchone()
    block = recovery.unpack(layout)[0]
    from pvblob.blobs.layout import pack

    writer.execute("UPDATE blobs SET layout = ? WHERE name = ?", (pack([block._replace(offset=1024)]), b"b"))
    call.service.close()
    with pytest.raises(StoreCorrupt, match="overlap"):
        call.service.open()


async def test_a_stranger_among_the_segments_is_named(tmp_path, call):
    call.service.close()
    (tmp_path / "store" / "segments" / "notes.txt").write_text("mine")
    with pytest.raises(Exception, match=r"notes\.txt"):
        call.service.open()


async def test_a_failed_open_releases_the_lock(tmp_path, call):
    call.service.close()
    stranger = tmp_path / "store" / "segments" / "notes.txt"
    stranger.write_text("mine")
    with pytest.raises(Exception, match=r"notes\.txt"):
        call.service.open()
    stranger.unlink()
    call.service.open()
    assert (await call("HEAD", "/con?restype=container")).status == 200


async def test_a_clock_that_went_back_still_gives_new_etags(tmp_path):
    times = [2_000_000_000.0]
    from pvblob.http import BytesBody, Fields, Request

    with EmbeddedService(tmp_path / "s", durability="none", clock=lambda: times[0]) as service:

        async def put(target: str) -> str:
            fields = Fields({"x-ms-blob-type": "BlockBlob"}.items())
            response = await service.execute(Request("PUT", "https", "acct.blob.x", target, fields), BytesBody(b""))
            return response.fields.get("etag") or ""

        await put("/con?restype=container")
        first = await put("/con/b")
        times[0] = 1_000_000_000.0
        service.close()
        service.open()
        second = await put("/con/b")
        assert int(second.strip('"'), 16) > int(first.strip('"'), 16)
