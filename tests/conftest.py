"""A live host in this process, for tests of both sides at once: its own thread and loop, real sockets, real memory."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pvblob.blobs.service import EmbeddedService
from pvblob.http import Backend, Body, Fields, Request, Response
from pvblob.vsp.host import Host


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="replay a crash test with the seed it printed")
    parser.addoption("--points", type=int, default=None, help="how many points the crash tests try")


def pytest_configure() -> None:
    """Let Ctrl-C mean what it means at a terminal: a shell starts what runs in its background with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class LiveHost:
    """A `Host` on a thread of its own. `stop` and `start` make it a host that was restarted."""

    def __init__(self, backend: Backend, socket_path: Path, **settings: object) -> None:
        self.backend = backend
        self.socket_path = str(socket_path)
        self._settings = settings
        self.start()

    def start(self) -> None:
        started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), name="live-host")
        self._thread.start()
        started.wait(30)
        if self._error is not None:
            raise self._error

    async def _serve(self, started: threading.Event) -> None:
        self.loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            self.host = Host(self.backend, self.socket_path, **self._settings)  # type: ignore[arg-type]
            await self.host.start()
        except BaseException as error:
            self._error = error
            started.set()
            return
        started.set()
        await self._stopping.wait()
        await self.host.stop()

    def stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(30)
            assert not self._thread.is_alive(), "the host does not stop"

    def call(self, function: Callable[[], object]) -> object:
        """Run *function* on the host's loop and return its result."""

        async def run() -> object:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(30)


class GateBackend:
    """A backend whose answers wait for the test: `/wait/…` until `open_gate`, all other requests at once.

    It answers GET with `size` bytes of a pattern, and remembers what began, ended and was cancelled.
    """

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.ended: list[str] = []
        self.cancelled: list[str] = []
        self.bodies: list[bytes] = []
        self._gate = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def open_gate(self) -> None:
        self._gate.set()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        for future in self._waiters:
            if not future.done():
                future.set_result(None)

    async def execute(self, request: Request, body: Body) -> Response:
        if body.size_bytes:
            self.bodies.append(await body.read())
        if request.target.startswith("/wait/"):
            await self._pass_gate(request.target)
        self.ended.append(request.target)
        content = pattern(int(request.target.rpartition("/")[2])) if request.method == "GET" else b""
        return Response(200, Fields([("content-length", str(len(content)))]), content)

    async def _pass_gate(self, target: str) -> None:
        self._loop = asyncio.get_running_loop()
        future = self._loop.create_future()
        self._waiters.append(future)
        self.began.release()
        if self._gate.is_set():
            return
        try:
            await future
        except asyncio.CancelledError:
            self.cancelled.append(target)
            raise


def pattern(size_bytes: int) -> bytes:
    """Bytes that differ at every position of a page and from page to page."""
    unit = bytes(range(256)) * 16 + b"pvblob!"
    return (unit * (size_bytes // len(unit) + 1))[:size_bytes]


@pytest.fixture
def make_host(tmp_path: Path) -> Iterator[Callable[..., LiveHost]]:
    """Return a function that starts a host: make_host(backend=None, **settings); None = an embedded service."""
    with ExitStack() as stack:

        def make(backend: Backend | None = None, **settings: object) -> LiveHost:
            if backend is None:
                backend = stack.enter_context(EmbeddedService(tmp_path / "store", durability="none"))
            host = LiveHost(backend, tmp_path / "bus.sock", **settings)
            stack.callback(host.stop)
            return host

        yield make


@pytest.fixture
def gate() -> Iterator[GateBackend]:
    backend = GateBackend()
    yield backend
    backend.open_gate()


@pytest.fixture
def gated_host(make_host: Callable[..., LiveHost], gate: GateBackend) -> LiveHost:
    return make_host(gate)


@pytest.fixture
def live_host(make_host: Callable[..., LiveHost]) -> LiveHost:
    return make_host()


def rest(method: str, target: str, *fields: tuple[str, str]) -> Request:
    """Return a request to the development account as an SDK would make it."""
    return Request(method, "https", "devstoreaccount1.blob.core.windows.net", target, Fields(list(fields)))


@pytest.fixture
def request_to() -> Callable[..., Request]:
    return rest
