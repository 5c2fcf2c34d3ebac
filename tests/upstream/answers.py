"""Requests as guests send them, answers as bad servers give them, and what of an answer tests look at."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from pvblob.http import ArrivingContent, Fields, Request, Response
from pvblob.upstream.azure import AzureUpstream
from tests.upstream.world import ACCOUNT

GUEST = f"{ACCOUNT}.blob.core.windows.net"
OpenAccount = Callable[..., Awaitable[AzureUpstream]]


def request(method: str, target: str = "/c/b", *fields: tuple[str, str], within_s: float = 20.0) -> Request:
    made = Request(method, "https", GUEST, target, Fields(fields), guest="tester")
    made.deadline_s = time.monotonic() + within_s
    return made


def said(status: str, content: bytes = b"", *fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(content)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + content


def code(response: Response) -> tuple[int, str | None]:
    return response.status, response.fields.get("x-ms-error-code")


async def content_of(response: Response) -> bytes:
    content = response.content
    if isinstance(content, ArrivingContent):
        try:
            return b"".join([chunk async for chunk in content.chunks()])
        finally:
            content.release()
    assert isinstance(content, bytes)
    return content
