"""A host of its own: the embedded service behind the HTTP front, in the process a test starts.

Run as `python host.py STORE_DIR`: it prints its URL, serves until its standard input ends, and stops cleanly.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pvblob.blobs.service import EmbeddedService
from pvblob.front import HttpFront


async def serve(store_dir: Path) -> None:
    with EmbeddedService(store_dir, durability="none") as service:
        front = HttpFront(service, "127.0.0.1", 0)
        await front.start()
        sys.stdout.write(f"{front.url}\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await front.stop()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
