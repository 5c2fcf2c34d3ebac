"""The shared cache: one upstream request for whoever wants a block, never an old or a wrong byte (issue 5)."""

from __future__ import annotations

import asyncio
import os
import random
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pvblob.errors import SettingsError
from pvblob.http import ArrivingContent, Backend, BytesBody, FileContent, Response
from pvblob.upstream.accounts import Accounts, AccountSettings
from pvblob.upstream.block_files import BLOCK_BYTES, BlockKey, Label
from pvblob.upstream.blocks import BlockStore
from pvblob.upstream.s3fifo import S3Fifo
from pvblob.upstream.versions import CacheRule
from tests.upstream.answers import request
from tests.upstream.proxy import FaultyProxy
from tests.upstream.world import ACCOUNT, Authority, Elsewhere

MIB = 1 << 20


class World:
    """Accounts that reach the service elsewhere through a proxy that counts."""

    def __init__(self, elsewhere: Elsewhere, authority: Authority, directory: Path, stack: AsyncExitStack) -> None:
        self.directory = directory / "cache"
        self.proxy = FaultyProxy(elsewhere.port)
        self._elsewhere = elsewhere
        self._authority = authority
        self._key_file = directory / "key"
        self._key_file.write_text(elsewhere.key)
        self._stack = stack

    async def account(self, rule: CacheRule | None, **settings: Any) -> Backend:
        store = BlockStore(self.directory, 1 << 30) if rule else None
        one = AccountSettings(
            ACCOUNT,
            "key",
            endpoint=f"https://127.0.0.1:{self.proxy.listening_port}/{ACCOUNT}",
            ca_file=self._authority.file,
            secret_file=self._key_file,
            connections_warm=0,
            cache=(rule,) if rule else (),
            **settings,
        )
        self.accounts = Accounts([one], cache=store)
        self.store = store
        await self.accounts.open()
        self._stack.push_async_callback(self.accounts.close)
        return self.accounts.backends[ACCOUNT]


@pytest.fixture
async def world(elsewhere: Elsewhere, authority: Authority, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        made = World(elsewhere, authority, tmp_path, stack)
        await made.proxy.start()
        stack.push_async_callback(made.proxy.stop)
        direct = await made.account(None)
        await direct.execute(request("PUT", "/cached?restype=container"), BytesBody())
        yield made


async def put(backend: Backend, name: str, data: bytes) -> None:
    response = await backend.execute(
        request("PUT", f"/cached/{name}", ("x-ms-blob-type", "BlockBlob")), BytesBody(data)
    )
    assert response.status == 201


async def get(backend: Backend, name: str, *fields: tuple[str, str]) -> tuple[Response, bytes]:
    response = await backend.execute(request("GET", f"/cached/{name}", *fields), BytesBody())
    content = response.content
    if isinstance(content, FileContent):
        data = b"".join(os.pread(extent.fd, extent.length, extent.offset) for extent in content.extents)
        content.release()
        return response, data
    if isinstance(content, ArrivingContent):
        data = b"".join([chunk async for chunk in content.chunks()])
        content.release()
        return response, data
    return response, content


async def test_twenty_readers_of_a_blob_cause_one_download(world: World) -> None:
    """Issue 5: N guests asking for the same range cause one upstream request."""
    data = os.urandom(3 * BLOCK_BYTES + 7)
    direct = await world.account(None)
    await put(direct, "shared", data)
    backend = await world.account(CacheRule("cached", mode="immutable"))
    before = world.proxy.bytes_down
    for response, found in await asyncio.gather(*(get(backend, "shared") for _ in range(20))):
        assert (response.status, found) == (200, data)
        assert isinstance(response.content, FileContent)
    part, found = await get(backend, "shared", ("x-ms-range", f"bytes={BLOCK_BYTES - 5}-{BLOCK_BYTES + 4}"))
    assert (part.status, found) == (206, data[BLOCK_BYTES - 5 : BLOCK_BYTES + 5])
    assert world.proxy.bytes_down - before < 1.05 * len(data)


async def test_cached_answers_are_those_of_the_account(world: World) -> None:
    """Every field but the date and the ids, whole and in ranges, and every error."""
    direct = await world.account(None)
    await put(direct, "same", os.urandom(100_000))
    await put(direct, "empty", b"")
    backend = await world.account(CacheRule("cached", mode="immutable"))
    asked: list[tuple[str, tuple[tuple[str, str], ...]]] = [
        ("same", ()),
        ("same", (("x-ms-range", "bytes=10-19"), ("x-ms-client-request-id", "mine"))),
        ("same", (("range", "bytes=99990-"),)),
        ("same", (("range", "bytes=99990-200000"), ("x-ms-version", "2021-12-02"))),
        ("same", (("range", "bytes=100000-"),)),
        ("same", (("range", "nonsense"),)),
        ("same", (("if-match", '"0x1"'),)),
        ("same", (("if-none-match", "*"),)),
        ("empty", ()),
        ("empty", (("x-ms-range", "bytes=0-9"),)),
        ("absent", ()),
    ]
    for name, fields in asked:
        for _ in range(2):
            (one, one_data), (two, two_data) = await get(direct, name, *fields), await get(backend, name, *fields)
            ours, theirs = (
                sorted(pair for pair in response.fields if pair[0] not in ("date", "x-ms-request-id"))
                for response in (two, one)
            )
            assert (two.status, ours) == (one.status, theirs), (name, fields)
            assert two_data == one_data or one.status >= 400


@pytest.mark.parametrize("mode", ["immutable", "revalidate"])
async def test_a_read_never_returns_what_was_before_the_guests_own_write(world: World, mode: Any) -> None:
    backend = await world.account(CacheRule("cached", mode=mode, max_age_s=3600))
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    written = 0

    async def write() -> None:
        nonlocal written
        for number in range(1, 25):
            await put(backend, f"own-{mode}", b"%8d" % number)
            written = number
            await asyncio.sleep(chance.random() / 100)

    async def read() -> None:
        while written < 24:
            floor = written
            response, data = await get(backend, f"own-{mode}")
            if floor:
                assert response.status == 200
                assert int(data) >= floor, f"seed {seed}"
            await asyncio.sleep(chance.random() / 200)

    await asyncio.gather(write(), *(read() for _ in range(6)))
    assert int((await get(backend, f"own-{mode}"))[1]) == 24


async def test_revalidation_sees_what_others_write_and_immutable_does_not_ask(world: World) -> None:
    direct = await world.account(None)
    await put(direct, "others", b"first")
    backend = await world.account(CacheRule("cached", mode="revalidate"))
    assert (await get(backend, "others"))[1] == b"first"
    await put(direct, "others", b"second!")
    assert (await get(backend, "others"))[1] == b"second!"
    before = world.proxy.bytes_down
    assert (await get(backend, "others"))[1] == b"second!"
    assert world.store is not None
    assert world.store.tallies.total()["admitted"] == 2
    assert world.proxy.bytes_down > before, "it was asked whether it is still so"


async def test_a_blob_larger_than_an_answer_is_read_block_by_block(world: World) -> None:
    data = os.urandom(17 * BLOCK_BYTES)
    direct = await world.account(None)
    await put(direct, "large", data)
    backend = await world.account(CacheRule("cached", mode="immutable"))
    response, found = await get(backend, "large")
    assert isinstance(response.content, ArrivingContent)
    assert found == data
    before = world.proxy.bytes_down
    assert (await get(backend, "large"))[1] == data
    assert world.proxy.bytes_down == before


async def test_blocks_survive_a_restart_and_damaged_ones_are_fetched_again(world: World) -> None:
    """Issue 5: crash-safe, checksums; a cache file that was corrupted serves no wrong byte."""
    data = os.urandom(2 * BLOCK_BYTES)
    direct = await world.account(None)
    await put(direct, "kept", data)
    backend = await world.account(CacheRule("cached", mode="immutable"))
    assert (await get(backend, "kept"))[1] == data
    blocks = sorted(path for path in world.directory.iterdir() if len(path.name) == 64)
    assert len(blocks) == 2

    def damage(path: Path, offset: int) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 1]))
        os.utime(path)

    damage(blocks[0], 1_000_000)
    assert (await get(backend, "kept"))[1] == data
    await world.accounts.close()
    (world.directory / ("0" * 64 + ".part")).write_bytes(b"half")  # as a host that was killed leaves it
    damage(blocks[1], BLOCK_BYTES + 20)
    backend = await world.account(CacheRule("cached", mode="immutable"))
    before = world.proxy.bytes_down
    assert (await get(backend, "kept"))[1] == data
    assert BLOCK_BYTES < world.proxy.bytes_down - before < 1.1 * BLOCK_BYTES, "one was right, one was not"
    assert world.store is not None
    assert world.store.tallies.total()["damaged"] == 1
    assert not list(world.directory.glob("*.part"))


async def test_a_full_disk_costs_the_cache_and_nothing_else(world: World) -> None:
    data = os.urandom(BLOCK_BYTES + 1)
    direct = await world.account(None)
    await put(direct, "full", data)
    backend = await world.account(CacheRule("cached", mode="immutable"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 * MIB, hard))
    try:
        response, found = await get(backend, "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (response.status, found) == (200, data)
    assert world.store is not None
    assert world.store.tallies.total()["full"]
    assert (await get(backend, "full"))[1] == data


async def test_what_each_guest_may_read_for_itself_is_not_shared(world: World) -> None:
    one = AccountSettings(ACCOUNT, "guest", cache=(CacheRule("*"),))
    accounts = Accounts([one], cache=BlockStore(world.directory, 1 << 30))
    with pytest.raises(SettingsError, match="guest"):
        await accounts.open()
    await accounts.close()


async def test_two_hosts_do_not_share_a_directory(tmp_path: Path) -> None:
    first, second = BlockStore(tmp_path, 1 << 30), BlockStore(tmp_path, 1 << 30)
    first.open()
    with pytest.raises(SettingsError, match="another host"):
        second.open()
    first.close()
    second.close()


def block(blob: str, number: int, container: str = "c") -> BlockKey:
    return BlockKey(Label("a", container, blob.encode()), '"0x1"', number)


Filler = Callable[[int], Awaitable[None]]


def filler(data: bytes) -> Filler:
    async def fill(fd: int) -> None:
        os.pwrite(fd, data, 0)

    return fill


async def test_the_store_stays_within_its_bound_and_forgets_a_scan_first(tmp_path: Path) -> None:
    store = BlockStore(tmp_path, 100_000)
    store.open()
    for number in range(5):
        await store.put(block("hot", number), 1000, filler(bytes([number]) * 1000))
    for number in range(400):
        await store.put(block("scan", number), 1000, filler(b"s" * 1000))
        fd = await store.get(block("hot", number % 5), 1000)
        assert fd is not None, number
        store.use(block("hot", number % 5))
        assert os.pread(fd, 1, 0) == bytes([number % 5])
        os.close(fd)
        assert store.size_bytes <= 100_000
    assert sum(entry.stat().st_size for entry in os.scandir(tmp_path)) == store.size_bytes
    store.close()


def test_the_order_keeps_its_sums_whatever_happens() -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    order = S3Fifo(1000)
    sizes: dict[str, int] = {}
    for _ in range(20_000):
        name = str(int(chance.paretovariate(0.5)) % 300)
        if chance.random() < 0.05:
            order.remove(name)
            sizes.pop(name, None)
        elif name in order:
            order.use(name)
        else:
            sizes[name] = chance.randrange(1, 200)
            for gone in order.add(name, sizes[name]):
                del sizes[gone]
        assert order.size_bytes == sum(sizes.values()) <= 1000, f"seed {seed}"
        assert all(one in order for one in sizes)
