"""Design rules 3, 4 and 9: host and guests are killed with SIGKILL under load, again and again, on one store.

Guests see no error: a killed host is a pause. Afterwards every acknowledged write reads back, none was executed twice
(a second execution would fail its own condition), and neither space nor descriptors nor lent memory have leaked.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
from pathlib import Path

import pytest

from pvblob.blobs.service import EmbeddedService
from pvblob.client.exchange import Exchange
from pvblob.http import BytesBody, FileContent
from tests.crash.actors import Actor, Ledger, Resources, play_guest, play_host, request_to, start_host, wait_until
from tests.crash.conftest import FULL, used_bytes

GUESTS = 3
# When to kill: after a while, when a guest says that a write has begun or was acknowledged, while the next host starts.
MOMENTS = ["delay", "begin", "done", "start"]


class Stage:
    """One store, one host, a few guests, and somebody with a gun."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.store = directory / "store"
        self.socket_path = str(directory / "bus.sock")
        self.ledger = Ledger()
        self.host = start_host(self.store, self.socket_path)
        with Exchange(self.socket_path) as exchange:
            assert exchange.perform(request_to("PUT", "/con?restype=container")).status == 201
        self.guests: list[Actor] = []
        self._lives = 0
        self.tally: dict[str, int] = {}

    def fill(self) -> None:
        """Start guests until there are enough."""
        while len(self.guests) < GUESTS:
            self._lives += 1
            arguments = (self.socket_path, f"g{self._lives}", self.chance.randrange(10**9), 0.01)
            self.guests.append(Actor(play_guest, *arguments))

    def listen(self) -> None:
        for guest in self.guests:
            self.ledger.drain(guest)

    def point(self) -> None:
        """Wait for the chosen moment and kill whoever was chosen; then the dead one has a successor."""
        moment = self.chance.choice(MOMENTS)
        victim = "host" if moment == "start" else self.chance.choice(["host", "host", "guest"])
        self.tally[f"{victim} at {moment}"] = self.tally.get(f"{victim} at {moment}", 0) + 1
        shot = self.chance.choice(self.guests)
        self._await(moment, shot)
        if victim == "host":
            self.host.kill()
            if moment == "start":
                successor = Actor(play_host, str(self.store), self.socket_path, "none")
                time.sleep(self.chance.random() * 0.1)
                successor.kill()
            self.host = start_host(self.store, self.socket_path)
        else:
            shot.kill()
            self.ledger.drain(shot)
            self.guests.remove(shot)
        self.fill()
        self.listen()

    def _await(self, moment: str, guest: Actor) -> None:
        if moment in ("begin", "done"):
            for _ in range(self.chance.randrange(1, 6)):
                words = guest.hear()
                self.ledger.hear(words)
            while words[0] != moment:
                words = guest.hear()
                self.ledger.hear(words)
        time.sleep(self.chance.random() * (0.2 if moment == "delay" else 0.005))

    def quiesce(self) -> None:
        """End the guests; the host must be back at its baseline, and the store must hold what was promised."""
        for guest in self.guests:
            guest.pipe.send("end")
        while self.guests:
            guest = self.guests.pop()
            try:
                while True:  # what it says until its end
                    self.ledger.hear(guest.hear(timeout_s=30))
            except EOFError:
                guest.end()
        wait_until(lambda: self.host.ask("space")[0] == 0, lambda: "the host has not forgotten a guest")
        pid = self.host.process.pid
        assert pid is not None
        wait_until(lambda: Resources.of(pid).mappings == 0, lambda: f"lent memory is still mapped: {Resources.of(pid)}")
        descriptors = Resources.of(pid).descriptors
        self.host.end()
        fresh = start_host(self.store, self.socket_path)
        assert fresh.process.pid is not None
        idle = Resources.of(fresh.process.pid)
        assert descriptors <= idle.descriptors + 1, "descriptors were left open"
        fresh.end()
        asyncio.run(self.judge())

    async def judge(self) -> None:
        """Look into the store as it lies on the disk."""
        with EmbeddedService(self.store, durability="none") as service:
            for target, allowed in self.ledger.allowed.items():
                response = await service.execute(request_to("GET", target), BytesBody())
                digest, content = "-", response.content
                if content == b"" and response.status == 200:  # an append blob that is empty yet
                    digest = hashlib.sha256().hexdigest()
                if isinstance(content, FileContent):
                    parts = [os.pread(extent.fd, extent.length, extent.offset) for extent in content.extents]
                    content.release()
                    digest = hashlib.sha256(b"".join(parts)).hexdigest()
                assert digest in allowed, f"{target} holds {digest}, may hold {allowed}"
                if len(allowed) == 1:
                    assert response.fields.get("etag") == self.ledger.etags[target], f"{target} was written again"
            store = service._store
            assert store is not None
            tails, free = store.extents.usage()
            assert tails - free == used_bytes(store.reader), "space has leaked"


@pytest.mark.timeout(1800 if FULL else 120)
def test_whoever_is_killed_nothing_acknowledged_is_lost_done_twice_or_leaked(
    tmp_path: Path, crash_seed: int, crash_points: int
) -> None:
    stage = Stage(tmp_path, crash_seed)
    stage.fill()
    points = crash_points if FULL else crash_points // 2
    for point in range(points):
        stage.point()
        if point % 40 == 39:
            stage.quiesce()
            stage.host = start_host(stage.store, stage.socket_path)
            stage.fill()
    stage.quiesce()
    print(f"{points} points, {stage.ledger.acknowledged} writes acknowledged; {stage.tally}")  # noqa: T201
    assert stage.ledger.acknowledged > points // 4
