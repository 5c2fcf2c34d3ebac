"""Unmodified azure-storage-blob programs give the right answers over the channel, from a host process of its own.

The programs and what they must return are those of tests/end_to_end, where they run over HTTP.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ServiceRequestError
from azure.core.rest import HttpRequest
from azure.storage.blob import BlobServiceClient
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

from pvblob.integrations.azure_core import AsyncPvblobTransport, PvblobTransport
from tests.end_to_end.all_programs import ASYNC_PROGRAMS, PROGRAMS
from tests.end_to_end.programs import Program

MIB = 1 << 20
URLS = {
    "account in the host name": "https://devstoreaccount1.blob.core.windows.net",
    "account in the path": "http://127.0.0.1:10000/devstoreaccount1",
}


class HostProcess:
    """A host that can be stopped and started again on the same store and socket."""

    def __init__(self, directory: Path) -> None:
        self.socket_path = directory / "bus.sock"
        self._store_dir = directory / "store"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        script = Path(__file__).with_name("channel_host.py")
        command = [sys.executable, "-W", "error", str(script), str(self._store_dir), str(self.socket_path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "listening\n", "the host did not start"

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.communicate(timeout=30)
            assert process.returncode == 0


@pytest.fixture(scope="module")
def host_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    started = HostProcess(tmp_path_factory.mktemp("host"))
    started.start()
    yield started
    started.stop()


@pytest.fixture
def restartable(tmp_path: Path) -> Iterator[HostProcess]:
    started = HostProcess(tmp_path)
    started.start()
    yield started
    started.stop()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_sync_program_gives_its_value_over_the_channel(
    host_process: HostProcess, program: Program, tmp_path: Path
) -> None:
    transport = PvblobTransport(str(host_process.socket_path))
    with BlobServiceClient(
        URLS["account in the host name"], transport=transport, retry_total=0, **program.client_options
    ) as service:
        assert program.run(service, tmp_path) == program.expected


@pytest.mark.parametrize("program", ASYNC_PROGRAMS, ids=lambda program: program.name)
async def test_an_async_program_gives_its_value_over_the_channel(
    host_process: HostProcess, program: Program, tmp_path: Path
) -> None:
    transport = AsyncPvblobTransport(str(host_process.socket_path))
    async with AsyncBlobServiceClient(
        URLS["account in the host name"], transport=transport, retry_total=0, **program.client_options
    ) as service:
        assert await program.run(service, tmp_path) == program.expected


def client_of(socket_path: Path | str | None, url: str = URLS["account in the host name"], **options: Any) -> Any:
    transport = PvblobTransport(None if socket_path is None else str(socket_path))
    return BlobServiceClient(url, transport=transport, **{"retry_total": 0, **options})


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_the_environment_names_the_host_and_the_url_the_account(
    url: str, host_process: HostProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PVBLOB_SOCKET", str(host_process.socket_path))
    with client_of(None, url) as service:
        container = service.get_container_client("same")
        if not container.exists():
            container.create_container()
        container.upload_blob("b", b"content", overwrite=True)
    with client_of(None) as service:
        assert service.get_blob_client("same", "b").download_blob().readall() == b"content"


def test_without_a_host_the_error_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with (
        pytest.raises(ServiceRequestError, match=str(tmp_path / "none.sock")),
        client_of(tmp_path / "none.sock") as service,
    ):
        service.get_service_properties()


def test_dropped_downloads_give_their_pages_back(host_process: HostProcess) -> None:
    """Nothing depends on when a program drops its responses: content is private bytes."""
    service = client_of(host_process.socket_path)
    container = service.create_container("dropped")
    container.upload_blob("b", os.urandom(8 * MIB))
    device = service._pipeline._transport._exchange.device()
    kept = [container.download_blob("b")]
    settled = device.current().memory.usage()
    kept += [container.download_blob("b") for _ in range(20)]
    assert device.current().memory.usage() == settled
    service.close()


def test_eight_threads_download_over_one_channel(host_process: HostProcess) -> None:
    data = os.urandom(24 * MIB + 1)
    with client_of(host_process.socket_path, max_single_get_size=MIB, max_chunk_get_size=MIB) as service:
        container = service.create_container("threads")
        container.upload_blob("b", data)
        assert container.download_blob("b", max_concurrency=8).readall() == data


def _read_in_child(transport: Any, sent: Any) -> None:
    service = BlobServiceClient(URLS["account in the host name"], transport=transport, retry_total=0)
    sent.put(service.get_blob_client("forked", "b").download_blob().readall())


def test_a_forked_child_uses_the_transport_it_inherited(host_process: HostProcess) -> None:
    """Design rule 7: the child opens a channel of its own at first use."""
    service = client_of(host_process.socket_path)
    service.create_container("forked").upload_blob("b", b"content")
    context = multiprocessing.get_context("fork")
    received = context.SimpleQueue()
    child = context.Process(target=_read_in_child, args=(service._pipeline._transport, received))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert received.get() == b"content"
    assert service.get_blob_client("forked", "b").download_blob().readall() == b"content"
    service.close()


def test_a_pickled_transport_reaches_the_same_host(host_process: HostProcess) -> None:
    with client_of(host_process.socket_path) as service:
        service.create_container("pickled").upload_blob("b", b"content")
        copy = pickle.loads(pickle.dumps(service._pipeline._transport))
    with BlobServiceClient(URLS["account in the host name"], transport=copy, retry_total=0) as service:
        assert service.get_blob_client("pickled", "b").download_blob().readall() == b"content"


def test_a_host_restarted_between_calls_is_not_noticed(restartable: HostProcess) -> None:
    """ecosystem §1.2: absorbed below the seam; the SDK would wait 15 s before its first retry."""
    with client_of(restartable.socket_path) as service:
        container = service.create_container("restart")
        container.upload_blob("b", b"content")
        restartable.stop()
        restartable.start()
        assert container.download_blob("b").readall() == b"content"


def test_a_call_waits_for_a_host_that_is_being_restarted(restartable: HostProcess) -> None:
    with client_of(restartable.socket_path) as service:
        container = service.create_container("restart")
        container.upload_blob("b", b"content")
        restartable.stop()
        starter = threading.Thread(target=restartable.start)  # a process takes longer to start than a call
        starter.start()
        try:
            assert container.download_blob("b").readall() == b"content"
        finally:
            starter.join()


async def test_a_task_cancelled_in_the_middle_of_a_body_leaves_no_blob(host_process: HostProcess) -> None:
    transport = AsyncPvblobTransport(str(host_process.socket_path))
    half_sent = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * (16 * MIB)
        half_sent.set()
        await asyncio.Event().wait()

    async with AsyncBlobServiceClient(URLS["account in the host name"], transport=transport, retry_total=0) as service:
        container = await service.create_container("cancelled")
        request = HttpRequest("PUT", container.url + "/b", headers={"x-ms-blob-type": "BlockBlob"}, content=body())
        request.headers["Content-Length"] = str(32 * MIB)
        upload = asyncio.create_task(transport.send(request))
        await half_sent.wait()
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        await container.upload_blob("c", b"content")
        assert [name async for name in container.list_blob_names()] == ["c"]
