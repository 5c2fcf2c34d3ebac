"""Transports for azure-storage-blob that make it a peer or a floor.

`HeaderShim` lets it read from a plain file server, so that no Azure endpoint's slowness is measured; `InMemory` answers
from this process's memory: whatever a transport does, the SDK's calls cannot be cheaper than over this one.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from azure.core.pipeline.transport import HttpResponse, HttpTransport, RequestsTransport
from requests.structures import CaseInsensitiveDict

from pvblob.cli.fleet.corpus import name
from pvblob.cli.fleet.workers.contract import Task

# What the SDK itself gives the transport that it makes; a bare RequestsTransport reads 4 KiB at a time.
SDK_BLOCK_BYTES = 256 << 10
_STAMP = "Mon, 01 Jan 2024 00:00:00 GMT"
_FIELDS = {
    "Content-Type": "application/octet-stream",
    "ETag": '"0x8D"',
    "Last-Modified": _STAMP,
    "Date": _STAMP,
    "x-ms-version": "2021-12-02",
    "x-ms-blob-type": "BlockBlob",
    "x-ms-request-id": "0",
}


class HeaderShim(RequestsTransport):  # type: ignore[misc]  # azure-core exports it as Any
    """The SDK's own transport, with the range in the field a file server reads and without *prefix* in the path."""

    def __init__(self, prefix: str) -> None:
        super().__init__(connection_data_block_size=SDK_BLOCK_BYTES)
        self._prefix = prefix

    def send(self, request: Any, **options: Any) -> Any:
        """Send the request as a file server understands it."""
        byte_range = request.headers.pop("x-ms-range", None)
        if byte_range:
            request.headers["Range"] = byte_range
        request.url = request.url.replace(self._prefix, "", 1)
        return super().send(request, **options)


class InMemory(HttpTransport[Any, Any]):
    """Answers from the corpus's files, mapped and touched: GET with x-ms-range, HEAD and PUT."""

    def __init__(self, directory: str, task: Task) -> None:
        self._directory = directory
        self._blobs = {f"/{name(blob)}": self._map(name(blob)) for blob in range(task.blobs)}

    def _map(self, file: str) -> memoryview:
        with Path(self._directory, file).open("rb") as opened:
            flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
            return memoryview(mmap.mmap(opened.fileno(), 0, flags=flags, prot=mmap.PROT_READ))

    def send(self, request: Any, **_options: Any) -> InMemoryResponse:
        """Return the answer."""
        if request.method == "PUT":
            return InMemoryResponse(request, 201, {}, memoryview(b""))
        path = request.url.partition("?")[0]
        blob = self._blobs[path[path.rindex("/") :]]
        if request.method == "HEAD":
            return InMemoryResponse(request, 200, {"Content-Length": str(blob.nbytes)}, memoryview(b""))
        first, _, last = request.headers["x-ms-range"].removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or blob.nbytes), blob.nbytes - 1) + 1
        fields = {"Content-Range": f"bytes {start}-{end - 1}/{blob.nbytes}", "Content-Length": str(end - start)}
        return InMemoryResponse(request, 206, fields, blob[start:end])

    def open(self) -> None:
        """Do nothing: there is no connection."""

    def close(self) -> None:
        """Do nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        value: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Do nothing."""


class InMemoryResponse(HttpResponse):
    """An answer whose content is a view; it is handed over as one `bytes`, as the cheapest transport would."""

    def __init__(self, request: Any, status: int, fields: dict[str, str], content: memoryview) -> None:
        super().__init__(request, None)
        self.status_code = status
        self.reason = "OK"
        self.headers = CaseInsensitiveDict(_FIELDS | fields)
        self.content_type = _FIELDS["Content-Type"]
        self._content = content

    def body(self) -> bytes:
        """Return the content."""
        return bytes(self._content)

    def stream_download(self, pipeline: Any, **_options: Any) -> Iterator[bytes]:
        """Return what yields the content."""
        return _Stream(self, self._content)


class _Stream:
    """An iterator that the SDK can hang attributes on, as its downloader does."""

    def __init__(self, response: InMemoryResponse, content: memoryview) -> None:
        self.response = response
        self.content_length = content.nbytes
        self._content: memoryview | None = content

    def __iter__(self) -> _Stream:
        return self

    def __next__(self) -> bytes:
        content, self._content = self._content, None
        if content is None or not content.nbytes:
            raise StopIteration
        return bytes(content)
