"""What both clients share: each operation as a `Call`, a finished request with the function that reads its answer.

container, blob, options → `Call(request, interpret, body)`. A shell sends `request` with `body` and returns
`interpret(answer)`; whether it blocks or awaits is its only business. Nothing here waits or knows a channel.
Source of every request: Azure Blob service REST reference.
"""

from __future__ import annotations

from collections import namedtuple
from functools import lru_cache, partial
from time import monotonic

from pvblob.client import answers
from pvblob.errors import DeadlineExceeded
from pvblob.frozen import frozen
from pvblob.http_request import METADATA, Fields, Request, metadata_spelling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import ClassVar, Generic, NamedTuple, TypeVar

    from typing_extensions import Buffer

    from pvblob.client.answers import Copied, Page
    from pvblob.client.exchange import Answer
    from pvblob.client.properties import BlobPrefix, BlobProperties, ContainerProperties, Written
    from pvblob.errors import BlobError

    T = TypeVar("T")

Pairs = list[tuple[str, str]]

DEVELOPMENT_ACCOUNT = "devstoreaccount1"
APPEND_BYTES_MAX = 100 << 20
INFINITE = -1
SERVICE_VERSION = "2026-06-06"
_VERSION = ("x-ms-version", SERVICE_VERSION)


if TYPE_CHECKING:

    class Call(NamedTuple, Generic[T]):
        """One request and what its answer means."""

        request: Request
        interpret: Callable[[Answer], T]
        body: Buffer | None = None
else:
    Call = namedtuple("Call", "request interpret body", defaults=(None,))


@lru_cache(maxsize=4096)  # a program reads many ranges of few blobs
def blob_target(container: str, blob: str) -> str:
    """Return the raw path of a blob: percent-encoded as RFC 3986 asks, "/" kept. ValueError when a name is empty."""
    if not blob:
        raise ValueError("the blob's name is empty")
    return f"{container_target(container)}/{_encoded(blob, safe='/')}"


_NEVER_ENCODED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"  # RFC 3986 §2.3


def _encoded(text: str, safe: str = "") -> str:
    """Return *text* as urllib's `quote` does, which is imported only for text that it would change."""
    if not text.strip(_NEVER_ENCODED + safe):
        return text
    from urllib.parse import quote

    return quote(text, safe=safe)


def container_target(container: str) -> str:
    """Return the raw path of a container. ValueError when its name is empty or holds a "/"."""
    if not container or "/" in container:
        raise ValueError(f"{container!r} is no container name: 3 to 63 lower-case letters, digits and single hyphens")
    return "/" + _encoded(container, safe="$")


def conditions(if_match: str | None, if_none_match: str | None) -> Pairs:
    """Return the condition fields that are set."""
    pairs = []
    if if_match is not None:
        pairs.append(("if-match", if_match))
    if if_none_match is not None:
        pairs.append(("if-none-match", if_none_match))
    return pairs


def metadata_fields(metadata: Mapping[str, str] | None) -> Pairs:
    """Return *metadata* as `x-ms-meta-` fields. ValueError for text a header field cannot carry."""
    pairs = []
    for name, value in (metadata or {}).items():
        if not name.isidentifier() or not name.isascii():
            raise ValueError(f"metadata name {name!r}: letters, digits and '_' only, not beginning with a digit")
        if not value.isprintable() or any(ord(character) > 0xFF for character in value):
            raise ValueError(f"metadata {name!r}: the value must be printable ISO 8859-1 text; encode anything else")
        pairs.append((METADATA + name.lower(), value))
    return pairs + metadata_spelling(metadata or ())


class Operations:
    """Builds the calls of one account. It holds nothing else, so it may be shared and copied freely."""

    __slots__ = ("account", "authority")
    _WITH_SNAPSHOTS: ClassVar[Pairs] = [("x-ms-delete-snapshots", "include")]

    def __init__(self, account: str) -> None:
        self.account = account
        self.authority = f"{account}.blob.core.windows.net"

    def request(self, method: str, target: str, fields: Pairs) -> Request:
        """Return a request to this account; *fields*: beside the version."""
        return Request(method, "https", self.authority, target, Fields.lowered([_VERSION, *fields]))

    def blob(self, container: str, blob: str, query: str = "") -> str:
        """Return the target of a blob, or of one of its subresources."""
        path = blob_target(container, blob)
        return f"{path}?{query}" if query else path

    # ---- reading a blob ---------------------------------------------------------------------------------------------

    def read(
        self,
        container: str,
        blob: str,
        offset: int,
        length: int | None,
        if_match: str | None,
        if_none_match: str | None,
    ) -> Request:
        """Build Get Blob for *length* bytes from *offset* (None: to the end); HEAD when length is 0."""
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"offset {offset} and length {length} must not be negative")
        fields = [_VERSION]
        if length:
            fields.append(("x-ms-range", f"bytes={offset}-{offset + length - 1}"))
        elif offset and length is None:
            fields.append(("x-ms-range", f"bytes={offset}-"))
        if if_match is not None or if_none_match is not None:
            fields += conditions(if_match, if_none_match)
        method = "HEAD" if length == 0 else "GET"  # an empty range cannot be written as a header field
        return Request(method, "https", self.authority, self.blob(container, blob), Fields.lowered(fields))

    def stat(
        self, container: str, blob: str, if_match: str | None = None, if_none_match: str | None = None
    ) -> Call[BlobProperties]:
        """Get Blob Properties."""
        request = self.request("HEAD", self.blob(container, blob), conditions(if_match, if_none_match))
        return Call(request, lambda answer: answers.properties(answer, request, blob))

    # ---- writing a blob ---------------------------------------------------------------------------------------------

    def put_blob(self, container: str, blob: str, data: Buffer, options: WriteOptions) -> Call[Written]:
        """Put Blob, the whole content at once."""
        fields = [("x-ms-blob-type", "BlockBlob"), *options.fields()]
        request = self.request("PUT", self.blob(container, blob), fields)
        return Call(request, lambda answer: answers.written(answer, request), data)

    def put_block(self, container: str, blob: str, block_id: str, data: Buffer) -> Call[None]:
        """Put Block."""
        target = self.blob(container, blob, f"comp=block&blockid={_encoded(block_id, safe='')}")
        return self._checked("PUT", target, [], data)

    def put_block_list(
        self, container: str, blob: str, block_ids: Sequence[str], options: WriteOptions
    ) -> Call[Written]:
        """Put Block List: the blob becomes these uncommitted blocks, in this order."""
        listed = "".join(f"<Uncommitted>{block_id}</Uncommitted>" for block_id in block_ids)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode("ascii")
        target = self.blob(container, blob, "comp=blocklist")
        request = self.request("PUT", target, [("content-type", "application/xml"), *options.fields()])
        return Call(request, lambda answer: answers.written(answer, request), body)

    def create_append_blob(self, container: str, blob: str) -> Call[bool]:
        """Put Blob: an append blob, empty, where there is no blob; the value says whether there was none."""
        fields = [("x-ms-blob-type", "AppendBlob"), ("if-none-match", "*")]
        return self._presence("PUT", self.blob(container, blob), fields, "BlobAlreadyExists")

    def append_block(self, container: str, blob: str, data: Buffer, position: int | None) -> Call[int | None]:
        """Append Block; the value is the offset at which it begins, None when there is no blob to append to.

        position: what that offset must be.
        """
        size_bytes = memoryview(data).nbytes
        if not 0 < size_bytes <= APPEND_BYTES_MAX:
            raise ValueError(f"an append takes 1 byte to {APPEND_BYTES_MAX >> 20} MiB, not {size_bytes} bytes")
        fields = [] if position is None else [("x-ms-blob-condition-appendpos", str(position))]
        request = self.request("PUT", self.blob(container, blob, "comp=appendblock"), fields)
        return Call(request, lambda answer: answers.appended(answer, request), data)

    def copy(self, source: tuple[str, str], container: str, blob: str, options: CopyOptions) -> Call[Copied]:
        """Copy Blob from *source*, (container, blob) of the same account; the value says whether it has ended."""
        url = f"https://{self.authority}{self.blob(*source)}"
        request = self.request("PUT", blob_target(container, blob), [("x-ms-copy-source", url), *options.fields()])
        return Call(request, lambda answer: answers.copied(answer, request))

    def copy_state(self, container: str, blob: str) -> Call[Copied]:
        """Get Blob Properties, for the state of the copy under way."""
        request = self.request("HEAD", blob_target(container, blob), [])
        return Call(request, lambda answer: answers.copied(answer, request))

    def set_metadata(
        self, container: str, blob: str, metadata: Mapping[str, str], if_match: str | None
    ) -> Call[Written]:
        """Set Blob Metadata: replaces all of it."""
        fields = metadata_fields(metadata) + conditions(if_match, None)
        request = self.request("PUT", self.blob(container, blob, "comp=metadata"), fields)
        return Call(request, lambda answer: answers.written(answer, request))

    def delete(self, container: str, blob: str, missing_ok: bool, if_match: str | None) -> Call[bool]:
        """Delete Blob with its snapshots; the value says whether there was one."""
        fields = [*self._WITH_SNAPSHOTS, *conditions(if_match, None)]
        return self._presence("DELETE", self.blob(container, blob), fields, "BlobNotFound" if missing_ok else "")

    def delete_many(self, container: str, blobs: Sequence[str]) -> Call[dict[str, BlobError]]:
        """Blob Batch of at most 256 deletes; the value holds the blobs that could not be deleted."""
        from pvblob.client import batch

        boundary, body = batch.encode([blob_target(container, blob) for blob in blobs])
        target = f"{container_target(container)}?restype=container&comp=batch"
        request = self.request("POST", target, [("content-type", f"multipart/mixed; boundary={boundary}")])
        return Call(request, partial(batch.failures, request=request, blobs=blobs), body)

    def lease(self, container: str, blob: str | None, action: str, duration_s: int = INFINITE) -> Call[str]:
        """Lease Blob, or (blob None) Lease Container; the value is the lease's id, "" of one that is released."""
        container_query = "?restype=container&comp=lease"
        target = (
            container_target(container) + container_query if blob is None else self.blob(container, blob, "comp=lease")
        )
        fields = [("x-ms-lease-action", action)]
        if action == "acquire":
            fields.append(("x-ms-lease-duration", str(duration_s)))
        request = self.request("PUT", target, fields)
        return Call(request, lambda answer: answers.lease_id(answer, request))

    # ---- listing ----------------------------------------------------------------------------------------------------

    def list_blobs(self, container: str, options: ListOptions, marker: str) -> Call[Page[BlobProperties | BlobPrefix]]:
        """List Blobs, one page."""
        asked = {"restype": "container", "comp": "list", **options.query(), "marker": marker}
        target = container_target(container) + query_text(**asked)
        request = self.request("GET", target, [])
        return Call(request, lambda answer: answers.blob_page(answer, request))

    def list_containers(self, prefix: str, marker: str) -> Call[Page[ContainerProperties]]:
        """List Containers, one page, metadata included."""
        target = "/" + query_text(comp="list", prefix=prefix, include="metadata", marker=marker)
        request = self.request("GET", target, [])
        return Call(request, lambda answer: answers.container_page(answer, request))

    # ---- containers -------------------------------------------------------------------------------------------------

    def create_container(self, container: str, exist_ok: bool, metadata: Mapping[str, str] | None) -> Call[bool]:
        """Create Container; the value says whether it is new."""
        target = f"{container_target(container)}?restype=container"
        tolerated = "ContainerAlreadyExists" if exist_ok else ""
        return self._presence("PUT", target, metadata_fields(metadata), tolerated)

    def delete_container(self, container: str, missing_ok: bool) -> Call[bool]:
        """Delete Container with all its blobs; the value says whether there was one."""
        target = f"{container_target(container)}?restype=container"
        return self._presence("DELETE", target, [], "ContainerNotFound" if missing_ok else "")

    def stat_container(self, container: str) -> Call[ContainerProperties]:
        """Get Container Properties."""
        request = self.request("HEAD", f"{container_target(container)}?restype=container", [])
        return Call(request, lambda answer: answers.container_properties(answer, request, container))

    def _checked(self, method: str, target: str, fields: Pairs, body: Buffer | None = None) -> Call[None]:
        request = self.request(method, target, fields)
        return Call(request, lambda answer: answers.check(answer, request), body)

    def _presence(self, method: str, target: str, fields: Pairs, tolerated: str) -> Call[bool]:
        """A call whose value is False when the service answered with the error code *tolerated*."""
        request = self.request(method, target, fields)

        def interpret(answer: Answer) -> bool:
            if tolerated and answer.fields.get("x-ms-error-code") == tolerated:
                return False
            answers.check(answer, request)
            return True

        return Call(request, interpret)


class LeasedOperations(Operations):
    """Builds calls that carry a lease: of every request but those for content."""

    __slots__ = ("_lease_id",)

    def __init__(self, account: str, lease_id: str) -> None:
        super().__init__(account)
        self._lease_id = lease_id

    def request(self, method: str, target: str, fields: Pairs) -> Request:
        """Return a request that carries the lease."""
        return super().request(method, target, [*fields, ("x-ms-lease-id", self._lease_id)])


@frozen
class WriteOptions:
    """What a write may set beside the content; the same for one Put Blob and for a committed list of blocks."""

    overwrite: bool = True
    metadata: Mapping[str, str] | None = None
    content_type: str | None = None
    if_match: str | None = None
    if_none_match: str | None = None

    def fields(self) -> Pairs:
        """Return the header fields. `overwrite=False` is the condition that no blob of this name exists."""
        if not self.overwrite and self.if_none_match not in (None, "*"):
            raise ValueError("overwrite=False means if_none_match='*': give only one of them")
        none_match = self.if_none_match if self.overwrite else "*"
        content_type = self.content_type or "application/octet-stream"
        return [
            ("x-ms-blob-content-type", content_type),
            *conditions(self.if_match, none_match),
            *metadata_fields(self.metadata),
        ]


@frozen
class ListOptions:
    """What a listing of blobs shows; see `Client.list`. include: names of List Blobs, with commas between them."""

    prefix: str = ""
    delimiter: str | None = None
    start_from: str | None = None
    include: str = ""
    page_size: int | None = None

    def query(self) -> dict[str, str | None]:
        """Return the parameters of the query, those that are empty included."""
        return {
            "prefix": self.prefix,
            "delimiter": self.delimiter,
            "startFrom": self.start_from,
            "include": self.include,
            "maxresults": str(self.page_size) if self.page_size else None,
        }


@frozen
class CopyOptions:
    """What a copy may set or demand. metadata: None keeps the source's."""

    overwrite: bool = True
    metadata: Mapping[str, str] | None = None
    if_match: str | None = None
    source_if_match: str | None = None

    def fields(self) -> Pairs:
        """Return the header fields."""
        pairs = conditions(self.if_match, None if self.overwrite else "*") + metadata_fields(self.metadata)
        if self.source_if_match is not None:
            pairs.append(("x-ms-source-if-match", self.source_if_match))
        return pairs


def copy_pauses_s(timeout_s: float) -> Iterator[float]:
    """Yield how long to wait before each look at a copy that goes on elsewhere. Raises DeadlineExceeded in the end."""
    ends_at, pause_s = monotonic() + timeout_s, 0.05
    while monotonic() < ends_at:
        yield min(pause_s, max(0.0, ends_at - monotonic()))
        pause_s = min(2 * pause_s, 2.0)
    raise DeadlineExceeded(f"the copy has not ended within {timeout_s:g} s; it goes on at the service")


def block_id(upload: bytes, index: int) -> str:
    """Return the base64 id of block *index* of one upload; *upload* is 12 random bytes.

    Ids of one length, as Put Block demands; random, so that two uploads of one blob at a time never mix their blocks.
    """
    from base64 import b64encode

    return b64encode(upload + index.to_bytes(6, "big")).decode("ascii")


def query_text(**parameters: str | None) -> str:
    """Return the query of these parameters, those without a value left out."""
    return "?" + "&".join(f"{name}={_encoded(value, safe='')}" for name, value in parameters.items() if value)
