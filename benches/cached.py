"""Measures the shared cache: hits beside the embedded store, sequential readers with and without read-ahead.

    python benches/cached.py hits          cached blobs beside embedded ones, of one host, in turns
    python benches/cached.py read-ahead    a cold blob read in order, 5 ms away each way over TLS, two hosts in turns

It starts what it needs in a temporary directory (`pvblob-network` of `make bench`, or cargo build --release -p limit).
Every byte is compared after the clock has stopped. Printed are the best and the median of the rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from pvblob import Client
from pvblob.cli.fleet import elsewhere as fleet
from pvblob.cli.fleet.workers.account import ACCOUNT, KEY

MIB = 1 << 20
ELSEWHERE = "elsewhere1"
BLOB_BYTES = 96 * MIB
HITS = ((4 * MIB, 12), (4096, 2000))
SEQUENTIAL = (4 * MIB, 256 << 10)
ROUNDS = 5


def serve(stack: ExitStack, directory: Path, name: str, settings: str) -> dict[str, str]:
    """Run a host until *stack* ends; return what it announced."""
    config = directory / f"{name}.toml"
    head = f'socket = "{directory / name}.sock"\nstore = "{directory / name}.store"\ndurability = "none"\n'
    config.write_text(head + settings)
    command = [sys.executable, "-m", "pvblob.cli.app", "serve", "--json", "--config", str(config)]
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(process.terminate)
    assert process.stdout is not None
    ready: dict[str, str] = json.loads(process.stdout.readline())
    return ready


def upstream(directory: Path, name: str, port: int, *, read_ahead: bool) -> str:
    """Return the settings of a host that caches everything of the account behind *port*."""
    key = directory / "key"
    key.write_text(KEY, "ascii")
    return (
        f'cache_dir = "{directory / name}.cache"\n[[upstream]]\naccount = "{ACCOUNT}"\n'
        f'account_key_file = "{key}"\nendpoint = "https://127.0.0.1:{port}/{ACCOUNT}"\n'
        f'ca_file = "{directory / "authority.pem"}"\nread_ahead = {str(read_ahead).lower()}\n'
        '[[upstream.cache]]\ncontainer = "bench"\nmode = "immutable"\n'
    )


def service(stack: ExitStack, directory: Path, data: bytes) -> int:
    """Run the service elsewhere with one blob, and the network to it; return the network's port."""
    _, certificate, key = fleet._certificates(directory)
    tls = f'http = "127.0.0.1:0"\nhttp_certificate = "{certificate}"\nhttp_key = "{key}"\n'
    ready = serve(stack, directory, "service", tls)
    with Client.connect(ready["socket"]) as client:
        client.create_container("bench")
        client.put("bench", "blob", data)
    return stack.enter_context(fleet._network(int(ready["http"].rpartition(":")[2]))).port


def read(client: Client, part: int, count: int, into: bytearray) -> float:
    """Read *count* parts in order; return the MiB/s."""
    began_s = time.perf_counter()
    for number in range(count):
        offset = number * part % (BLOB_BYTES - part + 1)
        client.read_into("bench", "blob", memoryview(into)[:part], offset=offset)
    return part * count / MIB / (time.perf_counter() - began_s)


def say(what: str, part: int, rates: list[float]) -> None:
    """Print one line of results."""
    best, median = max(rates), statistics.median(rates)
    sys.stdout.write(f"{what:<24} {part >> 10:>5} KiB  best {best:>8.1f} MiB/s  median {median:>8.1f} MiB/s\n")
    sys.stdout.flush()


def hits(stack: ExitStack, directory: Path, data: bytes) -> None:
    """Read a cached blob and an embedded one of the same bytes in turns: hits of the data plane both."""
    port = service(stack, directory, data)
    cached = serve(stack, directory, "cached", upstream(directory, "cached", port, read_ahead=True))
    local = serve(stack, directory, "local", "")
    into = bytearray(4 * MIB)
    clients = {}
    for name, ready in (("cache", cached), ("embedded store", local)):
        clients[name] = stack.enter_context(Client.connect(ready["socket"]))
    clients["embedded store"].create_container("bench")
    clients["embedded store"].put("bench", "blob", data)
    for client in clients.values():
        assert client.get("bench", "blob") == data
    for part, count in HITS:
        rates: dict[str, list[float]] = {name: [] for name in clients}
        for _ in range(2 * ROUNDS):
            for name, client in clients.items():
                rates[name].append(read(client, part, count, into))
        for name in clients:
            say(f"hits, {name}", part, rates[name])
    client = clients["cache"]
    client.read_into("bench", "blob", into, offset=8 * MIB)
    assert into == data[8 * MIB : 12 * MIB]


def read_ahead(stack: ExitStack, directory: Path, data: bytes) -> None:
    """Read a blob in order through an empty cache, with and without read-ahead in turns."""
    port = service(stack, directory, data)
    sockets = {}
    for name, wanted in (("with", True), ("without", False)):
        settings = upstream(directory, name, port, read_ahead=wanted)
        sockets[name] = serve(stack, directory, name, settings)["socket"]
    into = bytearray(4 * MIB)
    for part in SEQUENTIAL:
        rates: dict[str, list[float]] = {name: [] for name in sockets}
        for _ in range(ROUNDS):
            for name, socket in sockets.items():
                command = [sys.executable, "-m", "pvblob.cli.app", "cache", "drop", "--all", "--socket", socket]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                with Client.connect(socket) as client:
                    rates[name].append(read(client, part, BLOB_BYTES // part, into))
                    assert into[:part] == data[-part:]
        for name in sockets:
            say(f"sequential, {name}", part, rates[name])


def main() -> None:
    """Run the measurement that the command line names."""
    measures = {"hits": hits, "read-ahead": read_ahead}
    if len(sys.argv) != 2 or sys.argv[1] not in measures:
        sys.exit(__doc__)
    if fleet.network_program() is None:
        sys.exit("pvblob-network is missing: cargo build --release -p limit")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        measures[sys.argv[1]](stack, Path(directory), os.urandom(BLOB_BYTES))


if __name__ == "__main__":
    main()
