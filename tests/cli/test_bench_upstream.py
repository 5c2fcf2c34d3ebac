"""The benchmark of an account elsewhere, small: every path, through the network program, and what its rows count."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvblob.cli.fleet.corpus import MIB
from pvblob.cli.fleet.elsewhere import network_program
from pvblob.cli.scenarios import upstream
from pvblob.cli.scenarios.catalogue import RANGE, SCENARIOS, Effort, Shape
from pvblob.cli.scenarios.goals import UNKNOWN, judge
from pvblob.cli.scenarios.rows import Row

CLIENTS = 4


def measured(scenario: str, directory: Path) -> dict[str, Row]:
    """Run every path of *scenario* with few clients; return the rows by path."""
    paths = SCENARIOS[scenario].heats[0].paths
    given = {"operation": "read", "clients": CLIENTS, "in_flight": 1, "block_bytes": RANGE, "measure": "gib_per_s"}
    blank = {
        path.key: Row(scenario=scenario, path=path.name, title=path.title, server="", settings=path.settings, **given)
        for path in paths
    }
    effort, shape = Effort(rounds=1, seconds=0.25, blobs=1), Shape(CLIENTS, RANGE)
    rows = upstream.run(scenario, paths, shape, blank, lambda *_: None, effort, directory)
    assert not list(directory.iterdir()), "nothing is left behind"
    return {row.path: row for row in rows}


pytestmark = pytest.mark.skipif(network_program() is None, reason="pvblob-network is not built: make bench")


@pytest.mark.long
def test_distinct_blobs_come_whole_over_few_connections(tmp_path: Path) -> None:
    """Issue 5: 100 guests of one host need a tenth of the connections; every path reads the same bytes."""
    rows = measured(upstream.DISTINCT, tmp_path)
    assert list(rows) == ["tls-sdk", "tls-obstore", "channel-sdk", "channel", "channel-inplace"]
    for row in rows.values():
        assert row.absent is None
        assert row.blob_bytes == 16 * MIB
        # What was measured, the range before it, and what TLS adds.
        assert 80 * MIB < row.upstream_bytes < 84 * MIB
        assert 10 <= row.first_byte_ms < row.first_byte_from_start_ms, "no answer is sooner than a round trip"
        assert row.elsewhere_cpu_s_per_gib > 0
        assert row.network_cpu_s_per_gib > 0
        assert (row.host_cpu_s_per_gib > 0) == row.path.startswith("channel")
    assert rows["tls-sdk"].connections == CLIENTS


@pytest.mark.long
def test_one_blob_comes_once_for_all_guests(tmp_path: Path) -> None:
    """Issue 5: upstream bytes of one blob read by all stay below 1.05 of its size."""
    rows = measured(upstream.SHARED, tmp_path)
    for path in ("channel-sdk", "channel", "channel-inplace"):
        assert rows[path].absent is None
        assert rows[path].value("upstream_bytes_per_blob_byte") <= 1.05
    assert rows["tls-sdk"].value("upstream_bytes_per_blob_byte") > 2
    by_goal = {one.goal: one for one in judge(list(rows.values()))}
    assert all(one.verdict == UNKNOWN for one in by_goal.values()), "four clients are not a hundred"
