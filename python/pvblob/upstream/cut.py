"""A large Put Blob as parallel blocks and one block list: the blob is the same, and appears as a whole or not at all.

Only when an account's settings ask for it, because the blob then has a list of blocks, which programs can see. A block
may be sent again and again; the list carries the conditions, so it is the one write that counts.
Source: Azure REST, "Put Block", "Put Block List".
"""

from __future__ import annotations

import asyncio
import base64
import secrets

from pvblob.frozen import replace
from pvblob.http import Fields, Request
from pvblob.upstream.attempts import Attempts
from pvblob.upstream.transport import Answer, Part

BLOCKS_MAX = 50_000
# What the list says of the blob's content, by the field of Put Blob that may say it too.
_OF_THE_BLOB = {
    "content-type": "x-ms-blob-content-type",
    "content-encoding": "x-ms-blob-content-encoding",
    "content-language": "x-ms-blob-content-language",
    "cache-control": "x-ms-blob-cache-control",
}
# A checksum of the whole content, or a framing of it, would have to be made anew for every block.
_WHOLE_ONLY = ("content-md5", "x-ms-content-crc64", "x-ms-structured-body", "x-ms-copy-source")
_OF_EVERY_BLOCK = frozenset(
    {
        "x-ms-version",
        "x-ms-lease-id",
        "x-ms-client-request-id",
        "x-ms-encryption-key",
        "x-ms-encryption-key-sha256",
        "x-ms-encryption-algorithm",
        "x-ms-encryption-scope",
        "authorization",
        "x-ms-date",
    }
)


def may_be_cut(request: Request) -> bool:
    """Say whether *request* is a Put Blob of a block blob that no field ties to one request."""
    fields = request.fields
    if request.method != "PUT" or fields.get("x-ms-blob-type") != "BlockBlob" or "?" in request.target:
        return False
    return not any(name in fields for name in _WHOLE_ONLY)


async def put_in_blocks(attempts: Attempts, request: Request, part: Part, block_bytes: int, parallel: int) -> Answer:
    """Put *part* as blocks of *block_bytes*, then the list; return the answer of the list, or of a block that failed.

    Raises GivenUp.
    """
    mark = secrets.token_hex(8)
    offsets = range(0, part.size_bytes, block_bytes)
    ids = [base64.b64encode(f"{mark}{number:08d}".encode()).decode() for number in range(len(offsets))]
    turns = asyncio.Semaphore(parallel)

    async def put(number: int) -> Answer:
        offset = number * block_bytes
        block = Part(part.source, part.offset + offset, min(block_bytes, part.size_bytes - offset))
        async with turns:
            return await attempts.perform(_block_request(request, ids[number]), block, inline_max=1 << 16)

    tasks = [asyncio.ensure_future(put(number)) for number in range(len(offsets))]
    try:
        for done in asyncio.as_completed(tasks):
            answer = await done
            if answer.status != 201:
                return answer
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    items = "".join(f"<Latest>{block_id}</Latest>" for block_id in ids)
    document = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{items}</BlockList>'.encode()
    return await attempts.perform(_list_request(request), Part(document, 0, len(document)), inline_max=1 << 16)


def _block_request(request: Request, block_id: str) -> Request:
    kept = [pair for pair in request.fields.pairs() if pair[0] in _OF_EVERY_BLOCK]
    quoted = block_id.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    return replace(request, target=f"{request.target}?comp=block&blockid={quoted}", fields=Fields.lowered(kept))


def _list_request(request: Request) -> Request:
    pairs = []
    for name, value in request.fields.pairs():
        said = _OF_THE_BLOB.get(name)
        if said is not None and said not in request.fields:
            pairs.append((said, value))
        elif said is None and name != "x-ms-blob-type":
            pairs.append((name, value))
    return replace(request, target=f"{request.target}?comp=blocklist", fields=Fields.lowered(pairs))
