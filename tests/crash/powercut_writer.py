"""The workload of the power cut test; run under strace as `python powercut_writer.py STORE SNAPSHOTS SEED LIVES ACKS
DURABILITY`.

It starts one writer after the other on the same store, kills each with SIGKILL after so many acknowledged writes, and
copies the store then, as a check of the record. A writer says on standard output what it begins and what was
acknowledged, one line each: `begin NAME DIGEST GUID`, `done NAME DIGEST GUID ETAG`; a digest of `-` is a deletion.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

from pvblob.blobs.service import EmbeddedService
from pvblob.http import BytesBody, Fields, OnceKey, Request

WORKERS = 4
SEGMENT_BYTES = 128 << 10


def supervise(store: str, snapshots: Path, seed: int, lives: int, acks: int, durability: str) -> None:
    chance = random.Random(seed)
    for life in range(lives):
        command = [sys.executable, __file__, "writer", store, str(seed * 1000 + life), durability]
        done = 0
        target = chance.randrange(acks // 2, acks)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                done += line.startswith(b"done")
                if done == target:
                    time.sleep(chance.random() * 0.02)  # the end comes anywhere in a commit, not just after one
                    os.kill(writer.pid, signal.SIGKILL)
                    break
        assert writer.returncode == -signal.SIGKILL, writer.returncode
        snapshot = snapshots / str(life)
        shutil.copytree(Path(store).parent, snapshot)
        os.write(1, f"copied {snapshot}\n".encode())


class Writer:
    """One life: changes a few names at random, each change once-only, until it is killed."""

    def __init__(self, store: str, seed: int, durability: Literal["fsync", "none"]) -> None:
        self._chance = random.Random(seed)
        self._logs: dict[str, bytes] = {}
        self._service = EmbeddedService(Path(store), durability=durability, segment_bytes=SEGMENT_BYTES)
        self._service.open()
        assert self._service._writer is not None
        # Checkpoints are what a short run would not see.
        self._service._writer.execute("PRAGMA wal_autocheckpoint = 30")

    async def run(self) -> None:
        await self._send("PUT", "/con?restype=container")
        await asyncio.gather(*[self._work(number) for number in range(WORKERS)])

    async def _send(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        once: OnceKey | None = None,
        kind: str = "BlockBlob",
        snapshots: str = "include",
    ) -> str:
        fields = Fields([("x-ms-blob-type", kind), ("x-ms-delete-snapshots", snapshots)])
        request = Request(method, "https", "acct.blob.x", target, fields, once)
        response = await self._service.execute(request, BytesBody(body))
        assert response.status in (200, 201, 202, 404, 409), (method, target, response)
        return response.fields.get("etag") or "-"

    async def _work(self, number: int) -> None:
        while True:
            if self._chance.random() < 0.3:
                await self._log(f"w{number}-log")
            else:
                await self._change(f"w{number}-{self._chance.randrange(5)}")
            if self._chance.random() < 0.2:
                await self._snapshot(f"w{number}-{self._chance.choice(['0', '1', '2', 'log'])}")
            if self._chance.random() < 0.05:
                store = self._service._store
                assert store is not None
                await asyncio.to_thread(store.extents.punch_idle, 4096)

    async def _snapshot(self, name: str) -> None:
        """Let snapshots share a blob's runs, or end: the blob stays as it is, and nothing leaks."""
        if self._chance.random() < 0.7:
            await self._send("PUT", f"/con/{name}?comp=snapshot")
        else:
            await self._send("DELETE", f"/con/{name}", snapshots="only")

    async def _log(self, name: str) -> None:
        """Begin an append blob anew, or append to it."""
        chance, whole = self._chance, self._logs.get(name)
        guid = chance.randbytes(16)
        once = OnceKey("uid:0", bytes(16), guid, hashlib.sha256(guid).digest(), False)
        body = b"" if whole is None or chance.random() < 0.05 else chance.randbytes(chance.randrange(1, 5000))
        self._logs[name] = (whole or b"") + body if body else b""
        what = (name, hashlib.sha256(self._logs[name]).hexdigest(), guid.hex())
        say("begin", *what)
        if body:
            etag = await self._send("PUT", f"/con/{name}?comp=appendblock", body, once)
        else:
            etag = await self._send("PUT", f"/con/{name}", b"", once, "AppendBlob")
        say("done", *what, etag)

    async def _change(self, name: str) -> None:
        chance = self._chance
        guid = chance.randbytes(16)
        once = OnceKey("uid:0", bytes(16), guid, hashlib.sha256(guid).digest(), False)
        body = chance.randbytes(chance.randrange(1, chance.choice([600, 20_000, 60_000])))
        kind = chance.random()
        what = (name, "-" if kind < 0.15 else hashlib.sha256(body).hexdigest(), guid.hex())
        if kind < 0.15:
            say("begin", *what)
            etag = await self._send("DELETE", f"/con/{name}", once=once)
        elif kind < 0.75:
            say("begin", *what)
            etag = await self._send("PUT", f"/con/{name}", body, once)
        else:
            etag = await self._change_by_blocks(name, body, once, what)
        say("done", *what, etag)

    async def _change_by_blocks(self, name: str, body: bytes, once: OnceKey, what: tuple[str, ...]) -> str:
        half = len(body) // 2 or 1
        pieces = {"AAAA": body[:half], "BBBB": body[half:]} if len(body) > 1 else {"AAAA": body}
        for block, piece in pieces.items():
            await self._send("PUT", f"/con/{name}?comp=block&blockid={block}", piece)
        names = "".join(f"<Latest>{block}</Latest>" for block in pieces)
        say("begin", *what)
        return await self._send("PUT", f"/con/{name}?comp=blocklist", f"<BlockList>{names}</BlockList>".encode(), once)


def say(*words: str) -> None:
    """Write one line in one system call, which the record has in its place."""
    os.write(1, (" ".join(words) + "\n").encode())


if __name__ == "__main__":
    if sys.argv[1] == "writer":
        asyncio.run(Writer(sys.argv[2], int(sys.argv[3]), sys.argv[4]).run())  # type: ignore[arg-type]
    else:
        supervise(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
