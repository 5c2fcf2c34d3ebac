"""The `pvblob://` file system of fsspec: pandas, dask, pyarrow and others read and write through the host.

URL: `pvblob://ACCOUNT/CONTAINER/BLOB`, as on the command line; path: `CONTAINER/BLOB`. fsspec finds the class by the
package's entry point, so `fsspec.open("pvblob://…")` needs no import. Containers are the top directories; below them a
directory is the common beginning of names, so making one does nothing and an empty one does not exist; blobs that other
tools leave as marks of directories (an empty blob named `dir/`, metadata `hdi_isfolder`) are shown as directories.
Listings are never cached: other processes write too.
Source: fsspec's specification of `AbstractFileSystem`.
"""

from __future__ import annotations

import errno
import weakref
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.spec import AbstractFileSystem
from fsspec.utils import isfilelike, stringify_path

from pvblob.client.client import Client
from pvblob.client.operations import DEVELOPMENT_ACCOUNT
from pvblob.client.properties import BlobProperties
from pvblob.errors import InvalidRange, NotFound
from pvblob.integrations.fsspec_entries import Entry, blob_entry, container_entry, directory_entry
from pvblob.integrations.fsspec_file import BlobFile


class PvblobFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Blobs of one account as files.

    socket_path: the host's socket; default `$PVBLOB_SOCKET`, then the default one.  account: default the URL's, then
    the development account.  timeout_s: bounds each request.  Instances pickle as these settings, survive a fork, and
    may be used by many threads. Raises what `Client.connect` raises; operations raise `pvblob.BlobError`s, which are
    also `FileNotFoundError`, `FileExistsError` and `PermissionError`.
    """

    protocol: str | tuple[str, ...] = "pvblob"
    root_marker = ""

    def __init__(
        self,
        socket_path: str | None = None,
        *,
        account: str = DEVELOPMENT_ACCOUNT,
        timeout_s: float = 60.0,
        **storage_options: Any,
    ) -> None:
        super().__init__(use_listings_cache=False, **storage_options)
        self.account = account
        self.client = Client.connect(socket_path, account=account, timeout_s=timeout_s)
        weakref.finalize(self, self.client.close)  # fsspec keeps instances until the interpreter ends

    @property
    def fsid(self) -> str:
        """Names the account: two instances with this in common see the same files."""
        return f"pvblob_{self.account}"

    # ---- names ------------------------------------------------------------------------------------------------------

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = stringify_path(path)
        scheme = f"{cls.protocol}://"
        if text.startswith(scheme):
            text = text.removeprefix(scheme).partition("/")[2]
        # A trailing slash says "directory" to fsspec's copies and is looked at before this; no blob is named by it.
        return text.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: Any) -> dict[str, str]:
        text = stringify_path(path)
        account = text.removeprefix("pvblob://").partition("/")[0] if text.startswith("pvblob://") else ""
        return {"account": account} if account else {}

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path."""
        return f"pvblob://{self.account}/{self._strip_protocol(name)}"

    def _split(self, path: Any) -> tuple[str, str]:
        """Return (container, blob) of a path; either may be empty."""
        container, _, blob = self._strip_protocol(path).partition("/")
        return container, blob

    def split_blob(self, path: Any) -> tuple[str, str]:
        """Return (container, blob) of a path that has to name a blob. Raises IsADirectoryError."""
        container, blob = self._split(path)
        if not blob:
            raise IsADirectoryError(f"{path!r} names no blob: write CONTAINER/BLOB")
        return container, blob

    # ---- looking ----------------------------------------------------------------------------------------------------

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """List a directory; of a blob, itself. Raises FileNotFoundError when there is neither."""
        container, name = self._split(path)
        if not container:
            entries = [container_entry(one) for one in self.client.list_containers()]
        else:
            entries = list(self._children(container, name))
            if not entries and name:
                entries = [self._blob_entry(container, name)]
        return entries if detail else [entry["name"] for entry in entries]

    def _children(self, container: str, directory: str) -> Iterator[Entry]:
        prefix = f"{directory}/" if directory else ""
        named: set[str] = set()
        for one in self.client.list(container, prefix, "/", include_metadata=True):
            entry = blob_entry(container, one)
            # The mark of the directory itself is not in it; a mark `dir` beside blobs `dir/…` is one directory.
            if one.name == prefix or (entry["type"] == "directory" and entry["name"] in named):
                continue
            named.add(entry["name"])
            yield entry

    def _blob_entry(self, container: str, name: str) -> Entry:
        return blob_entry(container, self.client.stat(container, name))

    def info(self, path: str, **options: Any) -> Entry:
        """Return name, size in bytes and type ("file" or "directory"), and of a blob its ETag, times and settings."""
        container, name = self._split(path)
        if not container:
            return directory_entry("")
        if not name:
            return container_entry(self.client.stat_container(container))
        try:
            return self._blob_entry(container, name)
        except NotFound:
            if self._has_children(container, name):
                return directory_entry(f"{container}/{name}")
            raise

    def _has_children(self, container: str, name: str) -> bool:
        return any(True for _ in self.client.list(container, f"{name}/", page_size=1))

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **options: Any) -> Any:
        """List all files below *path*: one listing of the container, unless depth or directories are asked for."""
        container, name = self._split(path)
        if maxdepth is not None or withdirs or not container or options.get("prefix"):
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, **options)
        found: dict[str, Entry] = {}
        try:
            if name and (own := self._blob_entry(container, name))["type"] == "file":
                found[own["name"]] = own
        except NotFound:
            pass
        try:
            for one in self.client.list(container, f"{name}/" if name else "", include_metadata=True):
                if isinstance(one, BlobProperties) and (entry := blob_entry(container, one))["type"] == "file":
                    found[entry["name"]] = entry
        except NotFound:  # the container: fsspec's find of what does not exist finds nothing
            pass
        return found if options.get("detail") else sorted(found)

    def created(self, path: str) -> datetime | None:
        """Return when the blob was made, UTC."""
        created: datetime | None = self.info(path).get("created")
        return created

    def modified(self, path: str) -> datetime | None:
        """Return when the blob was last written, UTC."""
        modified: datetime | None = self.info(path).get("last_modified")
        return modified

    def ukey(self, path: str) -> str:
        """Return the blob's ETag: it changes with every write."""
        return str(self.info(path)["etag"])

    def checksum(self, path: str) -> int:
        """Return a number that changes with every write of the blob."""
        return int(self.ukey(path).strip('"'), 16)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """Return a blob's bytes from *start* to *end*; negative numbers count from its end."""
        container, name = self.split_blob(path)
        first, last = start or 0, end
        if first < 0 or (last is not None and last < 0):
            size = self.client.stat(container, name).size_bytes
            first = max(0, size + first) if first < 0 else first
            last = max(0, size + last) if last is not None and last < 0 else last
        if last is not None and last <= first:
            self.client.stat(container, name)
            return b""
        try:
            return self.client.get(container, name, offset=first, length=None if last is None else last - first)
        except InvalidRange:  # fsspec slices as Python does: past the end there is nothing
            return b""

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **options: Any,
    ) -> list[Any]:
        """Read many ranges at once, sent to the host together; an error is returned in its place, or raised."""
        if not isinstance(paths, list):
            raise TypeError("paths must be a list")
        starts = starts if isinstance(starts, Iterable) else [starts] * len(paths)
        ends = ends if isinstance(ends, Iterable) else [ends] * len(paths)
        asked = list(zip(paths, starts, ends, strict=True))
        results: list[Any] = [None] * len(asked)
        together: dict[str, list[tuple[int, tuple[str, int, int]]]] = {}
        for position, (path, start, end) in enumerate(asked):
            if end is not None and 0 <= (start or 0) < end:
                container, name = self.split_blob(path)
                together.setdefault(container, []).append((position, (name, start or 0, end - (start or 0))))
            else:
                results[position] = self._attempt(path, start, end)
        for container, reads in together.items():
            for done in self.client.get_many(container, [read for _, read in reads]):
                past_the_end = isinstance(done.error, InvalidRange)
                results[reads[done.position][0]] = b"" if past_the_end else done.error or done.value
        errors = [result for result in results if isinstance(result, Exception)]
        if errors and on_error != "return":
            raise errors[0]
        return results

    def _attempt(self, path: str, start: int | None, end: int | None) -> bytes | Exception:
        try:
            return self.cat_file(path, start, end)
        except Exception as error:  # to be returned in the place of the bytes
            return error

    def get_file(
        self, rpath: str, lpath: Any, callback: Callback = DEFAULT_CALLBACK, outfile: Any = None, **options: Any
    ) -> None:
        """Copy a blob to a local file, in chunks of one version of it; of a directory, make one."""
        outfile = lpath if outfile is None and isfilelike(lpath) else outfile
        container, name = self._split(rpath)
        known = self.info(rpath)
        if known["type"] == "directory":
            if outfile is None:
                Path(lpath).mkdir(parents=True, exist_ok=True)
            return
        callback.set_size(known["size"])
        if outfile is not None:
            self._copy_out(container, name, outfile, callback)
            return
        Path(lpath).parent.mkdir(parents=True, exist_ok=True)
        with Path(lpath).open("wb") as file:
            self._copy_out(container, name, file, callback)

    def _copy_out(self, container: str, name: str, file: Any, callback: Callback) -> None:
        for chunk in self.client.stream(container, name):
            file.write(chunk)
            callback.relative_update(len(chunk))

    # ---- writing ----------------------------------------------------------------------------------------------------

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **options: Any) -> None:
        """Store *value* as the blob; mode "create" raises FileExistsError when there is one."""
        container, name = self.split_blob(path)
        self.client.put(container, name, value, overwrite=mode != "create", **_writing(options))

    def put_file(
        self, lpath: Any, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **options: Any
    ) -> None:
        """Copy a local file to a blob; a directory needs nothing but its container."""
        local = Path(lpath)
        if local.is_dir():
            self.makedirs(rpath, exist_ok=True)
            return
        container, name = self.split_blob(rpath)
        callback.set_size(local.stat().st_size)
        with local.open("rb", buffering=0) as file:
            counted = _Counted(file, callback)
            self.client.put(container, name, counted, overwrite=mode != "create", **_writing(options))

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        """Copy a blob within the account; its bytes do not pass through this process."""
        container, name = self._split(path1)
        try:
            if name:
                self.client.copy(container, name, *self.split_blob(path2))
                return
        except NotFound:
            if not self._has_children(container, name):
                raise
        self.makedirs(path2, exist_ok=True)

    def mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
        """Make a container; directories below one come and go with the blobs in them."""
        container, name = self._split(path)
        if not name:
            self.client.create_container(container)
        elif create_parents:
            self.client.create_container(container, exist_ok=True)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make the container of *path*, if it is not there."""
        container, name = self._split(path)
        if container:
            self.client.create_container(container, exist_ok=exist_ok or bool(name))

    def rmdir(self, path: str) -> None:
        """Delete an empty container. Raises OSError when it holds blobs."""
        container, name = self._split(path)
        if name:
            return
        if any(True for _ in self.client.list(container, page_size=1)):
            raise OSError(errno.ENOTEMPTY, "the container holds blobs; rm(…, recursive=True) deletes them too", path)
        self.client.delete_container(container)

    def _rm(self, path: str) -> None:
        container, name = self._split(path)
        if name:
            self.client.delete(container, name)
        else:
            self.rmdir(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Delete blobs, 256 to a request; recursive: whole directories, and containers with all that is in them.

        Raises FileNotFoundError when there is nothing, IsADirectoryError for a directory without recursive.
        """
        if maxdepth is not None:
            found = self.expand_path(path, recursive=recursive, maxdepth=maxdepth)
            return self._delete([one for one in found if self.isfile(one)])
        found = self.expand_path(path)
        if not recursive:
            return self._delete(found)
        for one in found:
            self._delete_tree(one)
        return None

    def _delete(self, paths: list[str]) -> None:
        names: dict[str, list[str]] = {}
        for path in paths:
            container, name = self.split_blob(path)
            names.setdefault(container, []).append(name)
        for container, blobs in names.items():
            for blob, error in self.client.delete_many(container, blobs).items():
                if isinstance(error, NotFound) and self._has_children(container, blob):
                    raise IsADirectoryError(
                        f"{container}/{blob} is a directory: rm(…, recursive=True) deletes all in it"
                    )
                raise error

    def _delete_tree(self, path: str) -> None:
        container, name = self._split(path)
        if not container:
            raise ValueError("this would delete every container of the account: name them one by one")
        if not name:
            self.client.delete_container(container)
            return
        blobs = [name, *(one.name for one in self.client.list(container, f"{name}/"))]
        for error in self.client.delete_many(container, blobs).values():
            if not isinstance(error, NotFound):  # the directory is no blob itself, or somebody was faster
                raise error

    # ---- files ------------------------------------------------------------------------------------------------------

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> BlobFile:
        return BlobFile(self, path, mode, block_size, **options)


class _Counted:
    """A local file being read for an upload, its progress told."""

    def __init__(self, file: BinaryIO, callback: Callback) -> None:
        self._file = file
        self._callback = callback

    def read(self, size: int = -1) -> bytes:
        """Read and count."""
        data = self._file.read(size)
        self._callback.relative_update(len(data))
        return data


def _writing(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that `Client.put` takes; fsspec passes others through its layers, which mean nothing here."""
    return {name: options[name] for name in ("content_type", "metadata") if name in options}
