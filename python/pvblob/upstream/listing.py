"""The blobs of a container elsewhere, page by page. Source: Azure REST, "List Blobs"."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote, unquote
from xml.parsers import expat

from pvblob.blobs.segment_work import read_content
from pvblob.frozen import replace
from pvblob.http import ArrivingContent, BytesBody, Content, ContentLost, Request
from pvblob.upstream.azure import AzureUpstream
from pvblob.upstream.failures import GivenUp

PAGE_BYTES_MAX = 64 << 20


@dataclass(slots=True)
class ListedBlob:
    """A blob's name and its size in bytes."""

    name: str
    size_bytes: int


async def list_blobs(
    backend: AzureUpstream, request: Request, container: str, prefix: str
) -> AsyncIterator[ListedBlob]:
    """Yield the blobs whose names begin with *prefix*. *request*: says who asks. Raises GivenUp with the refusal."""
    marker = ""
    while True:
        query = f"restype=container&comp=list&prefix={quote(prefix, safe='')}&marker={quote(marker, safe='')}"
        target = f"/{quote(container, safe='$')}?{query}"
        answer = await backend.execute(replace(request, method="GET", target=target), BytesBody())
        try:
            content = await _read(answer.content)
        except ContentLost as lost:
            raise GivenUp(lost.response) from None
        if answer.status != 200:
            raise GivenUp(dataclasses.replace(answer, content=content))
        page = _Page()
        try:
            page.parse(content)
        except (expat.ExpatError, ValueError) as error:
            raise ValueError(f"the account's listing of {container} cannot be read: {error}") from None
        for blob in page.blobs:
            yield blob
        if not page.next_marker:
            return
        marker = page.next_marker


async def _read(content: Content) -> bytes:
    if isinstance(content, bytes):
        return content
    try:
        if content.size_bytes > PAGE_BYTES_MAX:
            raise ValueError(f"a page of a listing has {content.size_bytes} bytes")
        if isinstance(content, ArrivingContent):
            return b"".join([chunk async for chunk in content.chunks()])
        return await asyncio.get_running_loop().run_in_executor(None, read_content, content)
    finally:
        content.release()


class _Page:
    """What is in one page of a listing; a document with declarations (entities) is refused."""

    def __init__(self) -> None:
        self.blobs: list[ListedBlob] = []
        self.next_marker = ""
        self._path: list[str] = []
        self._text = ""
        self._encoded = False
        self._name, self._size_bytes = "", 0

    def parse(self, document: bytes) -> None:
        """Read *document*. Raises expat.ExpatError, ValueError."""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._declared
        parser.Parse(document, True)

    def _declared(self, *_: object) -> None:
        raise ValueError("it has a document type declaration")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        self._text = ""
        self._encoded = attributes.get("Encoded", "").lower() == "true"

    def _characters(self, text: str) -> None:
        self._text += text

    def _end(self, name: str) -> None:
        path, text = self._path[-3:], self._text
        if path[-2:] == ["Blob", "Name"]:
            self._name = unquote(text) if self._encoded else text
        elif path == ["Blob", "Properties", "Content-Length"]:
            self._size_bytes = int(text)
        elif name == "Blob":
            self.blobs.append(ListedBlob(self._name, self._size_bytes))
        elif name == "NextMarker":
            self.next_marker = text
        self._path.pop()
        self._text = ""
