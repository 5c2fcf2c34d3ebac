"""`make soak`: a hundred guests come and go, are killed, cancel and are rescinded; the host must stay as it was.

A short wave of guests warms the host up; what it holds after that wave is the baseline. Then guests come and go for
SOAK_SECONDS (600), and what it holds when the last has gone is compared: descriptors, threads and mappings must not
have grown at all, private memory by no more than the pages of the catalog, which grows with every name that is written
and which two connections cache. Prints figures as it goes.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pvblob.client.client import Client
from pvblob.client.exchange import Exchange
from pvblob.errors import DeviceGone, HostUnavailable
from tests.crash.actors import (
    Actor,
    Ledger,
    Resources,
    play_canceller,
    play_guest,
    put_request,
    request_to,
    start_host,
    wait_until,
)

# The committer's and the loop's; each caches up to 64 MiB of the catalog.
CATALOG_CONNECTIONS = 2
# What else may differ between two quiet moments: the allocator's free lists, versions that are kept for reads.
PRIVATE_BYTES_SLACK = 16 << 20
SWEEP_S = 5.0


@dataclass
class Soak:
    """One soak: the host under test and the guests of the moment."""

    directory: Path
    guests_max: int
    chance: random.Random
    pace_s: float
    lifetime_s: float
    guests: list[tuple[Actor, float]] = field(default_factory=list)  # each with the time at which it goes
    leaving: list[tuple[Actor, float]] = field(default_factory=list)
    names: dict[Actor, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)  # guests whose blobs are still there
    tally: Counter[str] = field(default_factory=Counter)
    ledger: Ledger = field(default_factory=Ledger)

    def __post_init__(self) -> None:
        self.socket_path = str(self.directory / "bus.sock")
        self.host = start_host(self.directory / "store", self.socket_path)
        with Exchange(self.socket_path) as exchange:
            assert exchange.perform(request_to("PUT", "/con?restype=container")).status == 201
            body = bytes(8 << 20)
            with ThreadPoolExecutor(16) as pool:  # so that every pool of the host has all its threads
                put = put_request("/con/warm", len(body))
                assert all(pool.map(lambda _: exchange.perform(put, body).status == 201, range(64)))

    def resources(self) -> Resources:
        assert self.host.process.pid is not None
        return Resources.of(self.host.process.pid)

    def catalog_bytes(self) -> int:
        return (self.directory / "store" / "catalog.sqlite").stat().st_size

    def wave(self, seconds: float) -> None:
        """Let guests come and go for a while, then see them all off."""
        until = time.monotonic() + seconds
        rescind_at = time.monotonic() + seconds / 10
        report_at, sweep_at = time.monotonic() + 30, time.monotonic() + SWEEP_S
        while time.monotonic() < until:
            if len(self.guests) < self.guests_max:
                self._come()
            self._go()
            self._see_off()
            for guest, _ in self.guests:
                self.ledger.drain(guest)
            if time.monotonic() > rescind_at:
                rescind_at = time.monotonic() + seconds / 10
                self.tally["guests rescinded"] += self.host.ask("rescind")[0] or len(self.guests)
            if time.monotonic() > sweep_at:
                sweep_at = time.monotonic() + SWEEP_S
                self._sweep()
            if time.monotonic() > report_at:
                report_at += 30
                self.report("running")
            time.sleep(0.02)
        self._see_everyone_off()

    def _come(self) -> None:
        self.tally["guests"] += 1
        name = f"s{self.tally['guests']}"
        play = play_canceller if self.chance.random() < 0.3 else play_guest
        actor = Actor(play, self.socket_path, name, self.chance.randrange(10**9), self.pace_s)
        self.names[actor] = name
        self.guests.append((actor, time.monotonic() + self.chance.uniform(0.2, self.lifetime_s)))

    def _go(self) -> None:
        staying = []
        for guest, until in self.guests:
            if time.monotonic() < until:
                staying.append((guest, until))
            elif self.chance.random() < 0.5:
                self.tally["killed"] += 1
                guest.kill()
                self.ledger.drain(guest)
                guest.pipe.close()
                self.gone.append(self.names.pop(guest))
            else:
                self._ask_to_leave(guest)
        self.guests = staying

    def _ask_to_leave(self, guest: Actor) -> None:
        self.tally["left"] += 1
        with contextlib.suppress(BrokenPipeError):  # it has failed: its exit code will say so
            guest.pipe.send("end")
        self.leaving.append((guest, time.monotonic() + 300))

    def _see_off(self) -> None:
        """Hear those who leave to their end."""
        for guest, until in list(self.leaving):
            if self.ledger.drain(guest):
                guest.end()
                self.leaving.remove((guest, until))
                self.gone.append(self.names.pop(guest))
            assert time.monotonic() < until, "a guest does not end"

    def _sweep(self) -> None:
        """Delete what guests wrote that have gone: a soak of ten minutes writes tens of gigabytes."""
        with contextlib.suppress(HostUnavailable, DeviceGone), Client.connect(self.socket_path) as client:  # rescinded
            names = [blob.name for guest in self.gone for blob in client.list("con", f"{guest}-")]
            client.delete_many("con", names)
            self.gone.clear()

    def _see_everyone_off(self) -> None:
        for guest, _ in self.guests:
            self._ask_to_leave(guest)
        self.guests = []
        while self.leaving:
            self._see_off()
            time.sleep(0.02)
        wait_until(lambda: self.host.ask("space")[0] == 0, lambda: "the host has not forgotten a guest")

    def settled(self, baseline: Resources | None = None) -> Resources:
        """Return what the host holds once nothing moves any more; with a *baseline*, once it holds no more than that.

        Closing what guests chose goes on in threads of its own for a moment after the last guest has gone.
        """

        def is_quiet() -> bool:
            held = self.resources()
            return held.mappings == 0 and (baseline is None or held.within(baseline))

        wait_until(is_quiet, lambda: f"not flat: {baseline} before, {self.resources()} now")
        return self.resources()

    def report(self, when: str) -> None:
        held = self.resources()
        sys.stdout.write(
            f"{when}: {held.descriptors} descriptors, {held.threads} threads, {held.mappings} mappings, "
            f"{held.private_bytes >> 20} MiB private, {self.catalog_bytes() >> 20} MiB of catalog; "
            f"{len(self.guests)} guests now; "
            f"{self.ledger.acknowledged} writes acknowledged; {dict(self.tally)}\n"
        )
        sys.stdout.flush()


def soak(directory: Path, seconds: float, guests_max: int, seed: int, pace_s: float) -> None:
    """Run one soak; AssertionError says what is not flat."""
    run = Soak(directory, guests_max, random.Random(seed), pace_s, min(20.0, seconds / 3))
    run.wave(min(30.0, seconds / 10))
    before = run.settled()
    run.report("warm")
    run.wave(seconds)
    after = run.settled(before)
    run.report("at the end")
    run.host.end()
    growth, cached = after.private_bytes - before.private_bytes, CATALOG_CONNECTIONS * run.catalog_bytes()
    assert growth <= cached + PRIVATE_BYTES_SLACK, f"private memory grew by {growth} bytes, {cached} may be cached"


if __name__ == "__main__":
    chosen = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6))
    sys.stdout.write(f"seed {chosen}\n")
    with tempfile.TemporaryDirectory() as scratch:
        soak(Path(scratch), float(os.environ.get("SOAK_SECONDS") or 600), 100, chosen, pace_s=1.0)
