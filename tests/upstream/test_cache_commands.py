"""`pvblob cache stats|warm|drop` and the counters of accounts elsewhere, against a running host and a real service."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pvblob import Client
from pvblob.upstream.block_files import BLOCK_BYTES
from tests.end_to_end.serving import PVBLOB, Serving, pvblob
from tests.upstream.network import ProxyThread
from tests.upstream.proxy import Faults
from tests.upstream.world import ACCOUNT, Authority, Elsewhere, ServingHost, upstream_table

MIB = 1 << 20
CACHE_BYTES = 64 * MIB


@pytest.fixture(scope="module")
def host(module_dir: Path, elsewhere: Elsewhere, authority: Authority, between: ProxyThread) -> Iterator[ServingHost]:
    """A host that caches `kept/` below `shared`, and nothing else."""
    key_file = module_dir / "cache-key"
    key_file.write_text(elsewhere.key)
    endpoint = f"https://127.0.0.1:{between.proxy.listening_port}/{ACCOUNT}"
    top = f'cache_dir = "{module_dir / "blocks"}"\ncache_size = {CACHE_BYTES}\nmetrics = "127.0.0.1:0"\n'
    table = upstream_table(endpoint, authority.file, account_key_file=str(key_file))
    rule = '[[upstream.cache]]\ncontainer = "shared"\nprefix = "kept/"\nmode = "immutable"\n'
    made = ServingHost(module_dir / "cache-host", top + table + rule)
    made.start()
    yield made
    made.stop()


Ask = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cache(host: ServingHost, between: ProxyThread) -> Iterator[Ask]:
    """Run `pvblob cache …` at the host, whose cache is empty."""
    between.proxy.faults = Faults()

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return pvblob("cache", *arguments, "--socket", str(host.socket_path))

    assert ask("drop", "--all").returncode == 0
    yield ask
    between.proxy.faults = Faults()


@pytest.fixture
def client(host: ServingHost) -> Iterator[Client]:
    with Client.connect(str(host.socket_path), account=ACCOUNT) as made:
        made.create_container("shared", exist_ok=True)
        yield made


def stats(cache: Ask) -> dict[str, Any]:
    done = cache("stats", "--json")
    assert done.returncode == 0, done.stderr
    state: dict[str, Any] = json.loads(done.stdout)
    return state


def of_container(state: dict[str, Any], name: str = "shared") -> dict[str, Any]:
    rows = [row for row in state["containers"] if row["container"] == name]
    return rows[0] if rows else dict.fromkeys(("blocks", "hits", "misses", "admitted", "dropped", "size_bytes"), 0)


def test_what_was_warmed_is_read_without_the_network(cache: Ask, client: Client, between: ProxyThread) -> None:
    """Issue 5: `pvblob cache warm`."""
    data = {f"kept/warm/{number}": os.urandom(5 * MIB + number) for number in range(3)}
    for name, content in data.items():
        client.put("shared", name, content)
    done = cache("warm", "shared/kept/warm/", "--json")
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert {blob["blob"]: blob["size_bytes"] for blob in told} == {name: len(data[name]) for name in data}
    assert not any(blob["skipped"] or blob["had_bytes"] for blob in told)
    before = between.proxy.bytes_down
    for name, content in data.items():
        assert client.get("shared", name) == content
    assert between.proxy.bytes_down - before < 100_000
    again = cache("warm", f"https://{ACCOUNT}.blob.core.windows.net/shared/kept/warm/")
    assert again.returncode == 0, again.stderr
    assert again.stdout == "shared/kept/warm/: 3 blobs, 0 B fetched, 15.0 MiB were there\n"


def test_what_cannot_be_cached_is_skipped_and_said(cache: Ask, client: Client) -> None:
    client.put("shared", "kept/skip/empty", b"")
    client.put("shared", "kept/skip/fine", b"x")
    client.put("shared", "ke", b"outside of the rule")
    done = cache("warm", "shared/ke")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "skipped shared/ke: no [[upstream.cache]] table is about it" in lines
    assert "skipped shared/kept/skip/empty: it is empty" in lines
    assert lines[-1].endswith(" 2 skipped")
    assert client.get("shared", "kept/skip/fine") == b"x"


def test_more_than_the_cache_holds_is_not_fetched(cache: Ask, client: Client) -> None:
    for number in range(3):
        client.put("shared", f"kept/much/{number}", b"m" * (CACHE_BYTES * 2 // 5))
    done = cache("warm", "shared/kept/much/")
    assert done.returncode == 1
    assert "skipped shared/kept/much/2: cache_size has no room" in done.stdout
    state = stats(cache)
    assert CACHE_BYTES * 4 // 5 <= state["size_bytes"] <= CACHE_BYTES
    for number in range(3):
        client.delete("shared", f"kept/much/{number}")


def test_stats_count_hits_misses_joins_and_what_each_guest_holds(cache: Ask, client: Client) -> None:
    before = of_container(stats(cache))
    data = os.urandom(BLOCK_BYTES + 10)
    client.put("shared", "kept/counted", data)
    assert client.get("shared", "kept/counted") == data
    assert client.get("shared", "kept/counted") == data
    state = stats(cache)
    row = of_container(state)
    grown = {name: row[name] - before[name] for name in ("hits", "misses", "admitted")}
    assert grown == {"hits": 2, "misses": 2, "admitted": 2}
    assert row["blocks"] == 2
    assert len(data) < row["size_bytes"] == state["size_bytes"] < len(data) + 1000
    assert state["size_bytes_max"] == CACHE_BYTES
    assert state["guest_bytes_max"] == CACHE_BYTES // 4
    assert state["guests"] == [{"guest": f"uid:{os.geteuid()}", "blocks": 2, "size_bytes": state["size_bytes"]}]
    assert state["rules"] == [{"account": ACCOUNT, "container": "shared", "prefix": "kept/", "mode": "immutable"}]
    table = cache("stats")
    assert table.returncode == 0, table.stderr
    for text in ("of 64.0 MiB", "2 blocks", f"{ACCOUNT}/shared", f"uid:{os.geteuid()}", "16.0 MiB"):
        assert text in table.stdout
    assert " misses " in table.stdout, "headings are whole on a terminal of 80 columns"
    assert "damaged" not in table.stdout, "what is nought everywhere is left out"


@pytest.mark.parametrize(
    ("place", "left"),
    [("shared/kept/d/one", {"kept/d/one2", "kept/e"}), ("shared/kept/d/", {"kept/e"}), ("shared", set())],
)
def test_drop_takes_a_blob_a_prefix_or_a_container(
    place: str, left: set[str], cache: Ask, client: Client, between: ProxyThread
) -> None:
    names = {"kept/d/one", "kept/d/one2", "kept/e"}
    for name in names:
        client.put("shared", name, os.urandom(200_000))
    for _ in range(5):  # often enough that the data plane answers by itself
        for name in names:
            client.get("shared", name)
    done = cache("drop", place, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["blocks"] == len(names - left)
    for name in names:
        before = between.proxy.bytes_down
        client.get("shared", name)
        assert (between.proxy.bytes_down - before > 200_000) == (name not in left), name


def test_ctrl_c_ends_the_warming_and_keeps_what_came(
    cache: Ask, client: Client, host: ServingHost, between: ProxyThread
) -> None:
    client.put("shared", "kept/slow", os.urandom(40 * MIB))
    between.proxy.faults = Faults(drip_bytes_per_s=8_000_000)
    command = [*PVBLOB, "cache", "warm", "shared/kept/slow", "--parallel", "2", "--socket", str(host.socket_path)]
    before = of_container(stats(cache))["admitted"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while (admitted := of_container(stats(cache))["admitted"]) < before + 2:
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")
    connections = {"connections_open": 1, "connections_idle": 0}
    deadline_s = time.monotonic() + 20
    while connections["connections_open"] != connections["connections_idle"]:
        assert time.monotonic() < deadline_s, "the host goes on fetching for nobody"
        state = json.loads(pvblob("status", "--json", "--socket", str(host.socket_path)).stdout)
        connections = state["upstream"][0]
    kept = of_container(stats(cache))["blocks"]
    assert admitted - before <= kept < 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("warm", "elsewhere"), "elsewhere/ of account elsewhere1 is not cached; cached: shared/kept/"),
        (("drop", "shared/other/"), None),
        (("drop", "elsewhere"), "elsewhere/ of account elsewhere1 is not cached; cached: shared/kept/"),
        (("warm", "pvblob://contoso/shared"), "account contoso is not cached on this host; cached: elsewhere1"),
        (("warm", "https://c.blob.core.windows.net/x?sig=secret"), "leave the query out"),
        (("warm", "https://c.blob.core.windows.net/"), "names no container"),
        (("drop",), "name what to drop, or say --all"),
        (("drop", "shared", "--all"), "name what to drop, or say --all"),
    ],
)
def test_what_is_not_cached_is_said_in_one_line(
    arguments: tuple[str, ...], said: str | None, cache: Ask, client: Client
) -> None:
    client.put("shared", "kept/held", b"held")
    client.get("shared", "kept/held")
    done = cache(*arguments)
    if said is None:  # something of the container is held, so it is known
        assert (done.returncode, done.stdout) == (0, "dropped 0 blocks, 0 B\n")
        return
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


def test_a_host_without_a_cache_says_how_to_get_one(tmp_path: Path) -> None:
    with Serving(tmp_path) as serving:
        for arguments in (("stats",), ("warm", "box"), ("drop", "--all")):
            done = pvblob("cache", *arguments, "--socket", serving.socket)
            assert done.returncode == 1
            assert (
                done.stderr == "pvblob: this host has no cache: set cache_dir, and [[upstream.cache]] of an account\n"
            )
    done = pvblob("cache", "drop", "--all", "--socket", serving.socket)
    assert done.returncode == 2
    assert "start one with `pvblob serve`" in done.stderr


def test_a_peer_that_says_nonsense_to_the_admin_socket_is_answered(host: ServingHost) -> None:
    path = host.socket_path.with_suffix(".d") / "admin.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    for line in (b"nonsense\n", b"[]\n", b'{"command": "cache.burn"}\n', b"x" * 70_000 + b"\n"):
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(path))
            asking.sendall(line)
            with asking.makefile("rb") as answer:
                said = answer.read()
        assert not said or b"does not know that command" in said
    assert pvblob("cache", "stats", "--socket", str(host.socket_path)).returncode == 0


def test_help_has_examples() -> None:
    for arguments in ((), ("stats",), ("warm",), ("drop",)):
        done = pvblob("cache", *arguments, "--help")
        assert done.returncode == 0
        assert "Examples:" in done.stdout
        assert "pvblob cache" in done.stdout


def test_status_and_metrics_count_what_goes_on_with_an_account(cache: Ask, client: Client, host: ServingHost) -> None:
    """Issue 5: upstream counters, per account."""

    def counters() -> dict[str, Any]:
        (account,) = json.loads(pvblob("status", "--json", "--socket", str(host.socket_path)).stdout)["upstream"]
        return dict(account)

    before = counters()
    data = os.urandom(300_000)
    client.put("shared", "kept/metered", data)
    for _ in range(2):
        client.get("shared", "kept/metered")
    after = counters()
    assert after["account"] == ACCOUNT
    assert after["connections_open"] >= after["connections_idle"] >= 1
    grown = {name: after[name] - before[name] for name in after if isinstance(after[name], int)}
    assert grown["bytes_sent"] == len(data)
    assert len(data) < grown["bytes_received"] < len(data) + 1000
    assert grown["requests"] >= 3
    assert (grown["throttled"], grown["gave_up"]) == (0, 0)
    assert (grown["cache_hits"], grown["cache_misses"], grown["cache_hit_bytes"]) == (1, 1, len(data))
    shown = pvblob("status", "--socket", str(host.socket_path)).stdout
    assert "Accounts elsewhere" in shown
    assert "connections_idle" in shown
    with urllib.request.urlopen(str(host.ready["metrics"]), timeout=30) as answer:
        text = answer.read().decode()
    assert f'pvblob_upstream_bytes_sent_total{{account="{ACCOUNT}"}}' in text
    assert f'pvblob_upstream_connections_open{{account="{ACCOUNT}"}}' in text
