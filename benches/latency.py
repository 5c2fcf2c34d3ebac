"""Small reads through the channel: p50, p99 and requests per second for some numbers of clients, polling on and off.

A host on a store in memory, one blob, clients as processes of their own that start together. One in flight is
`read_into`, more are `read_many`; latency with more is the time between two results of one client. Rows are interleaved
over the repeats, and each cell is the median of them.

    .venv/bin/python benches/latency.py --clients 1,8 --in-flight 1,16 --seconds 1 --json latency.json
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter_ns

from pvblob import Client, HostUnavailable

CONTAINER, BLOB = "bench", "blob"
BLOB_BYTES = 64 << 20
RESULT = struct.Struct("<QQddd")
LATENCIES_MAX = 20_000


@dataclass(frozen=True)
class Row:
    """One measured cell. client_cpu_us, host_cpu_us: processor time per request."""

    polling: bool
    clients: int
    in_flight: int
    block_bytes: int
    p50_us: float
    p99_us: float
    requests_per_s: float
    gib_per_s: float
    client_cpu_us: float
    host_cpu_us: float


@contextlib.contextmanager
def host(folder: Path, *, polling: bool) -> Iterator[tuple[int, str]]:
    """Run `pvblob serve`; yield its pid and its socket."""
    socket = str(folder / f"bus-{polling}.sock")
    pvblob = Path(sys.executable).with_name("pvblob")
    command = [str(pvblob), "serve", "--socket", socket, "--store", str(folder / f"{polling}")]
    command += ["--durability", "none", "--polling" if polling else "--no-polling"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(HostUnavailable), Client.connect(socket) as client:
                client.create_container(CONTAINER)
                client.put(CONTAINER, BLOB, random.randbytes(BLOB_BYTES))
                break
            time.sleep(0.05)
        yield process.pid, socket
    finally:
        process.terminate()
        process.wait()


def host_cpu_s(pid: int) -> float:
    """Return the processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def one_at_a_time(client: Client, block_bytes: int, seconds: float) -> list[int]:
    """Read again and again; return each read's time in nanoseconds."""
    out, times = bytearray(block_bytes), []
    offsets = itertools.cycle(random.sample(range(0, BLOB_BYTES - block_bytes, 4096), 1000))
    end = perf_counter_ns() + int(seconds * 1e9)
    before = perf_counter_ns()
    for offset in offsets:
        client.read_into(CONTAINER, BLOB, out, offset)
        now = perf_counter_ns()
        times.append(now - before)
        if now >= end:
            return times
        before = now
    return times


def many(client: Client, block_bytes: int, in_flight: int, seconds: float) -> list[int]:
    """Keep *in_flight* reads under way; return the times between results in nanoseconds."""
    buffers = itertools.cycle([bytearray(block_bytes) for _ in range(2 * in_flight)])
    offsets = itertools.cycle(random.sample(range(0, BLOB_BYTES - block_bytes, 4096), 1000))
    end = perf_counter_ns() + int(seconds * 1e9)
    reads = ((BLOB, offset, buffer) for offset, buffer in zip(offsets, buffers, strict=False))
    times, before = [], perf_counter_ns()
    for done in client.read_many(CONTAINER, reads, in_flight=in_flight):
        if done.error is not None:
            raise done.error
        now = perf_counter_ns()
        times.append(now - before)
        if now >= end:
            return times
        before = now
    return times


def run_client(socket: str, block_bytes: int, in_flight: int, seconds: float, ready: int, go: int, out: int) -> None:
    """Be one client: say that it is ready, wait for the start, measure, write the result."""
    with Client.connect(socket) as client:
        for _ in range(4):
            client.read_into(CONTAINER, BLOB, bytearray(block_bytes))
        list(client.read_many(CONTAINER, [(BLOB, 0, bytearray(block_bytes))] * 4))
        os.write(ready, b"r")
        os.read(go, 1)
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        if in_flight == 1:
            times = one_at_a_time(client, block_bytes, seconds)
        else:
            times = many(client, block_bytes, in_flight, seconds)
        took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    times_sorted = sorted(times)
    kept = times_sorted[:: max(1, len(times) // LATENCIES_MAX)]
    head = RESULT.pack(len(times), len(kept), took, cpu_s, 0.0)
    with os.fdopen(out, "wb") as file:
        file.write(head + struct.pack(f"<{len(kept)}Q", *kept))


def start(arguments: tuple[str, int, int, float], ready: int, go: int) -> tuple[int, int]:
    """Fork a client; return its pid and the descriptor its result comes by."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            run_client(*arguments, ready, go, writer)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    return pid, reader


def measure(pid: int, socket: str, polling: bool, clients: int, in_flight: int, block_bytes: int, s: float) -> Row:
    """Let *clients* processes read for *s* seconds; return the row."""
    (ready_reader, ready_writer), (go_reader, go_writer) = os.pipe(), os.pipe()
    arguments = (socket, block_bytes, in_flight, s)
    children = [start(arguments, ready_writer, go_reader) for _ in range(clients)]
    waiting = clients
    while waiting:
        waiting -= len(os.read(ready_reader, waiting))
    cpu_before = host_cpu_s(pid)
    os.write(go_writer, b"g" * clients)
    results = []
    for child, reader in children:
        with os.fdopen(reader, "rb") as file:
            results.append(file.read())
        os.waitpid(child, 0)
    cpu_s = host_cpu_s(pid) - cpu_before
    for descriptor in (ready_reader, ready_writer, go_reader, go_writer):
        os.close(descriptor)
    heads = [RESULT.unpack_from(result) for result in results]
    times = sorted(itertools.chain(*(struct.iter_unpack("<Q", result[RESULT.size :]) for result in results)))
    requests = sum(head[0] for head in heads)
    rate = sum(head[0] / head[2] for head in heads)
    p50, p99 = times[len(times) // 2][0] / 1000, times[len(times) * 99 // 100][0] / 1000
    client_us = sum(head[3] for head in heads) / requests * 1e6
    gib_per_s = rate * block_bytes / (1 << 30)
    return Row(polling, clients, in_flight, block_bytes, p50, p99, rate, gib_per_s, client_us, cpu_s / requests * 1e6)


def median(rows: list[Row]) -> Row:
    """Return the row of medians over repeats of one cell."""
    middle = {
        name: statistics.median(getattr(row, name) for row in rows)
        for name in ("p50_us", "p99_us", "requests_per_s", "gib_per_s", "client_cpu_us", "host_cpu_us")
    }
    return Row(**{**asdict(rows[0]), **middle})


def numbers(text: str) -> list[int]:
    """Parse `1,8,100`."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=numbers, default=[1, 2, 8, 100], help="numbers of clients (1,2,8,100)")
    parser.add_argument("--in-flight", type=numbers, default=[1, 16], help="reads under way per client (1,16)")
    parser.add_argument("--bytes", type=int, default=4096, help="bytes per read (4096)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each measurement (1)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each cell, interleaved (3)")
    parser.add_argument("--polling", choices=["on", "off", "both"], default="both")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as well")
    options = parser.parse_args()
    modes = {"on": [True], "off": [False], "both": [True, False]}[options.polling]
    cells: dict[tuple[bool, int, int], list[Row]] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, contextlib.ExitStack() as stack:
        hosts = {mode: stack.enter_context(host(Path(folder), polling=mode)) for mode in modes}
        for _ in range(options.repeats):
            for clients, in_flight, mode in itertools.product(options.clients, options.in_flight, modes):
                row = measure(*hosts[mode], mode, clients, in_flight, options.bytes, options.seconds)
                cells.setdefault((mode, clients, in_flight), []).append(row)
    rows = [median(cell) for cell in cells.values()]
    sys.stdout.write("polling clients in-flight     p50 µs     p99 µs    req/s   GiB/s  CPU µs/req client + host\n")
    for row in rows:
        sys.stdout.write(
            f"{'on' if row.polling else 'off':7} {row.clients:7} {row.in_flight:9} {row.p50_us:10.1f} "
            f"{row.p99_us:10.1f} {row.requests_per_s:8.0f} {row.gib_per_s:7.2f}  {row.client_cpu_us:.1f} + "
            f"{row.host_cpu_us:.1f}\n"
        )
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
