"""Blob Batch: many deletes in one request, as the multipart/mixed body that Azure defines, and back.

Names → body; answer → the deletes that failed. At most 256 in one batch. Source: Azure REST, "Blob Batch".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pvblob.client import answers
from pvblob.errors import BlobError, RemoteProtocolError, blob_error

if TYPE_CHECKING:
    from pvblob.client.exchange import Answer
    from pvblob.http_request import Request

SUBREQUESTS_MAX = 256
_CODE = b"x-ms-error-code:"


def batches(names: Iterable[str]) -> Iterator[list[str]]:
    """Cut *names* into lists of at most 256; a name given twice is asked for once."""
    batch: list[str] = []
    for name in dict.fromkeys(names):
        batch.append(name)
        if len(batch) == SUBREQUESTS_MAX:
            yield batch
            batch = []
    if batch:
        yield batch


def encode(targets: Sequence[str]) -> tuple[str, bytes]:
    """Return (boundary, body) of a batch that deletes the blobs at these raw paths."""
    boundary = f"batch_{os.urandom(16).hex()}"
    parts = [
        f"--{boundary}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n"
        f"Content-ID: {index}\r\n\r\nDELETE {target} HTTP/1.1\r\n"
        "x-ms-delete-snapshots: include\r\nContent-Length: 0\r\n\r\n\r\n"
        for index, target in enumerate(targets)
    ]
    return boundary, ("".join(parts) + f"--{boundary}--\r\n").encode("ascii")


def failures(answer: Answer, request: Request, blobs: Sequence[str]) -> dict[str, BlobError]:
    """Return blob → error for every delete that failed; empty when all succeeded.

    Raises the error of the batch itself, or RemoteProtocolError when the answer does not answer every delete.
    """
    answers.check(answer, request)
    outcomes = dict(_outcomes(answer))
    if missing := [blob for index, blob in enumerate(blobs) if index not in outcomes]:
        raise RemoteProtocolError(f"the batch's answer leaves out {len(missing)} deletes, e.g. of {missing[0]!r}")
    return {
        blob: blob_error(status, code, f"DELETE {blob}")
        for blob, (status, code) in zip(blobs, (outcomes[index] for index in range(len(blobs))), strict=True)
        if status >= 300
    }


def _outcomes(answer: Answer) -> Iterator[tuple[int, tuple[int, str]]]:
    """Yield (Content-ID, (status, error code)) of each part."""
    boundary = (answer.fields.get("content-type") or "").partition("boundary=")[2].strip('" ')
    if not boundary:
        raise RemoteProtocolError("the batch's answer has no multipart boundary in its content-type")
    for position, part in enumerate(answer.content.split(b"--" + boundary.encode("latin-1"))[1:-1]):
        head, _, message = part.strip(b"\r\n").partition(b"\r\n\r\n")
        index = int(_line(head, b"content-id:") or position)
        status = message.partition(b" ")[2][:3]
        if not status.isdigit():
            raise RemoteProtocolError(f"part {index} of the batch's answer has no status line")
        yield index, (int(status), _line(message, _CODE) or "Unspecified")


def _line(head: bytes, name: bytes) -> str:
    for line in head.split(b"\r\n"):
        if line.lower().startswith(name):
            return line[len(name) :].strip().decode("latin-1")
    return ""
