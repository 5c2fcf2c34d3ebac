"""Reading ahead: sequential readers find the next blocks there, and nobody else pays (issue 5)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pvblob.frozen import replace
from pvblob.http import BytesBody, FileContent
from pvblob.upstream.accounts import Accounts, AccountSettings
from pvblob.upstream.block_files import BLOCK_BYTES
from pvblob.upstream.blocks import BlockStore
from pvblob.upstream.cache import CachedAccount
from pvblob.upstream.readahead import BLOCKS_MAX
from pvblob.upstream.versions import CacheRule, Version
from tests.upstream.answers import request
from tests.upstream.proxy import FaultyProxy
from tests.upstream.world import ACCOUNT, Authority, Elsewhere

BLOCKS = 24


class Reading:
    """An account behind a proxy, with a blob of BLOCKS blocks, and readers of it."""

    def __init__(self, account: CachedAccount, store: BlockStore, proxy: FaultyProxy, data: bytes) -> None:
        self.account, self.store, self.proxy, self.data = account, store, proxy, data

    async def read(self, first: int, size_bytes: int, reader: int = 1) -> None:
        span = f"bytes={first}-{first + size_bytes - 1}"
        made = replace(request("GET", "/ahead/blob", ("x-ms-range", span)), reader=reader)
        response = await self.account.execute(made, BytesBody())
        assert isinstance(response.content, FileContent)
        found = b"".join(os.pread(fd, length, offset) for fd, offset, length in response.content.extents)
        response.content.release()
        assert found == self.data[first : first + size_bytes]

    def counted(self) -> dict[str, int]:
        return self.store.tallies.total()

    async def settle(self) -> None:
        """Wait until nothing is on its way."""
        async with asyncio.timeout(20):
            while fetching := self.account.fetcher._fetching:
                await asyncio.wait([fetch.task for fetch in fetching.values()])
                await asyncio.sleep(0)


@pytest.fixture
async def reading(
    elsewhere: Elsewhere, authority: Authority, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Reading]:
    settings: dict[str, Any] = getattr(request, "param", {})
    proxy = FaultyProxy(elsewhere.port)
    await proxy.start()
    key = tmp_path / "key"
    key.write_text(elsewhere.key)
    store = BlockStore(tmp_path / "cache", 256 << 20, settings.pop("quota", 128 << 20))
    one = AccountSettings(
        ACCOUNT,
        "key",
        endpoint=f"https://127.0.0.1:{proxy.listening_port}/{ACCOUNT}",
        ca_file=authority.file,
        secret_file=key,
        connections_warm=0,
        cache=(CacheRule("ahead", mode="immutable"),),
        **settings,
    )
    accounts = Accounts([one], cache=store)
    await accounts.open()
    account = accounts.cached[ACCOUNT]
    data = os.urandom(BLOCK_BYTES) * (BLOCKS - 1) + os.urandom(1000)
    await account.execute(_put("/ahead?restype=container"), BytesBody())
    made = await account.execute(_put("/ahead/blob"), BytesBody(data))
    assert made.status == 201
    yield Reading(account, store, proxy, data)
    await accounts.close()
    await proxy.stop()


def _put(target: str) -> Any:
    return request("PUT", target, ("x-ms-blob-type", "BlockBlob"), within_s=60)


async def test_a_sequential_reader_misses_two_blocks_and_finds_the_rest(reading: Reading) -> None:
    """The first block, and the second, by which it is known; the window doubles up to its bound."""
    for number in range(BLOCKS - 1):
        await reading.read(number * BLOCK_BYTES, BLOCK_BYTES)
        await reading.settle()
        if number in (1, 2, 3, 4):
            assert reading.counted()["ahead"] == min(BLOCKS, {1: 1, 2: 3, 3: 6, 4: 11}[number])
    await reading.read((BLOCKS - 1) * BLOCK_BYTES, 1000)
    counted = reading.counted()
    assert (counted["misses"], counted["admitted"]) == (2, BLOCKS), "every block came once"
    assert counted["ahead_used"] == counted["ahead"] == BLOCKS - 2


async def test_small_reads_count_as_one_pass_and_lead_the_same_way(reading: Reading) -> None:
    for first in range(0, 6 * BLOCK_BYTES, BLOCK_BYTES // 4):
        await reading.read(first, BLOCK_BYTES // 4)
        await reading.settle()
    assert reading.counted()["misses"] == 1
    assert max(entry.uses for entry in reading.store._order._entries.values()) == 0, "one pass is no use of its own"


async def test_requests_that_arrive_out_of_order_are_still_one_stream(reading: Reading) -> None:
    half = BLOCK_BYTES // 2
    for first in (0, 1, 3, 2, 4, 6, 5, 7, 9, 8):
        await reading.read(first * half, half)
        await reading.settle()
    assert reading.counted()["misses"] <= 3


async def test_a_reader_that_jumps_causes_no_more_than_it_reads(reading: Reading) -> None:
    for number in (3, 17, 8, 21, 0, 12, 5):
        await reading.read(number * BLOCK_BYTES + 5, 4096)
    await reading.settle()
    assert reading.counted()["ahead"] == 0
    assert reading.counted()["admitted"] == 7


async def test_two_readers_of_one_blob_do_not_disturb_each_other(reading: Reading) -> None:
    for number in range(8):
        await reading.read(number * BLOCK_BYTES, BLOCK_BYTES, reader=1)
        await reading.read((12 + number) * BLOCK_BYTES, BLOCK_BYTES, reader=2)
        await reading.settle()
    assert reading.counted()["misses"] == 4


@pytest.mark.parametrize("is_lent", [True, False])
async def test_a_reader_in_the_wake_of_the_foremost_goes_on_with_what_is_known_of_it(
    reading: Reading, is_lent: bool
) -> None:
    """Of lent blocks Python sees the first read only, of many readers each time another's (decision 14)."""
    await reading.read(0, BLOCK_BYTES)
    head = reading.account.states.of("ahead", b"blob").head
    assert head is not None
    lent = reading.store.borrow(Version(reading.account.label("ahead", b"blob"), head)) if is_lent else None
    for number in range(1, 4):
        await reading.read(number * BLOCK_BYTES, BLOCK_BYTES)
        await reading.settle()
    ahead = reading.counted()["ahead"]
    await reading.read(20 * BLOCK_BYTES, BLOCK_BYTES, reader=3)
    await reading.settle()
    assert reading.counted()["ahead"] == ahead, "who reads elsewhere is no follower"
    await reading.read(6 * BLOCK_BYTES, BLOCK_BYTES, reader=2)
    await reading.settle()
    if lent is None:
        assert reading.counted()["ahead"] == ahead, "Python would have seen that it reads in order"
    else:
        assert reading.counted()["ahead"] >= ahead + 4
        lent.let_go()


async def test_the_more_readers_will_come_by_the_further_ahead_is_read(reading: Reading) -> None:
    for block in range(6):
        for reader in (1, 2, 3):
            await reading.read(block * BLOCK_BYTES, BLOCK_BYTES, reader)
        await reading.settle()
    assert reading.counted()["admitted"] > 6 + BLOCKS_MAX
    for reader in (1, 2, 3):
        reading.account.forget_reader(reader)
    ahead = reading.account._ahead
    assert ahead is not None
    assert not ahead._readers, "who has left is not counted"


async def test_what_is_read_ahead_for_a_reader_that_leaves_is_called_off(reading: Reading) -> None:
    for number in range(3):
        await reading.read(number * BLOCK_BYTES, BLOCK_BYTES)
        await reading.settle()
    reading.proxy.faults.drip_bytes_per_s = 4_000_000
    await reading.read(3 * BLOCK_BYTES, BLOCK_BYTES)
    fetches = [fetch.task for fetch in reading.account.fetcher._fetching.values()]
    assert fetches
    reading.account.forget_reader(1)
    await asyncio.wait(fetches)
    assert all(task.cancelled() for task in fetches)
    assert reading.account.attempts.budget.connections.free == 64, "their connections are free again"
    assert not list(reading.store.directory.glob("*.part"))


async def test_a_block_that_somebody_waits_for_is_not_called_off(reading: Reading) -> None:
    for number in range(3):
        await reading.read(number * BLOCK_BYTES, BLOCK_BYTES)
        await reading.settle()
    reading.proxy.faults.drip_bytes_per_s = 8_000_000
    await reading.read(3 * BLOCK_BYTES, BLOCK_BYTES)
    other = asyncio.ensure_future(reading.read(6 * BLOCK_BYTES, 10, reader=2))
    for _ in range(10_000):  # until it waits for the block
        if reading.counted()["misses"] == 3:
            break
        await asyncio.sleep(0.001)
    assert not other.done()
    reading.account.forget_reader(1)
    await other


async def test_a_stream_that_is_not_continued_is_dropped(reading: Reading) -> None:
    for number in range(3):
        await reading.read(number * BLOCK_BYTES, BLOCK_BYTES)
        await reading.settle()
    reading.proxy.faults.drip_bytes_per_s = 4_000_000
    await reading.read(3 * BLOCK_BYTES, BLOCK_BYTES)
    fetches = [fetch.task for fetch in reading.account.fetcher._fetching.values()]
    assert fetches
    for number in range(16):  # of blocks that are here, far from each other
        await reading.read((number % 3) * BLOCK_BYTES + 1000 * (number * 7 % 16), 10)
    await asyncio.wait(fetches)
    assert all(task.cancelled() for task in fetches)


@pytest.mark.parametrize("reading", [{"quota": 16 << 20}], indirect=True)
async def test_no_more_is_read_ahead_than_half_of_the_guest_s_quota(reading: Reading) -> None:
    for number in range(8):
        await reading.read(number * BLOCK_BYTES, BLOCK_BYTES)
        assert len(reading.account.fetcher._fetching) <= 2
        await reading.settle()
    assert reading.counted()["ahead"] > 4


@pytest.mark.parametrize("reading", [{"connections_max": 2}], indirect=True)
async def test_reading_ahead_takes_no_connection_that_somebody_waits_for(reading: Reading) -> None:
    budget = reading.account.attempts.budget
    for number in range(4):
        await reading.read(number * BLOCK_BYTES, BLOCK_BYTES)
        await reading.settle()
    before = reading.counted()["ahead"]
    leases = [await budget.acquire("other", 0), await budget.acquire("other", 0)]
    await reading.read(4 * BLOCK_BYTES, 10)
    assert reading.counted()["ahead"] == before
    for lease in leases:
        lease.release()
    assert budget.waited == 0


@pytest.mark.parametrize("reading", [{"read_ahead": False}], indirect=True)
async def test_it_can_be_turned_off(reading: Reading) -> None:
    for number in range(6):
        await reading.read(number * BLOCK_BYTES, BLOCK_BYTES)
    counted = reading.counted()
    assert (counted["ahead"], counted["misses"]) == (0, 6)
