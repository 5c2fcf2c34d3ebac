"""The Azure SDK over pvblob's transports, with the embedded service on the other side of an in-process exchange.

No channel here: `ServiceExchange` executes each request on a real EmbeddedService that runs on a loop of its own, as
the host's does. It keeps what passed, so that tests can say what the transport sent and what became of the answers.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from azure.storage.blob import BlobServiceClient, ContainerClient
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient
from azure.storage.blob.aio import ContainerClient as AsyncContainerClient

from pvblob.blobs.service import EmbeddedService
from pvblob.client.exchange import Answer
from pvblob.http import BytesBody, FileContent, Request
from pvblob.integrations.azure_core import AsyncPvblobTransport, PvblobTransport

ACCOUNT_URL = "https://devstoreaccount1.blob.core.windows.net"


@dataclass
class Passed:
    """One request that went through an exchange."""

    request: Request
    body: Any
    sent: bytes
    timeout_s: float
    answer: Answer | None = None


@dataclass
class ServiceExchange:
    """An `Exchange` whose host is a service in this process. fail_with: raised instead of performing."""

    service: EmbeddedService
    loop: asyncio.AbstractEventLoop
    passed: list[Passed] = field(default_factory=list)
    fail_with: Exception | None = None
    closed: int = 0

    def perform(self, request: Request, body: Any = None, *, timeout_s: float = 60.0) -> Answer:
        sent = b"".join(body.chunks()) if hasattr(body, "chunks") else bytes(body or b"")
        note = self._note(request, body, sent, timeout_s)
        note.answer = asyncio.run_coroutine_threadsafe(self._execute(request, sent), self.loop).result(timeout_s)
        return note.answer

    def _note(self, request: Request, body: Any, sent: bytes, timeout_s: float) -> Passed:
        self.passed.append(Passed(request, body, sent, timeout_s))
        if self.fail_with is not None:
            raise self.fail_with
        return self.passed[-1]

    async def _execute(self, request: Request, sent: bytes) -> Answer:
        response = await self.service.execute(request, BytesBody(sent))
        content = response.content
        if isinstance(content, FileContent):
            pieces = [os.pread(extent.fd, extent.length, extent.offset) for extent in content.extents]
            content.release()
            content = b"".join(pieces)
        return Answer(response.status, response.fields, b"" if request.method == "HEAD" else content)

    def close(self) -> None:
        self.closed += 1


@dataclass
class AsyncServiceExchange(ServiceExchange):
    """The same as an `AsyncExchange`."""

    async def perform(  # type: ignore[override]
        self, request: Request, body: Any = None, *, timeout_s: float = 60.0
    ) -> Answer:
        sent = b"".join([piece async for piece in body.chunks()]) if hasattr(body, "chunks") else bytes(body or b"")
        note = self._note(request, body, sent, timeout_s)
        executed = asyncio.run_coroutine_threadsafe(self._execute(request, sent), self.loop)
        note.answer = await asyncio.wait_for(asyncio.wrap_future(executed), timeout_s)
        return note.answer

    async def aclose(self) -> None:
        self.closed += 1


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedService, asyncio.AbstractEventLoop]]:
    """An embedded service and the loop it runs on."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def opened() -> EmbeddedService:
        service = EmbeddedService(tmp_path_factory.mktemp("store"), durability="none")
        service.open()
        return service

    async def close(service: EmbeddedService) -> None:
        service.close()

    service = asyncio.run_coroutine_threadsafe(opened(), loop).result(30)
    yield service, loop
    asyncio.run_coroutine_threadsafe(close(service), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def exchange(host: tuple[EmbeddedService, asyncio.AbstractEventLoop]) -> ServiceExchange:
    return ServiceExchange(*host)


@pytest.fixture
def aexchange(host: tuple[EmbeddedService, asyncio.AbstractEventLoop]) -> AsyncServiceExchange:
    return AsyncServiceExchange(*host)


@pytest.fixture
def transport(exchange: ServiceExchange) -> PvblobTransport:
    return PvblobTransport(exchange=exchange)  # type: ignore[arg-type]


@pytest.fixture
def atransport(aexchange: AsyncServiceExchange) -> AsyncPvblobTransport:
    return AsyncPvblobTransport(exchange=aexchange)  # type: ignore[arg-type]


@pytest.fixture
def make_client(transport: PvblobTransport) -> Callable[..., BlobServiceClient]:
    """Make service clients over the transport, with no credential and no SDK retries unless asked for."""

    def make(**options: Any) -> BlobServiceClient:
        return BlobServiceClient(ACCOUNT_URL, transport=transport, **{"retry_total": 0, **options})

    return make


@pytest.fixture
def make_aclient(atransport: AsyncPvblobTransport) -> Callable[..., AsyncBlobServiceClient]:
    """Make async service clients over the transport."""

    def make(**options: Any) -> AsyncBlobServiceClient:
        return AsyncBlobServiceClient(ACCOUNT_URL, transport=atransport, **{"retry_total": 0, **options})

    return make


@pytest.fixture
def container(make_client: Callable[..., BlobServiceClient], exchange: ServiceExchange) -> ContainerClient:
    """A container of the test's own."""
    created = make_client().create_container(f"c{uuid4().hex}")
    exchange.passed.clear()
    return created


@pytest.fixture
async def acontainer(
    make_aclient: Callable[..., AsyncBlobServiceClient], aexchange: AsyncServiceExchange
) -> AsyncIterator[AsyncContainerClient]:
    """A container of the test's own, for the async clients."""
    async with make_aclient() as client:
        created = await client.create_container(f"c{uuid4().hex}")
        aexchange.passed.clear()
        yield created
