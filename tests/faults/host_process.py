"""A host to be attacked: the real one, in a process of its own, that tells how much of everything it holds.

Run as `python -m tests.faults.host_process SOCKET STORE_DIR`. Each line on standard input is answered by one line of
JSON on standard output; the end of the input stops the host. Requests to `/wait/…` wait until they are cancelled.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from pvblob.blobs.service import EmbeddedService
from pvblob.http import Body, Request, Response
from pvblob.vsp.host import Host

WORKERS = 2
LENT_BYTES_MAX = 256 << 20


class Waiting:
    """The embedded service, but `/wait/…` never answers."""

    def __init__(self, service: EmbeddedService) -> None:
        self.service = service
        self.waiting = 0

    async def execute(self, request: Request, body: Body) -> Response:
        if not request.target.startswith("/wait/"):
            return await self.service.execute(request, body)
        self.waiting += 1
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.waiting -= 1
        raise AssertionError("nobody answers it")


def holdings(host: Host, backend: Waiting) -> dict[str, int]:
    """Count what the host holds for its guests."""
    dispatcher = host.dispatcher
    contexts = list(dispatcher._guests.values())
    store = backend.service._store
    assert store is not None
    return {
        "guests": host.guests,
        "channels": len(contexts),
        "requests": len(dispatcher._running),
        "waiting": backend.waiting,
        "answers_kept": sum(len(context.continuations._kept) for context in contexts),
        "uploads": sum(len(context.continuations._uploads) for context in contexts),
        "pins": sum(store.extents._pins.values()),
        "tasks": len(asyncio.all_tasks()),
        "closing": host._disposal.waiting + host._unmapping.waiting,
        "closers": host._disposal._threads + host._unmapping._threads,
    }


def fill(executor: ThreadPoolExecutor, threads: int) -> None:
    """Make a pool start all its threads now, so that their number says something later."""
    barrier = threading.Barrier(threads)
    wait([executor.submit(barrier.wait) for _ in range(threads)])


async def serve(socket_path: Path, store_dir: Path) -> None:
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(WORKERS)
    fill(pool, WORKERS)
    loop.set_default_executor(pool)
    with EmbeddedService(store_dir, durability="none") as service:
        backend = Waiting(service)
        async with Host(
            backend, socket_path, timeout_s_max=30.0, lent_bytes_max=LENT_BYTES_MAX, workers=WORKERS
        ) as host:
            fill(host._executor, WORKERS)
            reader = asyncio.StreamReader()
            transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            while await reader.readline():
                sys.stdout.write(json.dumps(holdings(host, backend)) + "\n")
                sys.stdout.flush()
            transport.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
