"""Issue 4: guests that come and go leave nothing behind. Ten seconds of what `make soak` does for ten minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.soak import soak


@pytest.mark.timeout(180)
def test_guests_that_come_go_die_and_cancel_leave_the_host_as_it_was(tmp_path: Path, crash_seed: int) -> None:
    soak(tmp_path, seconds=8, guests_max=8, seed=crash_seed, pace_s=0.1)
