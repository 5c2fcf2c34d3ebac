"""How much the crash tests do: a short seeded part in `make test`, all of it in `make crash`. Seeds are printed."""

from __future__ import annotations

import os
import random
import sqlite3

import pytest

from pvblob.blobs import catalog, streams
from pvblob.blobs.extents import aligned
from pvblob.blobs.layout import unpack

FULL = bool(os.environ.get("CRASH_FULL"))


@pytest.fixture
def crash_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run: `--seed N`, or a new one that is printed when the test fails."""
    given = request.config.getoption("--seed")
    seed = random.SystemRandom().randrange(10**6) if given is None else given
    print(f"replay with: pytest {request.node.nodeid} --seed {seed}")  # noqa: T201
    return seed


@pytest.fixture
def crash_points(request: pytest.FixtureRequest) -> int:
    """How many points to try."""
    return int(request.config.getoption("--points") or (240 if FULL else 16))


def used_bytes(reader: sqlite3.Connection) -> int:
    """Bytes of segments that the catalog refers to."""
    runs = {(b.segment, b.offset, b.length) for _, _, packed in catalog.every_layout(reader) for b in unpack(packed)}
    runs |= {(block.segment, block.offset, block.length) for _, _, block in catalog.every_block(reader)}
    runs |= {(block.segment, block.offset, block.length) for _, block in streams.every_block(reader)}
    return sum(aligned(length) for _, _, length in runs)
