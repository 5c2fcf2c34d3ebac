"""How the embedded service answers: common fields, error bodies, and one table from error code to status and message.

Handlers return `answer(...)` or raise `Refusal(code)`; `service` and `committer` turn a refusal into its Response.
Invariant: every Response carries content-length, date, x-ms-request-id and x-ms-version.
Source: Azure REST, "Status and error codes", "Common REST API error codes", "Blob service error codes".
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from xml.sax.saxutils import escape

from pvblob.blobs.target import InvalidTarget, Target
from pvblob.errors import REASON_FIELD, PvblobError
from pvblob.http import Body, Fields, FileContent, Head, Request, Response, Slot

VERSION_NEWEST = "2026-10-06"
XML_DECLARATION = '<?xml version="1.0" encoding="utf-8"?>'

Pairs = list[tuple[str, str]]

ERRORS: dict[str, tuple[int, str]] = {
    "AppendPositionConditionNotMet": (412, "The append position condition specified was not met."),
    "BlobAlreadyExists": (409, "The specified blob already exists."),
    "BlobIsSealed": (409, "The specified blob is sealed and nothing can be appended to it."),
    "BlobNotFound": (404, "The specified blob does not exist."),
    "BlockCountExceedsLimit": (409, "The block count cannot exceed the maximum limit."),
    "BlockListTooLong": (400, "The block list may not contain more than 50,000 blocks."),
    "CannotVerifyCopySource": (404, "The specified blob does not exist."),
    "ConditionNotMet": (412, "The condition specified using HTTP conditional header(s) is not met."),
    "ContainerAlreadyExists": (409, "The specified container already exists."),
    "ContainerNotFound": (404, "The specified container does not exist."),
    "Crc64Mismatch": (400, "The CRC64 value specified in the request is not that of the content received."),
    "EmptyMetadataKey": (400, "The key for one of the metadata key-value pairs is empty."),
    "InternalError": (500, "The server encountered an internal error. Please retry the request."),
    "ExceedsMaxBatchRequestCount": (400, "The batch request contains more than 256 sub-requests."),
    "IncompleteBody": (400, "You did not provide the number of bytes specified by the Content-Length HTTP header."),
    "InvalidBlobOrBlock": (400, "The specified blob or block content is invalid."),
    "InvalidBlobType": (409, "The blob type is invalid for this operation."),
    "InvalidBlockId": (400, "The specified block ID is invalid. It must be Base64 of 1 to 64 bytes."),
    "InvalidBlockList": (400, "The specified block list is invalid."),
    "InvalidHeaderValue": (400, "The value for one of the HTTP headers is not in the correct format."),
    "InvalidInput": (400, "One of the request inputs is not valid."),
    "InvalidMd5": (400, "The MD5 value specified in the request is invalid. It must be 128 bits and Base64-encoded."),
    "InvalidMetadata": (400, "The metadata specified is invalid. It has characters that are not permitted."),
    "InvalidQueryParameterValue": (400, "The value of a query parameter in the request URI is invalid."),
    "InvalidRange": (416, "The range specified is invalid for the current size of the resource."),
    "InvalidResourceName": (400, "The specified resource name contains invalid characters."),
    "InvalidTags": (400, "The tags specified are invalid."),
    "InvalidUri": (400, "The requested URI does not represent any resource on the server."),
    "InvalidXmlDocument": (400, "XML specified is not syntactically valid."),
    "LeaseAlreadyPresent": (409, "There is already a lease present."),
    "LeaseIdMissing": (412, "There is currently a lease and no lease ID was specified in the request."),
    "LeaseIdMismatchWithBlobOperation": (412, "The lease ID specified did not match the lease ID for the blob."),
    "LeaseIdMismatchWithContainerOperation": (412, "The lease ID specified is not that of the container's lease."),
    "LeaseIdMismatchWithLeaseOperation": (409, "The lease ID specified did not match the lease ID."),
    "LeaseIsBreakingAndCannotBeAcquired": (409, "The lease is breaking and cannot be acquired until it is broken."),
    "LeaseIsBreakingAndCannotBeChanged": (
        409,
        "The lease ID matched, but the lease is breaking and stays as it is.",
    ),
    "LeaseIsBrokenAndCannotBeRenewed": (409, "The lease ID matched, but the lease was broken and cannot be renewed."),
    "LeaseLost": (412, "A lease ID was specified, but the lease has expired."),
    "LeaseNotPresentWithBlobOperation": (412, "There is currently no lease on the blob."),
    "LeaseNotPresentWithContainerOperation": (412, "There is currently no lease on the container."),
    "LeaseNotPresentWithLeaseOperation": (409, "There is currently no lease."),
    "Md5Mismatch": (400, "The MD5 value specified in the request is not that of the content received."),
    "MaxBlobSizeConditionNotMet": (412, "The max blob size condition specified was not met."),
    "MetadataTooLarge": (400, "The size of the specified metadata exceeds the maximum size permitted."),
    "MissingRequiredHeader": (400, "An HTTP header that's mandatory for this request is not specified."),
    "MissingRequiredQueryParameter": (400, "A query parameter that's mandatory for this request is not specified."),
    "MultipleConditionHeadersNotSupported": (400, "Multiple condition headers are not supported."),
    "NotImplemented": (501, "The requested operation is not implemented by this host."),
    "OperationIdReused": (400, "This request id was used before for a different request."),
    "OutOfRangeInput": (400, "One of the request inputs is out of range."),
    "OutOfRangeQueryParameterValue": (400, "A query parameter specified in the request URI is out of range."),
    "RequestBodyTooLarge": (413, "The request body is too large and exceeds the maximum permissible limit."),
    "ServerBusy": (503, "The server is currently unable to receive requests. Please retry your request."),
    "SnapshotsPresent": (409, "This operation is not permitted while the blob has snapshots."),
    "SourceConditionNotMet": (412, "The source condition specified using HTTP conditional header(s) is not met."),
    "UnsatisfiableCondition": (400, "The request includes an unsatisfiable condition for this operation."),
    "UnsupportedHeader": (400, "One of the HTTP headers specified in the request is not supported."),
}


class Refusal(PvblobError):
    """The operation's own error answer: a code of `ERRORS`, with an optional text and extra fields."""

    def __init__(
        self, code: str, message: str | None = None, *, status: int | None = None, fields: Pairs | None = None
    ):
        known_status, known_message = ERRORS[code]
        super().__init__(code)
        self.code = code
        self.status = known_status if status is None else status
        self.message = known_message if message is None else f"{known_message} {message}"
        self.fields: Pairs = fields or []


@dataclass(slots=True)
class Call:
    """One request as handlers see it: the request, its parsed target and its body."""

    request: Request
    target: Target
    body: Body

    @property
    def fields(self) -> Fields:
        """The request's header fields."""
        return self.request.fields


_id_prefix = secrets.token_hex(10)
_ids = itertools.count(1)
_ID_HEAD = f"{_id_prefix[:8]}-{_id_prefix[8:12]}-4{_id_prefix[12:15]}-a{_id_prefix[15:18]}-"

_date_second = -1
_date_text = ""


def request_id() -> str:
    """Return a fresh request id, shaped like a UUID; unique for this process."""
    return f"{_ID_HEAD}{next(_ids):012x}"


@lru_cache(maxsize=4096)
def http_date(seconds: float) -> str:
    """Format seconds since 1970 as an RFC 1123 date."""
    return formatdate(seconds, usegmt=True)


def http_now() -> str:
    """Return the current date in RFC 1123 form; formatted once a second."""
    global _date_second, _date_text
    second = int(time.time())
    if second != _date_second:
        # The text is set first: a thread that sees the new second must not read the old text.
        _date_text = formatdate(second, usegmt=True)
        _date_second = second
    return _date_text


def etag(version: int) -> str:
    """Return the quoted ETag of a version number."""
    return f'"0x{version:X}"'


def answer(
    request: Request,
    status: int,
    pairs: Sequence[tuple[str, str]] = (),
    content: bytes | FileContent = b"",
    length: int | None = None,
) -> Response:
    """Build a Response: the common fields and *pairs* (names lower case).

    length: Content-Length in bytes when it is not that of *content* (HEAD).
    """
    if length is None:
        length = len(content) if type(content) is bytes else content.size_bytes  # type: ignore[union-attr]
    fields = request.fields
    version = fields.get("x-ms-version")
    head: Pairs = [
        ("content-length", str(length)),
        ("date", http_now()),
        ("x-ms-request-id", request_id()),
        # Echoes are the one way from a request's fields to a response's: no line break may pass.
        ("x-ms-version", version if version and version.isprintable() else VERSION_NEWEST),
    ]
    client_id = fields.get("x-ms-client-request-id")
    if client_id is not None and client_id.isprintable():
        head.append(("x-ms-client-request-id", client_id))
    head.extend(pairs)
    return Response(status, Fields.lowered(head), content)


_COMMON_LINES: list[tuple[str, str | Slot]] = [
    ("content-length", Slot.LENGTH),
    ("date", Slot.DATE),
    ("x-ms-request-id", Slot.REQUEST_ID),
    ("x-ms-version", Slot.VERSION),
    ("x-ms-client-request-id", Slot.CLIENT_REQUEST_ID),
]


def ready_head(status: int, pairs: Sequence[tuple[str, str | Slot]]) -> Head:
    """Return the head that `answer` gives with these *pairs*, its changing values as slots."""
    return Head(status, [*_COMMON_LINES, *pairs])


def answer_xml(request: Request, status: int, text: str, pairs: Sequence[tuple[str, str]] = ()) -> Response:
    """Answer with an XML document; *text* is everything after the declaration."""
    return answer(request, status, [("content-type", "application/xml"), *pairs], (XML_DECLARATION + text).encode())


def refuse(request: Request, refusal: Refusal) -> Response:
    """Turn *refusal* into its Response: XML body except for HEAD and 304, which carry the code in a field only."""
    pairs: Pairs = [("x-ms-error-code", refusal.code), *refusal.fields]
    if request.method == "HEAD" or refusal.status == 304:
        if refusal.message != ERRORS[refusal.code][1]:
            pairs.append(reason(refusal.message))
        return answer(request, refusal.status, pairs)
    body = f"<Error><Code>{refusal.code}</Code><Message>{escape(refusal.message)}</Message></Error>"
    return answer_xml(request, refusal.status, body, pairs)


def reason(message: str) -> tuple[str, str]:
    """Return the field that says *message* where no body may."""
    return REASON_FIELD, message.encode("unicode_escape").decode("ascii")


def invalid_target(request: Request, error: InvalidTarget) -> Response:
    """Answer a request whose URI could not be parsed."""
    return refuse(request, Refusal(error.code, str(error)))
