"""A host of its own: the embedded service behind the channel, in the process a test starts.

Run as `python channel_host.py STORE_DIR SOCKET_PATH`: it prints one line when it listens, serves until its standard
input ends, and stops cleanly.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pvblob.blobs.service import EmbeddedService
from pvblob.vsp.host import Host


async def serve(store_dir: Path, socket_path: Path) -> None:
    with EmbeddedService(store_dir, durability="none") as service:
        async with Host(service, socket_path):
            sys.stdout.write("listening\n")
            sys.stdout.flush()
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
