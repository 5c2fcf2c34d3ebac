"""The paths: which worker of which library over which server, under which name.

`READ_PATHS[key]` and `WRITE_PATHS[key]`; a key is the path's name, and its operation where it has several:
"channel-sdk:readinto". Paths are plain values: the workers' modules, and so the libraries, are imported in the crews.
"""

from __future__ import annotations

from typing import NamedTuple

# glibc hands blocks above a threshold back to the system at every free; with these two variables it keeps them.
_TUNED_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2 << 30), "MALLOC_TRIM_THRESHOLD_": str(2 << 30)}
_WORKERS = "pvblob.cli.fleet.workers"


_PROTOCOLS = {"channel": "channel", "front": "azure", "http": "http", "tls": "tls"}
_SERVERS = {"channel": "host", "azure": "host", "http": "nginx", "tls": "elsewhere", "files": "files"}


class Path(NamedTuple):
    """One way to do one operation.

    name: as in the results; its first word says over what: channel, http (nginx), front (the host's HTTP front), tls (a
    service elsewhere), or nothing but files.  operation: "read" (a range into whatever memory the path has), "readall"
    and "readinto" (whole blobs), "properties", "write".  worker: "module:Class" of its clients; "limit:MODE" for the
    program that is client and server itself.  settings: what a reader must know of the client.  tuned: malloc keeps
    what it got.  batches: it can have several requests in flight.  other_server: its name in the venue, when it is not
    the usual one.
    """

    name: str
    operation: str
    worker: str
    title: str
    settings: str
    tuned: bool = False
    batches: bool = False
    other_server: str = ""

    @property
    def key(self) -> str:
        """The path's name among its like."""
        return self.name if self.operation in ("read", "write") else f"{self.name}:{self.operation}"

    @property
    def protocol(self) -> str:
        """Which kind of address its clients use."""
        return _PROTOCOLS.get(self.name.partition("-")[0], "files")

    @property
    def server(self) -> str:
        """The server whose CPU is the path's; "files" is none."""
        return self.other_server or _SERVERS[self.protocol]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables its clients run with, beyond this process's."""
        return _TUNED_MALLOC if self.tuned else {}

    @property
    def module(self) -> str:
        """The module of its worker."""
        return f"{_WORKERS}.{self.worker.partition(':')[0]}"

    @property
    def class_name(self) -> str:
        """The class of its worker, the mode of the limit program."""
        return self.worker.partition(":")[2]

    @property
    def is_limit(self) -> bool:
        """Whether this is the program of crates/limit."""
        return self.worker.startswith("limit:")

    def on(self, server: str, suffix: str) -> Path:
        """Return the same path over another server of its kind; *suffix*, e.g. "polling-off", joins its name."""
        title = f"{self.title}, {suffix.replace('-', ' ')}"
        return self._replace(other_server=server, name=f"{self.name}-{suffix}", title=title)


def _sdk(name: str, title: str) -> list[Path]:
    """Return azure-storage-blob's reading operations over one transport, each also with tuned malloc."""
    operations = [
        ("read", "Download", "download_blob(offset, length).readall()"),
        ("readall", "Download", "download_blob().readall(), max_concurrency 1"),
        ("readinto", "ReadInto", "download_blob().readinto(reused buffer), max_concurrency 1"),
        ("properties", "Properties", "get_blob_properties()"),
    ]
    title = f"azure-storage-blob {title}"
    return [
        Path(name + suffix, operation, f"sdk:{kind}", title + note, text + note, tuned)
        for suffix, note, tuned in (("", "", False), ("-tuned", ", tuned malloc", True))
        for operation, kind, text in operations
    ]


_SPIN = "bounded spin (above 64 KiB: while a core is free), then futex"
_FUTEX = "futex waits, never spinning"
_INTO = "read_into a reused buffer, read_many for several in flight"
_REUSED = "recv_into a reused buffer, keep-alive, a connection for each request in flight"
_UPLOAD = "upload_blob(overwrite=True)"
_READS = [
    Path("limit", "read", "limit:copy", "shared memory + pread, copied out", _SPIN, batches=True),
    Path("limit-inplace", "read", "limit:in-place", "shared memory + pread, in place", _SPIN, batches=True),
    Path("limit-blocking", "read", "limit:copy-blocking", "shared memory + pread, blocking", _FUTEX, batches=True),
    Path("channel", "read", "channel:Copied", "pvblob.Client, copied out", _INTO, batches=True),
    Path("channel-inplace", "read", "channel:InPlace", "pvblob.Client, in place", "view in lent pages"),
    Path("http-raw", "read", "http:Get", "socket over nginx", _REUSED, batches=True),
    Path("http-obstore", "read", "object_store:Get", "obstore over nginx", "HTTPStore, get_range", batches=True),
    Path("tls-obstore", "read", "object_store:Get", "obstore over TLS", "AzureStore, get_range"),
    Path("front-obstore", "read", "object_store:Get", "obstore over our HTTP front", "AzureStore, get_range"),
    *_sdk("channel-sdk", "over the channel"),
    *_sdk("http-sdk", "over nginx"),
    *_sdk("tls-sdk", "over TLS"),
    *_sdk("front-sdk", "over our HTTP front"),
    *_sdk("sdk-floor", "over memory"),
]
_WRITES = [
    Path("channel", "write", "channel:Put", "pvblob.Client", "put"),
    Path("channel-sdk", "write", "sdk:Upload", "azure-storage-blob over the channel", _UPLOAD),
    Path("front-obstore", "write", "object_store:Put", "obstore over our HTTP front", "AzureStore, put in one request"),
    Path("front-sdk", "write", "sdk:Upload", "azure-storage-blob over our HTTP front", _UPLOAD),
    Path("http-raw", "write", "http:Put", "socket over nginx WebDAV", "sendall, keep-alive"),
    Path("http-obstore", "write", "object_store:Put", "obstore over nginx WebDAV", "HTTPStore, put in one request"),
    Path("file", "write", "files:Write", "plain file", "open, write, close"),
    Path("file-fsync", "write", "files:WriteThrough", "plain file and fsync", "open, write, fsync, close"),
]

READ_PATHS = {path.key: path for path in _READS}
WRITE_PATHS = {path.key: path for path in _WRITES}
