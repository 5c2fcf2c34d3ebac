"""Hosts and guests as processes that may be killed at any moment, and what each has promised.

They are forked from a server that has imported everything, so that one starts within milliseconds. An actor speaks over
its pipe; a killed one leaves what it said before. Nothing in the product knows that it is being killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import multiprocessing
import multiprocessing.context
import random
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from pvblob.blobs.service import EmbeddedService
from pvblob.client.exchange import Answer, AsyncExchange, Exchange
from pvblob.errors import DeviceGone, HostUnavailable
from pvblob.http import Fields, Request
from pvblob.vsp.host import Host
from tests.thread_pools import start_all_threads

AUTHORITY = "devstoreaccount1.blob.core.windows.net"
PIECE_BYTES = 8 << 20
# Close to the longest that a host grants: on a machine with sixty programs for two cores everything takes its time.
TIMEOUT_S = 280.0

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.crash.actors"])


class Actor:
    """A process that runs *play* with a pipe to here."""

    def __init__(self, play: Callable[..., None], *arguments: object) -> None:
        self.pipe, theirs = processes.Pipe()
        self.process = processes.Process(target=play, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    def hear(self, timeout_s: float = 60.0) -> Any:
        """Return what it says next. Raises EOFError when it is dead and has said everything."""
        if not self.pipe.poll(timeout_s):
            raise TimeoutError("the process says nothing")
        try:
            return self.pipe.recv()
        except (ConnectionResetError, OSError):
            raise EOFError from None

    def ask(self, question: str) -> Any:
        """Say something to it and return its answer."""
        self.pipe.send(question)
        return self.hear()

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.join(30)

    def end(self, timeout_s: float = 60.0) -> None:
        """Close our end of the pipe, which asks it to end by itself."""
        self.pipe.close()
        self.process.join(timeout_s)
        assert self.process.exitcode == 0, f"it ended with {self.process.exitcode}"


# ---- the host


def play_host(pipe: Connection, store: str, socket_path: str, durability: Any) -> None:
    """Serve until the pipe closes. It says "ready", then answers "rescind" and "space"."""
    asyncio.run(_serve(pipe, Path(store), socket_path, durability))


async def _serve(pipe: Connection, store: Path, socket_path: str, durability: Any) -> None:
    with EmbeddedService(store, durability=durability, segment_bytes=64 << 20) as service:
        async with Host(service, socket_path) as host:
            await asyncio.to_thread(start_all_threads, host._executor)
            pipe.send("ready")
            listener = ThreadPoolExecutor(1)
            while True:
                try:
                    question = await asyncio.get_running_loop().run_in_executor(listener, pipe.recv)
                except EOFError:
                    return
                if question == "rescind":
                    host.rescind()
                opened = service._store
                assert opened is not None
                pipe.send((host.guests, opened.extents.usage()))


def start_host(store: Path, socket_path: str, durability: str = "none") -> Actor:
    """Start a host and wait until it is ready."""
    host = Actor(play_host, str(store), socket_path, durability)
    assert host.hear() == "ready"
    return host


@dataclass(frozen=True, slots=True)
class Resources:
    """What a process holds: descriptors (segments aside), threads, mappings of lent memory, private bytes."""

    descriptors: int
    threads: int
    mappings: int
    private_bytes: int

    @classmethod
    def of(cls, pid: int) -> Resources:
        process = psutil.Process(pid)
        mappings = Path(f"/proc/{pid}/maps").read_text().count("/memfd:pvblob-")
        status = Path(f"/proc/{pid}/status").read_text()
        private_kib = int(status.partition("RssAnon:")[2].split()[0])
        # Segments stay open and grow in number with what is stored: they are no leak.
        descriptors = sum(_leads_to(link).suffix != ".seg" for link in Path(f"/proc/{pid}/fd").iterdir())
        return cls(descriptors, process.num_threads(), mappings, private_kib << 10)

    def within(self, other: Resources) -> bool:
        """Whether this is no more than *other*, private bytes aside."""
        return (
            self.descriptors <= other.descriptors and self.threads <= other.threads and self.mappings <= other.mappings
        )


def _leads_to(link: Path) -> Path:
    """Return what a descriptor leads to; of one that was closed meanwhile, nothing in particular."""
    try:
        return link.readlink()
    except FileNotFoundError:
        return Path()


# ---- guests


def request_to(method: str, target: str, *fields: tuple[str, str]) -> Request:
    """Return a request as an SDK would make it."""
    return Request(method, "https", AUTHORITY, target, Fields(list(fields)))


def put_request(target: str, size_bytes: int, *fields: tuple[str, str]) -> Request:
    """Return a Put Blob, of a block blob unless *fields* say otherwise."""
    return request_to("PUT", target, *fields, ("x-ms-blob-type", "BlockBlob"), ("content-length", str(size_bytes)))


def play_guest(pipe: Connection, socket_path: str, name: str, seed: int, pace_s: float) -> None:
    """Write and read until the pipe closes. Says ("begin", name, digest) and ("done", name, digest, etag).

    Every write is such that executing it twice shows: a new name with If-None-Match, or a counter with If-Match.
    """
    life = Guest(pipe, socket_path, name, random.Random(seed), pace_s)
    life.connect()
    threads = [threading.Thread(target=life.work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    _until_closed(pipe)
    life.ending.set()
    for thread in threads:
        thread.join()
    if life.failures:
        raise life.failures[0]


class Guest:
    """A guest with two threads on one channel."""

    def __init__(self, pipe: Connection, socket_path: str, name: str, chance: random.Random, pace_s: float) -> None:
        self._pipe = pipe
        self._said = threading.Lock()
        self._exchange = Exchange(socket_path)
        self._name = name
        self._chance = chance
        self._pace_s = pace_s
        self.ending = threading.Event()
        self.failures: list[BaseException] = []

    def connect(self) -> None:
        """Connect: a guest that has never met a host is told at once that there is none, and one may be dead now."""
        while True:
            try:
                self._exchange.connect()
                return
            except (HostUnavailable, DeviceGone):
                time.sleep(0.02)

    def say(self, *words: str) -> None:
        with self._said:
            try:
                self._pipe.send(words)
            except OSError:  # nobody listens any more: we are to end
                self.ending.set()

    def work(self, number: int) -> None:
        written: dict[str, bytes] = {}
        counter, etag = f"/con/{self._name}-{number}-counter", ""
        log, whole = f"/con/{self._name}-{number}-log", b""
        turn = 0
        try:
            while not self.ending.wait(self._pace_s * self._chance.random()):
                turn += 1
                kind = self._chance.random()
                if kind < 0.4:
                    etag = self._count(counter, turn, etag)
                elif kind < 0.6:
                    whole = self._append(log, whole)
                elif kind < 0.8 or not written:
                    self._create(f"/con/{self._name}-{number}-{turn}", written)
                else:
                    self._check(self._chance.choice(list(written)), written)
        except BaseException as failure:
            self.failures.append(failure)
            self.say("failed", "".join(traceback.format_exception(failure)))
            self.ending.set()

    def _count(self, target: str, turn: int, etag: str) -> str:
        condition = ("if-match", etag) if etag else ("if-none-match", "*")
        return self._put(target, str(turn).encode(), condition)

    def _append(self, target: str, whole: bytes) -> bytes:
        """Append to a blob that is made first; where the block lands says whether one before it landed twice."""
        body = self._chance.randbytes(self._chance.choice([10, 5000])) if whole else b"first"
        if not whole:
            self._say_and_perform(target, b"", put_request(target, 0, ("x-ms-blob-type", "AppendBlob")), b"")
        request = request_to("PUT", f"{target}?comp=appendblock", ("content-length", str(len(body))))
        answer = self._say_and_perform(target, whole + body, request, body)
        assert answer.fields.get("x-ms-blob-append-offset") == str(len(whole)), f"done twice: {target}: {answer}"
        return whole + body

    def _create(self, target: str, written: dict[str, bytes]) -> None:
        sizes = [100, 5000, 300_000, 300_000, PIECE_BYTES + 100_000]
        body = self._chance.randbytes(self._chance.choice(sizes))
        self._put(target, body, ("if-none-match", "*"))
        written[target] = hashlib.sha256(body).digest()

    def _put(self, target: str, body: bytes, condition: tuple[str, str]) -> str:
        answer = self._say_and_perform(target, body, put_request(target, len(body), condition), body)
        return answer.fields.get("etag") or ""

    def _say_and_perform(self, target: str, content: bytes, request: Request, body: bytes) -> Answer:
        """Perform a write after which *target* holds *content*, and say so before and after."""
        digest = hashlib.sha256(content).hexdigest()
        self.say("begin", target, digest)
        answer = self._exchange.perform(request, body, timeout_s=TIMEOUT_S)
        assert answer.status == 201, f"done twice or not understood: {target}: {answer}"
        self.say("done", target, digest, answer.fields.get("etag") or "")
        return answer

    def _check(self, target: str, written: dict[str, bytes]) -> None:
        answer = self._exchange.perform(request_to("GET", target), timeout_s=TIMEOUT_S)
        assert hashlib.sha256(answer.content).digest() == written[target], f"{target} is not what was written: {answer}"


def play_canceller(pipe: Connection, socket_path: str, name: str, seed: int, pace_s: float) -> None:
    """A guest on an event loop that cancels half of what it asks for, and asks for much at a time."""
    asyncio.run(_cancel(pipe, socket_path, name, random.Random(seed), pace_s))


async def _cancel(pipe: Connection, socket_path: str, name: str, chance: random.Random, pace_s: float) -> None:
    async with AsyncExchange(socket_path) as exchange:
        ending = asyncio.create_task(asyncio.to_thread(_until_closed, pipe))
        turn = 0
        while not ending.done():
            tasks = []
            for _ in range(8):
                turn += 1
                target = f"/con/{name}-{turn}"
                body = chance.randbytes(chance.choice([100, 200_000]))
                put = exchange.perform(put_request(target, len(body)), body, timeout_s=TIMEOUT_S)
                tasks.append(asyncio.create_task(put))
            await asyncio.sleep(pace_s * chance.random())
            for task in tasks:
                if chance.random() < 0.5:
                    task.cancel()
            for answer in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(answer, asyncio.CancelledError) or getattr(answer, "status", 0) == 201, repr(answer)


def _until_closed(pipe: Connection) -> None:
    """Wait until the pipe is closed, or something comes: either way it is time to end."""
    with contextlib.suppress(EOFError, ConnectionResetError):
        pipe.recv()


# ---- promises


@dataclass(slots=True)
class Ledger:
    """What guests have begun and what was acknowledged: per target, the digests it may have, and the last etag."""

    allowed: dict[str, set[str]] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    acknowledged: int = 0

    def hear(self, words: tuple[str, ...]) -> None:
        if words[0] == "failed":
            raise AssertionError(f"a guest saw an error: {words[1]}")
        if words[0] == "begin":
            self.allowed.setdefault(words[1], {"-"}).add(words[2])
        else:
            _, target, digest, etag = words
            self.allowed[target] = {digest}
            self.etags[target] = etag
            self.acknowledged += 1

    def drain(self, guest: Actor) -> bool:
        """Hear everything a guest has said so far; True when it has ended."""
        try:
            while guest.pipe.poll(0):
                self.hear(guest.hear())
        except (EOFError, BrokenPipeError):
            return True
        return False


def wait_until(condition: Callable[[], bool], what: Callable[[], str], timeout_s: float = 30.0) -> None:
    """Wait for *condition*, looking again often."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)
