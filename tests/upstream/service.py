"""The blob service elsewhere: an embedded service behind the HTTPS front, in a process of its own.

Run as `python service.py STORE_DIR CERTIFICATE ACCOUNT KEY [PORT]`: it prints its URL, serves until its standard input
ends, and stops cleanly.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import sys
from pathlib import Path

from pvblob.blobs.service import EmbeddedService
from pvblob.front import HttpFront


async def serve(store_dir: Path, certificate: Path, account: str, key: str, port: int) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    accounts = {account: base64.b64decode(key)}
    with EmbeddedService(store_dir, durability="none") as service:
        front = HttpFront(service, "127.0.0.1", port, accounts=accounts, development_account=False, tls=tls)
        await front.start()
        sys.stdout.write(f"{front.url}\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await front.stop()


if __name__ == "__main__":
    store, certificate, account, key, *port = sys.argv[1:]
    asyncio.run(serve(Path(store), Path(certificate), account, key, int(port[0]) if port else 0))
