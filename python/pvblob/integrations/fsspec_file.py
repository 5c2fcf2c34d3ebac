"""A blob as fsspec's file object: reads of one version, writes as blocks that become the blob when the file is closed.

Small reads go through fsspec's read-ahead cache; reads of a block or more go from the host straight to the program.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile

from pvblob.client.bodies import BLOCK_BYTES
from pvblob.client.operations import APPEND_BYTES_MAX

if TYPE_CHECKING:
    from pvblob.client.uploads import BlockUpload
    from pvblob.integrations.fsspec import PvblobFileSystem

READ_BYTES = 1 << 20
LINE_BYTES = 8192


class BlobFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """See `PvblobFileSystem.open`. mode: "rb", "wb", "xb" or "ab"; text and compression are fsspec's to add.

    block_size: bytes read ahead (1 MiB), or of a block that is written (8 MiB).  content_type, metadata: of a write.
    A blob replaced while it is read raises PreconditionFailed. A `with` that ends by an exception writes nothing, but
    what is appended ("ab", to an append blob, made when there is none) is seen block by block: it is of no transaction.
    """

    fs: PvblobFileSystem
    path: str
    mode: str

    def __init__(self, fs: PvblobFileSystem, path: str, mode: str, block_size: int | None, **options: Any) -> None:
        if mode not in ("rb", "wb", "xb", "ab"):
            raise NotImplementedError(f"mode {mode!r}: a blob is read (rb), written whole (wb, xb) or appended to (ab)")
        if mode == "ab" and not options.get("autocommit", True):
            raise NotImplementedError("mode 'ab': what is appended cannot wait for the end of a transaction")
        self._container, self._name = fs.split_blob(path)
        self._writing = {name: options.pop(name) for name in ("content_type", "metadata") if name in options}
        self._upload: BlockUpload | None = None
        self._last: bytes | None = None
        if mode == "xb" and fs.exists(path):  # judged again, and for good, when the file is closed
            raise FileExistsError(f"{path} exists")
        super().__init__(fs, path, mode, block_size or (READ_BYTES if mode == "rb" else BLOCK_BYTES), **options)
        if mode == "rb" and self.details["type"] == "directory":
            raise IsADirectoryError(f"{path} is a directory")
        if mode == "ab" and fs.exists(path):
            self.loc = fs.size(path)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def _fetch_range(self, start: int, end: int) -> bytes:
        if start >= end:
            return b""
        client, etag = self.fs.client, self.details["etag"]
        return client.get(self._container, self._name, offset=start, length=end - start, if_match=etag)

    def _passes_by(self, length: int) -> bool:
        """Say whether a read of *length* bytes gains nothing from the cache."""
        return not self.closed and self.mode == "rb" and self.cache.name == "readahead" and length >= self.blocksize

    def read(self, length: int | None = -1) -> bytes:
        """Return at most *length* bytes (negative or None: all that is left)."""
        left = max(0, self.size - self.loc) if self.mode == "rb" else 0
        wanted = left if length is None or length < 0 else min(length, left)
        if not self._passes_by(wanted):
            data: bytes = super().read(length)
            return data
        data = self._fetch_range(self.loc, self.loc + wanted)
        self.loc += len(data)
        return data

    def readinto(self, b: Any) -> int:
        """Fill the buffer *b*, as far as there are bytes; a large one by the host, without a copy on the way."""
        view = memoryview(b).cast("B")
        wanted = min(len(view), max(0, self.size - self.loc)) if self.mode == "rb" else 0
        if not self._passes_by(wanted):
            return int(super().readinto(b))
        etag = self.details["etag"]
        self.fs.client.read_into(self._container, self._name, view[:wanted], self.loc, if_match=etag)
        self.loc += wanted
        return wanted

    def readuntil(self, char: bytes = b"\n", blocks: int | None = None) -> bytes:
        """Return the bytes up to and with *char*; looked for in small steps, because lines are short."""
        data: bytes = super().readuntil(char, blocks or LINE_BYTES)
        return data

    # ---- writing ----------------------------------------------------------------------------------------------------

    def _initiate_upload(self) -> None:
        if self.mode == "ab":
            return
        self._upload = self.fs.client.begin_upload(
            self._container, self._name, overwrite=self.mode != "xb", **self._writing
        )

    def _append(self, data: memoryview) -> None:
        for start in range(0, len(data), APPEND_BYTES_MAX):
            self.fs.client.append(self._container, self._name, data[start : start + APPEND_BYTES_MAX])

    def _upload_chunk(self, final: bool = False) -> bool:
        data = self.buffer.getbuffer()
        if self.mode == "ab":
            self._append(data)
            return True
        assert self._upload is not None
        keep = len(data) % BLOCK_BYTES or min(len(data), BLOCK_BYTES) if final else 0
        for start in range(0, len(data) - keep, BLOCK_BYTES):
            self._upload.write(data[start : min(start + BLOCK_BYTES, len(data) - keep)])
        if final and self.autocommit:
            self._upload.finish(data[len(data) - keep :])
        elif final:
            self._last = bytes(data[len(data) - keep :])
        return True

    def commit(self) -> None:
        """Make the blob, at the end of a transaction."""
        if self._upload is not None and self._last is not None:
            self._upload.finish(self._last)
            self._upload = None

    def discard(self) -> None:
        """Forget what was written; the service drops uncommitted blocks by itself."""
        self._upload = None

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.mode != "rb":
            self.discard()
            self.closed = True
        self.close()
