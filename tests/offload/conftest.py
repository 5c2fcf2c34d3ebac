"""A host on a file system of choice, with a guest that offload entries answer and one that Python always answers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pvblob import _native
from pvblob.blobs.service import EmbeddedService
from pvblob.client.client import Client
from tests.conftest import LiveHost
from tests.faults.guest import RawGuest
from tests.offload.guests import open_guest

MEMORY_DIR = Path("/dev/shm")


class Stage:
    """The host, its service, and a client to prepare and change blobs with."""

    def __init__(self, directory: Path, segment_bytes: int = 1 << 20, **settings: object) -> None:
        self.service = EmbeddedService(directory / "store", durability="none", segment_bytes=segment_bytes)
        self.service.open()
        assert self.service._store is not None
        self.extents = self.service._store.extents
        self.host = LiveHost(self.service, directory / "bus.sock", **settings)
        self._guests: list[RawGuest] = []
        self.client = Client.connect(self.host.socket_path, timeout_s=30)
        self.client.create_container("con")

    def close(self) -> None:
        for guest in self._guests:
            guest.close()
        self.client.close()
        self.host.stop()
        self.service.close()
        assert not self.store_pins(), "the host has stopped and still pins bytes"

    def store_pins(self) -> dict[tuple[int, int], int]:
        """What is pinned in the store: (segment, offset) → how often."""
        return dict(self.extents._pins)

    @property
    def engine(self) -> _native.HostEngine:
        return self.host.host.engine

    def counters(self) -> dict[str, int]:
        return self.engine.offload_counters()

    def guest(self, *, offloaded: bool) -> RawGuest:
        self._guests.append(open_guest(self.host, offloaded=offloaded))
        return self._guests[-1]

    def warm(self, container: str, blob: str) -> None:
        """Read a blob until an entry answers it."""
        before = self.counters()["hits"]
        for _ in range(4):
            self.client.get(container, blob, offset=0, length=1)
            if self.counters()["hits"] > before:
                return
        raise AssertionError(f"no entry was installed for {container}/{blob}: {self.counters()}")


@pytest.fixture(params=["disk", "memory"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory where RWF_NOWAIT works (disk), and one where it does not (tmpfs)."""
    if request.param == "disk":
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(dir=MEMORY_DIR))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def make_stage(directory: Path) -> Iterator[Callable[..., Stage]]:
    """Start a host on the directory: make_stage(**settings of Host)."""
    stages: list[Stage] = []

    def make(**settings: object) -> Stage:
        stages.append(Stage(directory, **settings))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


@pytest.fixture
def stage(make_stage: Callable[..., Stage]) -> Stage:
    return make_stage()
