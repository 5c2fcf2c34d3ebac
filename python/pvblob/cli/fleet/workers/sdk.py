"""azure-storage-blob: the same calls over the channel, over HTTP, and over nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from azure.storage.blob import BlobClient, ContainerClient

from pvblob.cli.fleet.corpus import CONTAINER, name
from pvblob.cli.fleet.workers.account import ACCOUNT, CREDENTIAL
from pvblob.cli.fleet.workers.contract import Address, Call, Task, Worker, WritingWorker
from pvblob.cli.fleet.workers.sdk_transports import HeaderShim, InMemory
from pvblob.integrations.azure_core import PvblobTransport

if TYPE_CHECKING:
    from typing_extensions import Buffer

PUBLIC_URL = f"https://{ACCOUNT}.blob.core.windows.net"


def _over_channel(address: Address, _task: Task) -> ContainerClient:
    return ContainerClient(PUBLIC_URL, CONTAINER, transport=PvblobTransport(address.socket))


def _over_azure(address: Address, _task: Task) -> ContainerClient:
    return ContainerClient(f"{address.url}/{ACCOUNT}", CONTAINER, credential=CREDENTIAL)


def _over_tls(address: Address, _task: Task) -> ContainerClient:
    url = f"{address.url}/{ACCOUNT}"
    return ContainerClient(url, CONTAINER, credential=CREDENTIAL, connection_verify=address.authorities)


def _over_plain_http(address: Address, _task: Task) -> ContainerClient:
    shim = HeaderShim(f"/{ACCOUNT}/{CONTAINER}")
    return ContainerClient(f"{address.url}/{ACCOUNT}", CONTAINER, credential=CREDENTIAL, transport=shim)


def _over_memory(address: Address, task: Task) -> ContainerClient:
    transport = InMemory(address.directory, task)
    return ContainerClient(PUBLIC_URL, CONTAINER, credential=CREDENTIAL, transport=transport)


OPENERS: dict[str, Callable[[Address, Task], ContainerClient]] = {
    "channel": _over_channel,
    "azure": _over_azure,
    "tls": _over_tls,
    "http": _over_plain_http,
    "files": _over_memory,
}


class _Sdk(Worker):
    def __init__(self, address: Address, task: Task, number: int) -> None:
        super().__init__(address, task, number)
        self._container = OPENERS[address.protocol](address, task)

    def calls(self) -> Sequence[Call]:
        """Return the operation on each blob."""
        return [self._call(self._container.get_blob_client(name(blob))) for blob in range(self.task.blobs)]

    def _call(self, blob: BlobClient) -> Call:
        raise NotImplementedError

    def close(self) -> None:
        """Close its connections."""
        self._container.close()


class Download(_Sdk):
    """`download_blob(offset, length).readall()`; a whole blob without offset and length, as programs ask for it."""

    def _call(self, blob: BlobClient) -> Call:
        size_bytes, download = self.task.block_bytes, blob.download_blob
        whole = size_bytes == self.task.blob_bytes

        def call(offset: int) -> bytes:
            stream = download() if whole else download(offset=offset, length=size_bytes)
            found: bytes = stream.readall()
            if len(found) != size_bytes:
                raise ValueError(f"{len(found)} bytes instead of {size_bytes}")
            return found

        return call


class _Sink:
    """A file as `readinto` needs it, over one reused buffer."""

    def __init__(self, size_bytes: int) -> None:
        self.buffer = bytearray(size_bytes)
        self._view = memoryview(self.buffer)
        self._at = 0

    def rewind(self) -> None:
        self._at = 0

    def write(self, data: bytes) -> int:
        end = self._at + len(data)
        self._view[self._at : end] = data
        self._at = end
        return len(data)


class ReadInto(_Sdk):
    """`download_blob().readinto(file)` of whole blobs into one reused buffer."""

    def __init__(self, address: Address, task: Task, number: int) -> None:
        super().__init__(address, task, number)
        self._sink = _Sink(task.block_bytes)

    def _call(self, blob: BlobClient) -> Call:
        sink, download, size_bytes = self._sink, blob.download_blob, self.task.block_bytes

        def call(_offset: int) -> None:
            sink.rewind()
            found = download().readinto(sink)  # type: ignore[arg-type]  # it calls write and nothing else
            if found != size_bytes:
                raise ValueError(f"{found} bytes instead of {size_bytes}")

        return call

    def content(self, result: object) -> Buffer:
        """Return the buffer."""
        return self._sink.buffer


class Properties(_Sdk):
    """`get_blob_properties()`."""

    def _call(self, blob: BlobClient) -> Call:
        get, size_bytes = blob.get_blob_properties, self.task.blob_bytes

        def call(_offset: int) -> None:
            if get().size != size_bytes:
                raise ValueError("the properties name another size")

        return call

    def content(self, result: object) -> None:
        """Return None: nothing is brought."""


class Upload(WritingWorker):
    """`upload_blob(data, overwrite=True)`."""

    def __init__(self, address: Address, task: Task, number: int) -> None:
        super().__init__(address, task, number)
        self._container = OPENERS[address.protocol](address, task)

    def calls(self) -> Sequence[Call]:
        """Return an upload for each slot."""
        return [self._upload(slot) for slot in range(self.SLOTS)]

    def _upload(self, slot: int) -> Call:
        upload, data = self._container.get_blob_client(self.names[slot]).upload_blob, self.data[slot]
        return lambda _offset: upload(data, overwrite=True)

    def read_back(self, slot: int) -> Buffer:
        """Return the stored blob."""
        found: Any = self._container.download_blob(self.names[slot]).readall()
        return found  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close its connections."""
        self._container.close()
