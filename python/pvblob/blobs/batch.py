"""Blob Batch: up to 256 deletes or tier changes in one multipart/mixed request, applied in one transaction.

Each sub-request has a savepoint and an answer of its own. On a container every sub-request must name that container;
on the account any of its containers: a caller whose policy is narrower than the account must not let that pass.
Source: Azure REST, "Blob Batch"; RFC 2046 §5.1.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from pvblob.blobs import blob_changes, blob_snapshots
from pvblob.blobs.answers import Call, Refusal, answer, invalid_target, refuse
from pvblob.blobs.mutation import Transaction
from pvblob.blobs.store import Store
from pvblob.blobs.target import InvalidTarget, Target, account_in_host, parse_target, split_url
from pvblob.http import Body, BytesBody, Fields, Request, Response

SUB_REQUESTS_MAX = 256
BATCH_BYTES_MAX = 4 << 20

_OPERATIONS: dict[tuple[str, str | None], Callable[[Transaction, Call], Response]] = {
    ("DELETE", None): blob_snapshots.delete_in,
    ("PUT", "tier"): blob_changes.set_tier_in,
}


@dataclass(slots=True)
class SubRequest:
    """One part: its Content-ID as sent (or None), and the request in it."""

    content_id: str | None
    request: Request


async def blob_batch(store: Store, call: Call) -> Response:
    """Blob Batch on the account or a container: 202 with one answer per sub-request, in order."""
    if call.target.container is not None:
        store.container_id(call)
    parts, _ = await read_batch(call.request, call.body)

    def apply(transaction: Transaction) -> Response:
        answers = [(part, _apply(transaction, call, part)) for part in parts]
        mark = f"batchresponse_{secrets.token_hex(16)}"
        content = b"".join(_format(mark, part, response) for part, response in answers) + f"--{mark}--\r\n".encode()
        return answer(call.request, 202, [("content-type", f"multipart/mixed; boundary={mark}")], content)

    return await store.commit(call, apply)


async def read_batch(request: Request, body: Body) -> tuple[list[SubRequest], bytes]:
    """Read and parse a batch; return its parts and its content. Refuses what is too large or no batch."""
    boundary = _boundary(request.fields.get("content-type") or "")
    if body.size_bytes > BATCH_BYTES_MAX:
        raise Refusal("RequestBodyTooLarge")
    content = await body.read()
    return parse_multipart(content, boundary, request), content


def _boundary(content_type: str) -> str:
    """Take the boundary out of a Content-Type; it may be quoted and may contain `=`."""
    kind, _, parameters = content_type.partition(";")
    if kind.strip().lower() != "multipart/mixed":
        raise Refusal("InvalidHeaderValue", "Content-Type must be multipart/mixed.")
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        boundary = value.strip().strip('"')
        if name.strip().lower() == "boundary" and 1 <= len(boundary) <= 200:
            return boundary
    raise Refusal("InvalidHeaderValue", "Content-Type has no boundary.")


def parse_multipart(body: bytes, boundary: str, outer: Request) -> list[SubRequest]:
    """Parse a batch's body. Refuses what is no multipart, holds no sub-request, or too many."""
    delimiter = b"--" + boundary.encode("latin-1", "replace")
    pieces = (b"\n" + body.replace(b"\r\n", b"\n")).split(b"\n" + delimiter)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise Refusal("InvalidInput", "The body does not end with its boundary.")
    if len(pieces) - 2 > SUB_REQUESTS_MAX:
        raise Refusal("ExceedsMaxBatchRequestCount")
    return [_parse_part(piece, outer) for piece in pieces[1:-1]]


def _parse_part(piece: bytes, outer: Request) -> SubRequest:
    """Parse one part: its own header, then a request line and that request's header."""
    part_head, _, inner = piece.lstrip(b"\n").decode("latin-1").partition("\n\n")
    part_fields = _parse_fields(part_head.split("\n"))
    if (part_fields.get("content-type") or "").partition(";")[0].strip().lower() != "application/http":
        raise Refusal("InvalidInput", "A part's Content-Type must be application/http.")
    lines = inner.lstrip("\n").partition("\n\n")[0].split("\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/"):
        raise Refusal("InvalidInput", f"{lines[0][:80]!r} is no request line.")
    scheme, authority, target = outer.scheme, outer.authority, words[1]
    if "://" in target:
        try:
            scheme, authority, target = split_url(target)
        except InvalidTarget as error:
            raise Refusal("InvalidInput", str(error)) from None
    elif not target.startswith("/"):
        target = f"/{target}"
    request = Request(words[0].upper(), scheme, authority, target, _parse_fields(lines[1:]))
    return SubRequest(part_fields.get("content-id"), request)


def _parse_fields(lines: list[str]) -> Fields:
    fields = Fields()
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            fields.add(name.strip(), value.strip())
        elif line.strip():
            raise Refusal("InvalidInput", f"{line[:80]!r} is no header field.")
    return fields


def sub_target(outer: Target, request: Request) -> Target:
    """Parse a sub-request's target; in path style the account may be left out of it, as the Azure SDKs do.

    outer: the target of the batch. Raises InvalidTarget; refuses what lies outside the batch.
    """
    path = request.target
    if account_in_host(request.authority) is None:
        segments = path.partition("?")[0].split("/", 3)
        if segments[1] != outer.account or len(segments) < 4:
            path = f"/{outer.account}{path}"
    target = parse_target(request.authority, path)
    inside = outer.container is None or target.container == outer.container
    if target.account != outer.account or not inside:
        raise Refusal("InvalidInput", "A sub-request must stay within the account or container of its batch.")
    return target


def _apply(transaction: Transaction, outer: Call, part: SubRequest) -> Response:
    """Apply one sub-request in its own savepoint and return its answer."""
    request = part.request
    own = Transaction(transaction.connection, transaction.now, transaction.now_ms, transaction.next_version)
    transaction.connection.execute("SAVEPOINT sub_request")
    try:
        call = Call(request, sub_target(outer.target, request), BytesBody())
        operation = _OPERATIONS.get((request.method, call.target.query.get("comp")))
        on_snapshot = request.method != "DELETE" and call.target.query.get("snapshot")
        if operation is None or call.target.blob is None or on_snapshot or call.target.query.get("versionid"):
            raise Refusal("NotImplemented", "A batch may hold Delete Blob and Set Blob Tier.")
        response = operation(own, call)
        transaction.freed.extend(own.freed)
        transaction.touched |= own.touched
    except Refusal as refusal:
        transaction.connection.execute("ROLLBACK TO sub_request")
        response = refuse(request, refusal)
    except InvalidTarget as error:
        response = invalid_target(request, error)
    transaction.connection.execute("RELEASE sub_request")
    return response


def _format(mark: str, part: SubRequest, response: Response) -> bytes:
    """Format one answer as a part of the batch's answer."""
    assert isinstance(response.content, bytes)
    head = f"--{mark}\r\nContent-Type: application/http\r\n"
    if part.content_id is not None:
        head += f"Content-ID: {part.content_id}\r\n"
    head += f"\r\nHTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in response.fields)
    return f"{head}\r\n".encode("latin-1", "replace") + response.content + b"\r\n"
