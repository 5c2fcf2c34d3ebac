"""The quota of a guest in the shared cache: one that streams a huge data set cannot push out what others use."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from pvblob.errors import SettingsError
from pvblob.frozen import replace
from pvblob.http import BytesBody, discard
from pvblob.upstream.accounts import Accounts, AccountSettings
from pvblob.upstream.block_files import BLOCK_BYTES, BlockKey, Label
from pvblob.upstream.blocks import BlockStore
from pvblob.upstream.s3fifo import NOBODY, S3Fifo
from pvblob.upstream.versions import CacheRule
from pvblob.vsp.settings import load
from tests.upstream.answers import request
from tests.upstream.world import ACCOUNT, Authority, Elsewhere


def test_who_is_above_its_quota_evicts_its_own_and_nobody_elses() -> None:
    order = S3Fifo(1000, 250)
    for number in range(25):
        assert order.add(f"mine{number}", 10, "small") == []
    for number in range(5000):
        gone = order.add(f"flood{number}", 10, "large")
        assert all(name.startswith("flood") for name in gone)
    assert order.owners()["small"] == (25, 250)
    assert order.owners()["large"] == (75, 750)


def test_even_what_a_flood_uses_often_gives_way_to_others_within_their_quota() -> None:
    order = S3Fifo(1000, 250)
    for number in range(100):
        order.add(f"flood{number}", 10, "large")
        for _ in range(3):
            order.use(f"flood{number}", "large")
    for number in range(25):
        assert all(name.startswith("flood") for name in order.add(f"mine{number}", 10, "small"))
    assert order.owners() == {"large": (75, 750), "small": (25, 250)}


def test_a_guest_alone_may_have_all_the_room() -> None:
    order = S3Fifo(1000, 250)
    for number in range(100):
        assert order.add(str(number), 10, "alone") == []
    assert order.owners() == {"alone": (100, 1000)}


def test_within_their_quotas_guests_share_one_order() -> None:
    """Nobody is above it: what is not used goes first, whoever brought it."""
    order = S3Fifo(1000, 400)
    for owner in "abc":
        for number in range(33):
            order.add(f"{owner}{number}", 10, owner)
    for number in range(33):
        order.use(f"b{number}", "b")
    gone = [name for number in range(5) for name in order.add(f"c-new{number}", 10, "c")]
    assert gone == ["a0", "a1", "a2", "a3"]


def test_what_an_earlier_process_left_is_charged_to_who_uses_it_first() -> None:
    order = S3Fifo(1000, 250)
    order.add("old", 300)
    assert order.owners() == {NOBODY: (1, 300)}
    order.use("old", "user")
    order.use("old", "other")
    assert order.owners() == {"user": (1, 300)}


def test_what_is_spared_stays_for_one_round_and_no_longer() -> None:
    spared = {"lent"}
    order = S3Fifo(1000, None, lambda name: name in spared and not spared.remove(name))
    order.add("lent", 10)
    gone = [name for number in range(500) for name in order.add(str(number), 10)]
    assert "lent" not in gone
    assert not spared
    for number in range(500, 1000):  # what is used fills the main queue until its head is looked at
        gone += order.add(str(number), 10)
        order.use(str(number))
    assert "lent" in gone


def test_the_sums_of_all_owners_hold_whatever_happens() -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    order = S3Fifo(1000, 300, lambda _name: chance.random() < 0.1)
    charged: dict[str, tuple[str, int]] = {}
    for _ in range(20_000):
        name, owner = str(int(chance.paretovariate(0.5)) % 300), chance.choice(["a", "b", "c", NOBODY])
        if chance.random() < 0.05:
            order.remove(name)
            charged.pop(name, None)
        elif name in order:
            order.use(name, owner)
            if charged[name][0] == NOBODY:
                charged[name] = owner, charged[name][1]
        else:
            charged[name] = owner, chance.randrange(1, 200)
            above = {who for who, (_, size) in order.owners().items() if size > 300 and who != NOBODY}
            gone = order.add(name, charged[name][1], owner)
            for one in gone:
                if len(gone) == 1 and owner in above:
                    assert charged[one][0] == owner, f"seed {seed}: it evicts its own first"
                del charged[one]
        expected: dict[str, tuple[int, int]] = {}
        for who, size_bytes in charged.values():
            count, total = expected.get(who, (0, 0))
            expected[who] = count + 1, total + size_bytes
        assert order.owners() == expected, f"seed {seed}"
        assert order.size_bytes <= 1000


async def test_a_guest_that_streams_leaves_the_others_their_blocks(
    elsewhere: Elsewhere, authority: Authority, tmp_path: Path
) -> None:
    """End to end: 8 MiB that one guest uses stay while another reads 160 MiB, once and then again and again."""
    key = tmp_path / "key"
    key.write_text(elsewhere.key)
    store = BlockStore(tmp_path / "cache", 64 << 20, 16 << 20)
    settings = AccountSettings(
        ACCOUNT,
        "key",
        endpoint=elsewhere.endpoint,
        ca_file=authority.file,
        secret_file=key,
        cache=(CacheRule("quota", mode="immutable"),),
    )
    accounts = Accounts([settings], cache=store)
    await accounts.open()
    backend = accounts.backends[ACCOUNT]

    async def ask(method: str, target: str, guest: str, data: bytes = b"") -> None:
        made = replace(request(method, target, ("x-ms-blob-type", "BlockBlob")), guest=guest)
        response = await backend.execute(made, BytesBody(data))
        discard(response.content)
        assert response.status < 300

    await ask("PUT", "/quota?restype=container", "uid:1")
    await ask("PUT", "/quota/small", "uid:1", os.urandom(2 * BLOCK_BYTES))
    for number in range(4):
        await ask("PUT", f"/quota/huge{number}", "uid:2", bytes(10 * BLOCK_BYTES))
    await ask("GET", "/quota/small", "uid:1")
    for _ in range(3):
        for number in range(4):
            await ask("GET", f"/quota/huge{number}", "uid:2")
    held = store.guests()
    assert held["uid:1"][0] == 2
    assert (48 << 20) < held["uid:2"][1] <= store.bytes_max - held["uid:1"][1]
    misses = store.tallies.total()["misses"]
    await ask("GET", "/quota/small", "uid:1")
    assert store.tallies.total()["misses"] == misses
    await accounts.close()


async def test_what_came_before_a_restart_is_found_again_by_its_label(tmp_path: Path) -> None:
    label = Label("a", "c", b"name\xff with \0 in it")

    async def fill(fd: int) -> None:
        os.pwrite(fd, b"data", 0)

    store = BlockStore(tmp_path, 1 << 20, 1 << 19)
    store.open()
    await store.put(BlockKey(label, '"1"', 0), 4, fill, "uid:1")
    await store.put(BlockKey(Label("a", "c2", b""), '"1"', 0), 4, fill, "uid:1")
    store.close()
    (tmp_path / ("f" * 64)).write_bytes(b"of another version, or half of a file")
    again = BlockStore(tmp_path, 1 << 20, 1 << 19)
    again.open()
    assert not (tmp_path / ("f" * 64)).exists()
    assert {place: blocks for place, (blocks, _, _) in again.holdings().items()} == {("a", "c"): 1, ("a", "c2"): 1}
    assert list(again.guests()) == [NOBODY]
    assert again.drop(lambda found: found == label)[0] == 1
    assert await again.get(BlockKey(label, '"1"', 0), 4) is None
    assert len(again) == 1
    await asyncio.sleep(0)
    again.close()


@pytest.mark.parametrize(
    ("size", "said"), [(1 << 20, "cache_guest_size"), (65 << 20, "is more than cache_size"), ("x", "cache_guest_size")]
)
def test_a_quota_that_makes_no_sense_is_refused(size: object, said: str, tmp_path: Path) -> None:
    config = tmp_path / "pvblob.toml"
    config.write_text(f'cache_dir = "/c"\ncache_size = {64 << 20}\ncache_guest_size = {size!r}\n')
    with pytest.raises(SettingsError, match=said):
        load({}, config)


def test_sizes_are_numbers_of_bytes_or_say_their_unit_as_in_the_policy(tmp_path: Path) -> None:
    config = tmp_path / "pvblob.toml"
    account = '[[upstream]]\naccount = "far"\nauthorization = "none"\npart_size = "4MiB"\nbytes_per_s = "100MiB"\n'
    config.write_text(f'cache_dir = "/c"\ncache_size = "2GiB"\ncache_guest_size = {1 << 30}\n{account}')
    settings = load({}, config)
    assert (settings.cache_size, settings.cache_guest_size) == (2 << 30, 1 << 30)
    assert (settings.upstream[0].part_size, settings.upstream[0].bytes_per_s) == (4 << 20, 100 << 20)
