"""Drives the embedded service as a backend: real files under tmp_path, real requests, no mocks."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pvblob.blobs import catalog
from pvblob.blobs.service import EmbeddedService
from pvblob.http import Body, BytesBody, Fields, FileContent, OnceKey, Request, Response

HOST = "acct.blob.core.windows.net"


def read_content(response: Response) -> bytes:
    """Read a response's content as the front and the data plane do, and release it."""
    content = response.content
    if not isinstance(content, FileContent):
        return content
    pieces = [os.pread(extent.fd, extent.length, extent.offset) for extent in content.extents]
    content.release()
    return b"".join(pieces)


def make_old_store(directory: Path, version: int) -> None:
    """Make a store as programs did whose catalog had *version*, with an empty blob `con/b` of account `acct`."""
    (directory / "segments").mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(directory / "catalog.sqlite")) as old:
        steps = " ".join(catalog.MIGRATIONS[step] for step in range(version))
        old.executescript(f"BEGIN; {steps} PRAGMA user_version = {version}; COMMIT;")
        old.execute(
            "INSERT INTO containers (id, account, name, version, modified, metadata, public_access)"
            " VALUES (1, 'acct', 'con', 5, 1, '', '')"
        )
        old.execute(
            "INSERT INTO blobs (container_id, name, version, size, created, modified, settings, metadata, tier,"
            " tier_changed, copy, layout) VALUES (1, ?, 6, 0, 1, 1, '', '', '', 0, '', ?)",
            (b"b", b""),
        )
        old.commit()


@dataclass
class Answer:
    status: int
    fields: Fields
    body: bytes

    @property
    def code(self) -> str | None:
        return self.fields.get("x-ms-error-code")

    @property
    def etag(self) -> str:
        found = self.fields.get("etag")
        assert found is not None
        return found

    @property
    def xml(self) -> ElementTree.Element:
        return ElementTree.fromstring(self.body)


class Caller:
    """Calls `execute` and reads the answer."""

    def __init__(self, service: EmbeddedService) -> None:
        self.service = service

    async def raw(
        self,
        method: str,
        target: str,
        fields: dict[str, str] | None = None,
        body: bytes | Body = b"",
        *,
        authority: str = HOST,
        once: OnceKey | None = None,
    ) -> Response:
        request = Request(method, "https", authority, target, Fields((fields or {}).items()), once)
        return await self.service.execute(request, BytesBody(body) if isinstance(body, bytes) else body)

    async def __call__(
        self,
        method: str,
        target: str,
        fields: dict[str, str] | None = None,
        body: bytes | Body = b"",
        *,
        authority: str = HOST,
        once: OnceKey | None = None,
    ) -> Answer:
        response = await self.raw(method, target, fields, body, authority=authority, once=once)
        content = read_content(response)
        if method != "HEAD":
            assert response.fields.get("content-length") == str(len(content))
        for name in ("date", "x-ms-request-id", "x-ms-version"):
            assert name in response.fields
        return Answer(response.status, response.fields, content)

    async def make(self, container: str = "con") -> None:
        assert (await self("PUT", f"/{container}?restype=container")).status == 201

    async def put(self, target: str, body: bytes | Body = b"", **fields: str) -> Answer:
        head = {name.replace("_", "-"): value for name, value in fields.items()}
        return await self("PUT", target, {"x-ms-blob-type": "BlockBlob", **head}, body)


@pytest.fixture
def open_service(tmp_path: Path) -> AsyncIterator[Callable[..., EmbeddedService]]:
    """Open services on tmp_path/store that are closed at the end."""
    opened: list[EmbeddedService] = []

    def make(**options: object) -> EmbeddedService:
        service = EmbeddedService(tmp_path / "store", **{"durability": "none", **options})  # type: ignore[arg-type]
        service.open()
        opened.append(service)
        return service

    yield make  # type: ignore[misc]
    for service in opened:
        service.close()


@pytest.fixture
async def call(open_service: Callable[..., EmbeddedService]) -> Caller:
    """A caller of a fresh store that has the container `con`."""
    caller = Caller(open_service())
    await caller.make()
    return caller


@pytest.fixture
async def durable_call(open_service: Callable[..., EmbeddedService]) -> Caller:
    """The same with durability="fsync"."""
    caller = Caller(open_service(durability="fsync"))
    await caller.make()
    return caller
