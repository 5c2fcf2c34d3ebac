"""From an `Answer` to a value or an error: status, fields and XML of the Azure REST reference, read once, here.

Nothing here waits, sends or knows which kind of client asked. The header path (`properties`) is hot: it runs for every
`read_into`, so it touches each field once. A program that only gets bytes never imports the classes of the values.
"""

from __future__ import annotations

from collections import namedtuple

from pvblob.errors import REASON_FIELD, Conflict, InvalidRange, blob_error
from pvblob.frozen import frozen
from pvblob.http_request import METADATA, spelled_metadata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Generic, NamedTuple, TypeVar
    from xml.etree.ElementTree import Element

    from pvblob.client.exchange import Answer
    from pvblob.client.properties import BlobPrefix, BlobProperties, ContainerProperties, Written
    from pvblob.errors import BlobError
    from pvblob.http_request import Request

    Entry = TypeVar("Entry")

# In the order of the attributes of BlobProperties from `last_modified` on; XML elements and header fields differ.
_HEADERS = (
    "last-modified", "x-ms-creation-time", "x-ms-blob-type",
    "content-type", "content-encoding", "content-language", "content-disposition", "cache-control",
)  # fmt: skip
_ELEMENTS = (
    "Last-Modified", "Creation-Time", "BlobType",
    "Content-Type", "Content-Encoding", "Content-Language", "Content-Disposition", "Cache-Control",
)  # fmt: skip

if TYPE_CHECKING:

    class Page(NamedTuple, Generic[Entry]):
        """One page of a listing or search. next_marker: where the next one begins, "" after the last."""

        entries: list[Entry]
        next_marker: str
else:
    Page = namedtuple("Page", "entries next_marker")


def error(answer: Answer, request: Request) -> BlobError:
    """Return the error of an answer with status >= 300, naming the request it belongs to."""
    code = answer.fields.get("x-ms-error-code") or ""
    text = answer.fields.get(REASON_FIELD) or ""
    if answer.content.lstrip(b"\xef\xbb\xbf").startswith(b"<"):
        from xml.etree import ElementTree

        try:
            root = ElementTree.fromstring(answer.content)
        except ElementTree.ParseError:
            pass  # the status and the code still say what happened
        else:
            code = code or root.findtext("Code") or ""
            text = (root.findtext("Message") or "").partition("\n")[0]
    where = f"{request.method} {request.target}"
    return blob_error(answer.status, code or "Unspecified", f"{text} ({where})" if text else where)


def check(answer: Answer, request: Request) -> None:
    """Raise the error of *answer* if it is one."""
    if answer.status >= 300:
        raise error(answer, request)


def content(answer: Answer, request: Request, offset: int) -> bytes:
    """Return the bytes that were read. A range from byte 0 of an empty blob is its whole content: nothing."""
    if answer.status < 300:
        return answer.content
    if answer.status == 416 and offset == 0:
        return b""
    raise error(answer, request)


def properties(answer: Answer, request: Request, name: str) -> BlobProperties:
    """Return the properties in the fields of a successful Get Blob or Get Blob Properties."""
    if answer.status >= 300:
        raise error(answer, request)
    get = answer.fields.get
    content_range = get("content-range")
    whole = content_range.rpartition("/")[2] if content_range else get("content-length")
    md5 = get("x-ms-blob-content-md5") or (None if content_range else get("content-md5"))
    return _blob(name, int(whole or 0), get("etag") or "", get, _HEADERS, md5, metadata(answer))


def filled(answer: Answer, request: Request, name: str, offset: int, size_bytes: int) -> BlobProperties:
    """Return the properties after `size_bytes` from `offset` were to be placed; InvalidRange if the blob is shorter."""
    known = properties(answer, request, name)
    if answer.written != size_bytes or offset > known.size_bytes:
        raise InvalidRange(
            416, "InvalidRange",
            f"{size_bytes} bytes from byte {offset} pass the blob's end at {known.size_bytes} ({request.target})",
        )  # fmt: skip
    return known


def metadata(answer: Answer) -> dict[str, str]:
    """Return the `x-ms-meta-` fields without their prefix, names as they were set."""
    found = {name: value for name, value in answer.fields.pairs() if name.startswith(METADATA)}
    spelling = spelled_metadata(answer.fields) if found else {}
    return {spelling.get(name, name)[len(METADATA) :]: value for name, value in found.items()}


def appended(answer: Answer, request: Request) -> int | None:
    """Read an answer to Append Block: the offset at which the block begins, in bytes; None: there is no such blob."""
    if answer.fields.get("x-ms-error-code") == "BlobNotFound":
        return None
    check(answer, request)
    return int(answer.fields.get("x-ms-blob-append-offset") or 0)


def lease_id(answer: Answer, request: Request) -> str:
    """Read an answer to Lease Blob or Lease Container: the id of the lease."""
    check(answer, request)
    return answer.fields.get("x-ms-lease-id") or ""


def landed(offset: int | None, blob: str) -> int:
    """Return *offset*; None is NotFound: the blob was deleted between its creation and the append."""
    if offset is None:
        raise blob_error(404, "BlobNotFound", f"{blob} was deleted while it was appended to")
    return offset


def written(answer: Answer, request: Request) -> Written:
    """Return the ETag and time a successful write answered with."""
    from pvblob.client.properties import Written, time_of

    check(answer, request)
    return Written(answer.fields.get("etag") or "", time_of(answer.fields.get("last-modified")))


@frozen
class Copied:
    """What a copy has come to. pending: it goes on at the service."""

    written: Written
    pending: bool


def copied(answer: Answer, request: Request) -> Copied:
    """Return what a copy has come to. Raises Conflict when it failed or somebody aborted it."""
    version, fields = written(answer, request), answer.fields
    status = fields.get("x-ms-copy-status") or "success"
    if status in ("failed", "aborted"):
        reason = fields.get("x-ms-copy-status-description") or "the service does not say why"
        raise Conflict(409, "CopyFailed", f"the copy to {request.target} {status}: {reason}")
    return Copied(version, status == "pending")


def container_properties(answer: Answer, request: Request, name: str) -> ContainerProperties:
    """Return the properties in the fields of a successful Get Container Properties."""
    from pvblob.client.properties import ContainerProperties, time_of

    check(answer, request)
    fields = answer.fields
    return ContainerProperties(name, fields.get("etag") or "", time_of(fields.get("last-modified")), metadata(answer))


def blob_page(answer: Answer, request: Request) -> Page[BlobProperties | BlobPrefix]:
    """Return one page of List Blobs."""
    root = xml(answer, request)
    entries = [_listed(element) for element in root.iterfind("Blobs/*")]
    return Page(entries, root.findtext("NextMarker") or "")


def container_page(answer: Answer, request: Request) -> Page[ContainerProperties]:
    """Return one page of List Containers."""
    from pvblob.client.properties import ContainerProperties, time_of

    root = xml(answer, request)
    entries = [
        ContainerProperties(
            element.findtext("Name") or "",
            _quoted(element.findtext("Properties/Etag")),
            time_of(element.findtext("Properties/Last-Modified")),
            _listed_metadata(element),
        )
        for element in root.iterfind("Containers/Container")
    ]
    return Page(entries, root.findtext("NextMarker") or "")


def xml(answer: Answer, request: Request) -> Element:
    """Return the root of a successful answer's XML."""
    check(answer, request)
    from xml.etree import ElementTree  # imported here: most programs never list

    return ElementTree.fromstring(answer.content)


def _listed(element: Element) -> BlobProperties | BlobPrefix:
    name = _listed_name(element)
    if element.tag == "BlobPrefix":
        from pvblob.client.properties import BlobPrefix

        return BlobPrefix(name)
    get = {child.tag: child.text for child in element.iterfind("Properties/*")}.get
    size_bytes, etag, metadata = int(get("Content-Length") or 0), _quoted(get("Etag")), _listed_metadata(element)
    snapshot = element.findtext("Snapshot")
    return _blob(name, size_bytes, etag, get, _ELEMENTS, get("Content-MD5"), metadata, snapshot)


def _blob(
    name: str,
    size_bytes: int,
    etag: str,
    get: Callable[[str], str | None],
    spelling: tuple[str, ...],
    md5: str | None,
    metadata: dict[str, str],
    snapshot: str | None = None,
) -> BlobProperties:
    """Put a blob's properties together from the look-up *get*, whose names *spelling* tells."""
    from pvblob.client.properties import BlobProperties, time_of

    if md5:
        from base64 import b64decode
    modified, created, blob_type, content_type, encoding, language, disposition, cache_control = map(get, spelling)
    return BlobProperties(
        name, size_bytes, etag, time_of(modified), time_of(created), blob_type or "BlockBlob",
        content_type, encoding, language, disposition, cache_control, b64decode(md5) if md5 else None,
        metadata, snapshot,
    )  # fmt: skip


def _listed_name(element: Element) -> str:
    """Return the entry's name; names that XML cannot hold arrive percent-encoded (List Blobs, version 2021-02-12)."""
    name = element.find("Name")
    if name is None:
        return ""
    if name.get("Encoded") == "true":
        from urllib.parse import unquote

        return unquote(name.text or "")
    return name.text or ""


def _listed_metadata(element: Element) -> dict[str, str]:
    return {child.tag: child.text or "" for child in element.iterfind("Metadata/*")}


def _quoted(etag: str | None) -> str:
    """Return a listing's ETag as headers have it: listings leave the quotes out."""
    return "" if not etag else etag if etag.startswith(('"', "W/")) else f'"{etag}"'
