"""kill -9 while writing: every acknowledged write reads back, nothing half-written is seen. Source: design rule 9."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pvblob.blobs.service import EmbeddedService

WRITER = """
import asyncio, hashlib, random, sys
from pathlib import Path
from pvblob.blobs.service import EmbeddedService
from pvblob.http import BytesBody, Fields, Request

async def main(store, seed, durability):
    chance = random.Random(seed)
    service = EmbeddedService(Path(store), durability=durability, segment_bytes=1 << 20)
    service.open()

    async def send(method, target, body=b"", **fields):
        fields = {"x-ms-blob-type": "BlockBlob", **fields}
        request = Request(method, "https", "acct.blob.x", target, Fields(fields.items()))
        return (await service.execute(request, BytesBody(body))).status

    async def log(number, body):
        name, kind = f"w{number}-log", {"x-ms-blob-type": "AppendBlob"}
        if number not in logs:
            logs[number], body = b"", b""
        logs[number] += body
        print("begin", name, hashlib.sha256(logs[number]).hexdigest(), flush=True)
        target = f"/con/{name}?comp=appendblock" if body else f"/con/{name}"
        assert await send("PUT", target, body, **kind) == 201
        print("done", name, hashlib.sha256(logs[number]).hexdigest(), flush=True)

    logs = {}

    async def worker(number):
        while True:
            name = f"w{number}-{chance.randrange(6)}"
            body = chance.randbytes(chance.randrange(1, 60_000))
            kind = chance.random()
            if not 0.6 <= kind < 0.7:
                print("begin", name, hashlib.sha256(body).hexdigest(), flush=True)
            if kind < 0.6:
                assert await send("PUT", f"/con/{name}", body) == 201
            elif kind < 0.7:
                await log(number, body)
                continue
            elif kind < 0.85:
                half = len(body) // 2 or 1
                ids = ["AAAA", "BBBB"] if len(body) > 1 else ["AAAA"]
                for block, piece in zip(ids, (body[:half], body[half:])):
                    assert await send("PUT", f"/con/{name}?comp=block&blockid={block}", piece) == 201
                xml = "<BlockList>" + "".join(f"<Latest>{i}</Latest>" for i in ids) + "</BlockList>"
                assert await send("PUT", f"/con/{name}?comp=blocklist", xml.encode()) == 201
            else:
                print("begin", name, "-", flush=True)
                assert await send("DELETE", f"/con/{name}") in (202, 404)
                print("done", name, "-", flush=True)
                continue
            print("done", name, hashlib.sha256(body).hexdigest(), flush=True)

    await send("PUT", "/con?restype=container")
    await asyncio.gather(*[worker(number) for number in range(4)])

asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
"""


def run_and_kill(store: Path, seed: int, durability: str, acknowledged: int) -> list[tuple[str, str, str]]:
    """Run the writer until it has acknowledged so many writes, kill it, return its log."""
    command = [sys.executable, "-c", WRITER, str(store), str(seed), durability]
    log: list[tuple[str, str, str]] = []
    done = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            words = line.split()
            if len(words) != 3 or not line.endswith("\n"):
                break
            log.append((words[0], words[1], words[2]))
            done += words[0] == "done"
            if done == acknowledged:
                os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return log


def allowed_states(log: list[tuple[str, str, str]], before: dict[str, set[str]]) -> dict[str, set[str]]:
    """Per blob, the contents it may have: the last acknowledged one, or one that was under way after it."""
    states = {name: set(digests) for name, digests in before.items()}
    for event, name, digest in log:
        if event == "done":
            states[name] = {digest}
        else:
            states.setdefault(name, {"-"}).add(digest)
    return states


@pytest.mark.long
@pytest.mark.parametrize(("seed", "durability"), [(1, "fsync"), (2, "fsync"), (3, "none")])
def test_every_acknowledged_write_survives_kill_9(tmp_path, seed, durability):
    chance = random.Random(seed)
    store = tmp_path / "store"
    known: dict[str, set[str]] = {}
    for round_number in range(4):
        log = run_and_kill(store, seed * 100 + round_number, durability, chance.randrange(1, 150))
        states = allowed_states(log, known)
        found = asyncio.run(read_all(store, sorted(states)))
        for name, digest in found.items():
            assert digest in states[name], f"round {round_number}: {name}"
        known = {name: {digest} for name, digest in found.items()}


async def read_all(store: Path, names: list[str]) -> dict[str, str]:
    """Open the store as a host would after the crash and hash every blob; "-": it does not exist."""
    from pvblob.http import BytesBody, Fields, FileContent, Request

    found: dict[str, str] = {}
    with EmbeddedService(store) as service:
        for name in names:
            request = Request("GET", "https", "acct.blob.x", f"/con/{name}", Fields())
            response = await service.execute(request, BytesBody())
            if response.status == 404:
                found[name] = "-"
                continue
            content = response.content
            if content == b"":  # an append blob that is empty yet
                found[name] = hashlib.sha256().hexdigest()
                continue
            assert isinstance(content, FileContent)
            body = b"".join(os.pread(e.fd, e.length, e.offset) for e in content.extents)
            content.release()
            found[name] = hashlib.sha256(body).hexdigest()
    return found
