"""A large Put Blob as blocks: the same blob, once, whatever happens to single blocks (issue 5)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from pvblob.http import BytesBody
from tests.upstream.answers import request
from tests.upstream.proxy import Faults
from tests.upstream.test_cache import World, get
from tests.upstream.world import Authority, Elsewhere

MIB = 1 << 20
SETTINGS = (
    ("x-ms-blob-type", "BlockBlob"),
    ("content-type", "text/plain"),
    ("content-encoding", "gzip"),
    ("x-ms-blob-cache-control", "no-cache"),
    ("x-ms-meta-kept", "yes"),
    ("if-none-match", "*"),
)


@pytest.fixture
async def world(elsewhere: Elsewhere, authority: Authority, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        made = World(elsewhere, authority, tmp_path, stack)
        await made.proxy.start()
        stack.push_async_callback(made.proxy.stop)
        await (await made.account(None)).execute(request("PUT", "/cached?restype=container"), BytesBody())
        yield made


async def test_a_blob_put_in_blocks_is_the_blob_put_at_once(world: World) -> None:
    data = os.urandom(5 * MIB + 11)
    whole, cut = await world.account(None), await world.account(None, put_block_bytes=MIB, parallel=3)
    world.proxy.faults = Faults(refuse=2)
    for backend, name in ((whole, "put-whole"), (cut, "put-cut")):
        put = await backend.execute(request("PUT", f"/cached/{name}", *SETTINGS), BytesBody(data))
        assert put.status == 201
        again = await backend.execute(request("PUT", f"/cached/{name}", *SETTINGS), BytesBody(data))
        assert (again.status, again.fields.get("x-ms-error-code")) == (409, "BlobAlreadyExists")
    (one, one_data), (two, two_data) = await get(whole, "put-whole"), await get(whole, "put-cut")
    assert one_data == two_data == data
    own = ("date", "etag", "last-modified", "x-ms-request-id", "x-ms-creation-time", "content-md5")
    assert [pair for pair in one.fields if pair[0] not in own] == [pair for pair in two.fields if pair[0] not in own]


async def test_a_block_that_is_refused_ends_the_put_and_leaves_no_blob(world: World) -> None:
    cut = await world.account(None, put_block_bytes=MIB)
    put = await cut.execute(request("PUT", "/nowhere/b", ("x-ms-blob-type", "BlockBlob")), BytesBody(bytes(3 * MIB)))
    assert (put.status, put.fields.get("x-ms-error-code")) == (404, "ContainerNotFound")
