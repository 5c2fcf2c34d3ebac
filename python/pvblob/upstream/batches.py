"""Blob Batch on its way upstream: every sub-request is addressed and authorized anew, as its batch is.

Source: Azure REST, "Blob Batch": each sub-request carries an authorization of its own.
"""

from __future__ import annotations

import secrets

from pvblob.blobs.answers import Refusal
from pvblob.blobs.batch import BATCH_BYTES_MAX, SubRequest, parse_multipart
from pvblob.blobs.target import account_in_host, parse_query
from pvblob.http import Body, Fields, Request
from pvblob.upstream.credentials import Credential
from pvblob.upstream.endpoint import EndpointUrl
from pvblob.upstream.forward import forwarded, has_dot_segment


def is_batch(request: Request) -> bool:
    """Say whether *request* is a batch."""
    return request.method == "POST" and parse_query(request.target.partition("?")[2]).get("comp") == "batch"


async def rewritten(
    request: Request, body: Body, endpoint: EndpointUrl, account: str, credential: Credential
) -> tuple[Request, bytes]:
    """Return *request* and its content with every sub-request made for *endpoint*. Raises Refusal."""
    if body.size_bytes > BATCH_BYTES_MAX:
        raise Refusal("RequestBodyTooLarge")
    content_type = request.fields.get("content-type") or ""
    boundary = _boundary(content_type)
    parts = parse_multipart(await body.read(), boundary, request)
    mark = f"batch_{secrets.token_hex(16)}"
    written = b"".join(_written(mark, part, request, endpoint, account, credential) for part in parts)
    fields = Fields.lowered(list(request.fields.pairs()))
    fields.set("content-type", f"multipart/mixed; boundary={mark}")
    sent = Request(request.method, request.scheme, request.authority, request.target, fields)
    sent.guest, sent.deadline_s = request.guest, request.deadline_s
    return sent, written + f"--{mark}--\r\n".encode()


def _boundary(content_type: str) -> str:
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name.strip().lower() == "boundary" and value:
            return value.strip().strip('"')
    raise Refusal("InvalidHeaderValue", "Content-Type has no boundary.")


def _written(
    mark: str, part: SubRequest, batch: Request, endpoint: EndpointUrl, account: str, credential: Credential
) -> bytes:
    request = part.request
    request.target = _within(batch, request, account)
    sent = forwarded(request, endpoint, account, 0, guests_own=credential.guests_own)
    sent.fields.discard("host")
    if not credential.guests_own:
        # Signed with the version of the batch, which it may not name itself.
        sent.fields.discard("x-ms-version")
        credential.authorize(sent)
    lines = [f"--{mark}", "Content-Type: application/http", "Content-Transfer-Encoding: binary"]
    if part.content_id is not None:
        lines.append(f"Content-ID: {part.content_id}")
    lines += ["", f"{sent.method} {sent.target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.fields), "", ""]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n"


def _within(batch: Request, request: Request, account: str) -> str:
    """Return the sub-request's target in the style of its batch; it must stay in the batch's account and container."""
    target = request.target
    inside = _container(batch, batch.target, account)
    if account_in_host(batch.authority) is None:
        # In path style the account may be left out of it, as the Azure SDKs do.
        segments = target.partition("?")[0].split("/", 3)
        if segments[1] != account or len(segments) < 4:
            target = f"/{account}{target}"
    request.authority = batch.authority
    if has_dot_segment(target) or (inside and _container(batch, target, account) != inside):
        raise Refusal("InvalidInput", "A sub-request must stay within the account or container of its batch.")
    return target


def _container(batch: Request, target: str, account: str) -> str:
    path = target.partition("?")[0]
    if account_in_host(batch.authority) is None:
        path = path.removeprefix(f"/{account}")
    return path[1:].partition("/")[0]
