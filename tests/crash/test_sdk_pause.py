"""Design rules 3 and 4: SDK programs see a host killed with SIGKILL as a pause, not as an error."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

from azure.storage.blob import BlobServiceClient
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

from pvblob.integrations.azure_core import AsyncPvblobTransport, PvblobTransport
from tests.crash.actors import AUTHORITY, start_host

URL = f"https://{AUTHORITY}"
KILLS = 3
BLOB_BYTES = 300_000


class Killer:
    """Kills the host and starts another on its store, again and again, on a thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.socket_path = str(directory / "bus.sock")
        self._host = start_host(directory / "store", self.socket_path)
        self.killed = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._host.end()

    def _run(self) -> None:
        for _ in range(KILLS):
            time.sleep(0.3)
            self._host.kill()
            self._host = start_host(self._directory / "store", self.socket_path)
            self.killed += 1


def body(turn: int) -> bytes:
    return bytes([turn % 251]) * BLOB_BYTES


def test_blocking_programs_see_a_pause(tmp_path: Path) -> None:
    """Every upload asks that the blob be new: executed twice, it would be refused."""
    with Killer(tmp_path) as killer:
        transport = PvblobTransport(killer.socket_path)
        with BlobServiceClient(URL, transport=transport, retry_total=0) as service:
            container = service.create_container("pause")
            turn = 0
            while killer.killed < KILLS or turn < 5:
                container.upload_blob(str(turn), body(turn), overwrite=False)
                assert container.download_blob(str(turn)).readall() == body(turn)
                turn += 1
            assert sorted(blob.name for blob in container.list_blobs()) == sorted(map(str, range(turn)))


async def test_asynchronous_programs_see_a_pause(tmp_path: Path) -> None:
    with Killer(tmp_path) as killer:
        transport = AsyncPvblobTransport(killer.socket_path)
        async with AsyncBlobServiceClient(URL, transport=transport, retry_total=0) as service:
            container = await service.create_container("pause")
            done: list[str] = []

            async def work(worker: int) -> None:
                turn = 0
                while killer.killed < KILLS or turn < 3:
                    name = f"{worker}-{turn}"
                    await container.upload_blob(name, body(turn), overwrite=False)
                    assert await (await container.download_blob(name)).readall() == body(turn)
                    done.append(name)
                    turn += 1

            await asyncio.gather(*(work(worker) for worker in range(3)))
            assert sorted([blob.name async for blob in container.list_blobs()]) == sorted(done)
