"""Guests of a real host while the network between host and service does what networks do: no wrong byte, no hang."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvblob import AsyncClient, Client
from pvblob.errors import BlobError
from tests.end_to_end.serving import pvblob
from tests.upstream.network import ProxyThread
from tests.upstream.proxy import Faults
from tests.upstream.world import ACCOUNT, Authority, Elsewhere, ServingHost, upstream_table

MIB = 1 << 20


@pytest.fixture(scope="module")
def far_host(
    module_dir: Path, elsewhere: Elsewhere, authority: Authority, between: ProxyThread
) -> Iterator[ServingHost]:
    """A host whose account lies behind the proxy; below `cached` its blobs are cached."""
    key_file = module_dir / "far-key"
    key_file.write_text(elsewhere.key)
    endpoint = f"https://127.0.0.1:{between.proxy.listening_port}/{ACCOUNT}"
    table = upstream_table(
        endpoint, authority.file, account_key_file=str(key_file), stall_timeout_s=1.0, part_size=MIB, parallel=3
    )
    table += '[[upstream.cache]]\ncontainer = "network"\nprefix = "cached/"\nmode = "immutable"\n'
    host = ServingHost(module_dir / "far-host", f'cache_dir = "{module_dir / "far-cache"}"\n{table}')
    host.start()
    yield host
    host.stop()


@pytest.fixture
def client(far_host: ServingHost, between: ProxyThread) -> Iterator[Client]:
    between.proxy.faults = Faults()
    with Client.connect(str(far_host.socket_path), account=ACCOUNT) as made:
        made.create_container("network", exist_ok=True)
        yield made
    between.proxy.faults = Faults()


FAULTS = {
    "latency": lambda: Faults(latency_s=0.01),
    "resets in the content": lambda: Faults(cut_after_bytes=700_000, cuts=4),
    "resets in the head": lambda: Faults(cut_after_bytes=0, cuts=3),
    "stalls": lambda: Faults(stall_after_bytes=700_000, cuts=2),
    "a slow drip": lambda: Faults(drip_bytes_per_s=8_000_000),
    "connections refused": lambda: Faults(refuse=3),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_large_read_survives(fault: str, client: Client, between: ProxyThread) -> None:
    """Issue 5, shown by: loss of connection in mid-body, truncated bodies, slow drip, latency."""
    data = os.urandom(9 * MIB + 3)
    client.put("network", "large", data)
    between.proxy.faults = FAULTS[fault]()
    between.cut_all()
    assert client.get("network", "large") == data
    into = bytearray(len(data))
    assert client.read_into("network", "large", into).size_bytes == len(data)
    assert into == data


def test_a_view_of_a_part_is_right_while_connections_are_reset(client: Client, between: ProxyThread) -> None:
    data = os.urandom(40 * MIB)  # more than one packet holds, so the answer comes in pieces
    client.put("network", "pieces", data)
    between.proxy.faults = Faults(cut_after_bytes=900_000, cuts=5)
    between.cut_all()
    assert client.get("network", "pieces") == data
    assert client.get("network", "pieces", offset=33 * MIB, length=5 * MIB) == data[33 * MIB : 38 * MIB]


async def test_a_read_that_is_cancelled_leaves_its_pages_alone_afterwards(
    far_host: ServingHost, client: Client, between: ProxyThread
) -> None:
    """Design rule 2: after the completion the host touches nothing, whatever is still on its way."""
    data = os.urandom(8 * MIB)
    client.put("network", "cancelled", data)
    between.proxy.faults = Faults(drip_bytes_per_s=20_000_000)
    async with await AsyncClient.connect(str(far_host.socket_path), account=ACCOUNT) as guest:
        for wait_s in (0.02, 0.1, 0.2):
            task = asyncio.ensure_future(guest.get("network", "cancelled"))
            await asyncio.sleep(wait_s)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await guest.get("network", "cancelled") == data


def test_a_service_that_restarts_is_waited_for(client: Client, elsewhere: Elsewhere) -> None:
    """Issue 5, chaos: upstream restarted; no guest error, within the deadline."""
    client.put("network", "restart", b"content")
    elsewhere.stop()
    starter = threading.Thread(target=elsewhere.start)
    starter.start()
    try:
        assert client.get("network", "restart") == b"content"
    finally:
        starter.join()


def test_a_key_that_is_replaced_counts_without_a_restart(
    client: Client, far_host: ServingHost, elsewhere: Elsewhere, module_dir: Path
) -> None:
    """Issue 5, chaos: credentials rotated."""
    old = elsewhere.key
    elsewhere.stop()
    elsewhere.key = "bmV3LWtleQ=="
    elsewhere.start()
    with pytest.raises(BlobError) as refused:
        client.get("network", "restart")
    assert refused.value.status == 403
    (module_dir / "far-key").write_text(elsewhere.key)
    far_host.signal(signal.SIGHUP)
    assert client.get("network", "restart") == b"content"
    elsewhere.stop()
    elsewhere.key = old
    elsewhere.start()
    (module_dir / "far-key").write_text(old)
    # Without a signal too: a key that is refused is read again.
    assert client.get("network", "restart") == b"content"


def test_guests_share_what_is_cached_and_hits_need_no_network(
    client: Client, far_host: ServingHost, between: ProxyThread
) -> None:
    data = os.urandom(6 * MIB)
    client.put("network", "cached/blob", data)
    before = between.proxy.bytes_down
    for _ in range(8):
        with Client.connect(str(far_host.socket_path), account=ACCOUNT) as other:
            assert other.get("network", "cached/blob") == data
            assert other.get("network", "cached/blob", offset=4 * MIB - 3, length=7) == data[4 * MIB - 3 :][:7]
    assert between.proxy.bytes_down - before < 1.05 * len(data)
    fresh = os.urandom(100)
    client.put("network", "cached/blob", fresh)
    for _ in range(5):  # often enough to become an offload entry
        assert client.get("network", "cached/blob") == fresh


def test_a_host_killed_in_mid_fill_serves_no_wrong_byte_afterwards(
    client: Client, far_host: ServingHost, between: ProxyThread
) -> None:
    """Issue 5, chaos: host killed in mid-fill."""
    data = os.urandom(12 * MIB)
    client.put("network", "cached/killed", data)
    between.proxy.faults = Faults(drip_bytes_per_s=20_000_000)

    def read() -> None:
        with Client.connect(str(far_host.socket_path), account=ACCOUNT) as other:
            assert other.get("network", "cached/killed") == data

    reader = threading.Thread(target=read)
    reader.start()
    before = between.proxy.bytes_down
    while between.proxy.bytes_down - before < 3 * MIB:
        time.sleep(0.005)
    far_host.kill()
    far_host.start()
    reader.join(60)
    assert not reader.is_alive()
    read()


def test_a_cache_whose_disk_is_full_serves_every_guest_all_the_same(client: Client, far_host: ServingHost) -> None:
    """Issue 5, chaos: cache disk full (files of the host may not grow any more)."""
    data = os.urandom(9 * MIB)
    client.put("network", "cached/full", data)
    soft, hard = resource.prlimit(far_host.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(far_host.pid, resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        for _ in range(4):
            assert client.get("network", "cached/full") == data
            assert client.get("network", "cached/full", offset=5 * MIB, length=MIB) == data[5 * MIB : 6 * MIB]
    finally:
        resource.prlimit(far_host.pid, resource.RLIMIT_FSIZE, (soft, hard))
    assert client.get("network", "cached/full") == data


def test_damaged_cache_files_are_fetched_again_while_the_host_runs(
    client: Client, far_host: ServingHost, module_dir: Path
) -> None:
    """Issue 5, chaos: cache file corrupted, cut short, or replaced by another block's."""
    data = os.urandom(12 * MIB)
    client.put("network", "cached/damaged", data)
    assert client.get("network", "cached/damaged") == data
    blocks = [path for path in (module_dir / "far-cache").iterdir() if len(path.name) == 64]
    assert len(blocks) >= 3
    for number, path in enumerate(blocks):
        with path.open("r+b") as file:
            if number % 3 == 0:
                file.write(b"damage")
            elif number % 3 == 1:
                file.truncate(1000)
            else:
                file.write(blocks[number - 1].read_bytes())
    assert client.get("network", "cached/damaged") == data
    state = json.loads(pvblob("cache", "stats", "--json", "--socket", str(far_host.socket_path)).stdout)
    assert sum(row["damaged"] for row in state["containers"]) >= 3


def test_no_secret_is_in_any_log(far_host: ServingHost, elsewhere: Elsewhere) -> None:
    """Issue 5: a test greps for it. Runs last, over what all the faults have made the host say."""
    log = far_host.log.read_text()
    assert log
    for secret in (elsewhere.key, "bmV3LWtleQ==", "SharedKey", "sig="):
        assert secret not in log
