"""What becomes of the benchmark's rows: JSON of a documented shape, verdicts, a page and plots, the same every time."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from pvblob.cli.scenarios.catalogue import SCENARIOS
from pvblob.cli.scenarios.goals import GOALS, REACHED, SHORT, UNKNOWN, judge
from pvblob.cli.scenarios.page import page, write_page
from pvblob.cli.scenarios.plots import plot
from pvblob.cli.scenarios.results import SCHEMA, Result
from pvblob.cli.scenarios.rows import FAILED, Row
from pvblob.cli.scenarios.tables import stages

GOLDEN = Path(__file__).with_name("golden")
MIB = 1 << 20


def row(path: str, gib_per_s: float | None, **changes: object) -> Row:
    figures = {} if gib_per_s is None else {"gib_per_s": gib_per_s, "min": gib_per_s * 0.9, "max": gib_per_s * 1.1}
    if gib_per_s is not None:
        cpu = {"client_cpu_s_per_gib": 0.25, "host_cpu_s_per_gib": 0.125, "machine_cpu_s_per_gib": 0.5}
        figures |= {"requests_per_s": gib_per_s * 256, "p50_us": 1234.5, "p99_us": 2000.0, "repeats": 5} | cpu
    given = {
        "scenario": "fleet-read",
        "path": path,
        "operation": "read",
        "title": f"the path {path}",
        "clients": 100,
        "in_flight": 1,
        "block_bytes": 4 * MIB,
        "measure": "gib_per_s",
        "server": "a server",
        "settings": "as usual",
    }
    return Row(**(given | figures | changes))  # type: ignore[arg-type]


def idle(connected: int, private: float, lent: float) -> dict[str, object]:
    memory = {"host_private_bytes_per_client": private, "lent_bytes_per_client": lent}
    return {"scenario": "scale", "connected": connected} | memory


ROWS = [
    row("limit", 8.0),
    row("limit-inplace", 8.0),
    row("channel", 4.0, client_cpu_s_per_gib=0.15, host_cpu_s_per_gib=0.1),
    row("channel-inplace", 6.0),
    row("http-raw", 2.0, absent=None),
    row("http-sdk", None, absent=FAILED + "the server went away <&>"),
    row("http-obstore", None, absent="not installed"),
    row(
        "channel",
        3.0,
        scenario="scale",
        connected=100,
        host_private_bytes_per_client=2048.0,
        lent_bytes_per_client=8192.0,
    ),
    row(
        "channel",
        2.9,
        scenario="scale",
        connected=1000,
        host_private_bytes_per_client=70000.0,
        lent_bytes_per_client=0.0,
    ),
]
MACHINE = {"processor": "A Processor", "cores": 2, "memory_bytes": 24 << 30, "kernel": "6.18"}
RESULT = Result(
    "2026-11-25 18:30 UTC", "pvblob bench all", False, MACHINE, {"python": "3.11.7", "pvblob": "0.1.0"}, ROWS
)


def test_json_has_the_documented_shape(tmp_path: Path) -> None:
    RESULT.write(tmp_path / "new" / "bench.json")
    found = json.loads((tmp_path / "new" / "bench.json").read_text("utf-8"))
    jsonschema.validate(found, json.loads(SCHEMA.read_text("utf-8")))
    issue = "scenario path clients block_bytes gib_per_s requests_per_s p50_us p99_us client_cpu_s_per_gib"
    issue += " host_cpu_s_per_gib repeats min max"
    assert set(issue.split()) <= set(found["rows"][0])


def test_the_schema_refuses_a_row_without_a_figure_it_promises() -> None:
    broken = RESULT.as_json()
    del broken["rows"][0]["p99_us"]
    with pytest.raises(jsonschema.ValidationError, match="p99_us"):
        jsonschema.validate(broken, json.loads(SCHEMA.read_text("utf-8")))


def test_the_schema_knows_every_scenario() -> None:
    known = json.loads(SCHEMA.read_text("utf-8"))["$defs"]["row"]["properties"]["scenario"]["enum"]
    assert set(known) == set(SCENARIOS)


def verdict(text: str, rows: list[Row] = ROWS) -> tuple[str, float | None]:
    found = [one for one in judge(rows) if one.goal == text]
    assert len(found) == 1, [one.goal for one in judge(rows)]
    return found[0].verdict, found[0].value


def test_ratios_are_judged_by_the_bounds_of_the_issue() -> None:
    assert verdict("100 clients: channel-inplace / limit-inplace") == (SHORT, 0.75)
    assert verdict("100 clients: channel-inplace / http-raw") == (REACHED, 3.0)
    assert verdict("100 clients: channel / http-raw") == (REACHED, 2.0)


def test_cpu_counts_clients_and_host_and_must_stay_below() -> None:
    assert verdict("100 clients, CPU per GiB of clients + host: channel / http-raw") == (REACHED, 0.25 / 0.375)
    assert verdict("100 clients, CPU per GiB of clients + host: channel-inplace / http-raw") == (SHORT, 1.0)


def test_what_was_not_measured_is_neither_reached_nor_short() -> None:
    assert verdict("100 clients: channel-inplace / http-obstore") == (UNKNOWN, None)
    assert verdict("1 client: channel / limit") == (UNKNOWN, None)


def test_only_goals_of_measured_scenarios_are_judged() -> None:
    assert {one.scenario for one in judge(ROWS)} == {"fleet-read", "scale"}


def test_the_memory_of_an_idle_client_is_bounded_in_bytes() -> None:
    assert verdict("host memory per idle client of 1000") == (SHORT, 70000.0)
    assert verdict("throughput of 100 active clients: 1000 connected / 100 connected")[0] == REACHED


def test_the_faster_of_two_peers_counts() -> None:
    both = {"scenario": "upload", "operation": "write", "clients": 1, "block_bytes": 64 * MIB}
    rows = [row("channel", 2.0, **both), row("http-raw", 1.0, **both), row("http-obstore", 4.0, **both)]
    assert verdict("1 client, 64 MiB: channel / the faster client of nginx WebDAV", rows) == (SHORT, 0.5)


def test_a_blob_that_was_not_read_to_its_end_proves_nothing_about_bytes_from_the_account() -> None:
    shared = {"scenario": "upstream-shared", "blob_bytes": 1000}
    goal = "upstream-shared, bytes from the account / size of the blob: channel"
    for upstream_bytes, found in ((999.0, (UNKNOWN, None)), (1050.0, (REACHED, 1.05)), (1100.0, (SHORT, 1.1))):
        assert verdict(goal, [row("channel", 1.0, upstream_bytes=upstream_bytes, **shared)]) == found


def test_every_goal_names_rows_that_a_run_makes() -> None:
    made = {
        (scenario.name, path.name, path.operation, shape.block_bytes, shape.in_flight)
        for scenario in SCENARIOS.values()
        for heat in scenario.heats
        for path in heat.paths
        for shape in heat.shapes
        if shape.in_flight == 1 or path.batches
    }
    for goal in GOALS:
        for pick in filter(None, (goal.figure, goal.over)):
            for path in pick.paths:
                key = goal.scenario, path, pick.operation, pick.block_bytes, pick.in_flight
                assert key in made, goal.text


def test_stages_keep_apart_what_does_not_compare() -> None:
    other = [replace(ROWS[0], clients=1), replace(ROWS[0], path="channel-fsync"), replace(ROWS[0], in_flight=16)]
    assert [len(stage.rows) for stage in stages([*ROWS[:2], *other])] == [2, 1, 1, 1]


def compare_with_golden(name: str, text: str) -> None:
    """Compare; PVBLOB_TEST_WRITE_GOLDEN=1 writes the files anew, for a look at what changed."""
    path = GOLDEN / name
    if os.environ.get("PVBLOB_TEST_WRITE_GOLDEN"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def test_the_page_is_the_golden_one() -> None:
    compare_with_golden("performance.md", "\n".join(page(RESULT, "performance")))


def test_the_plot_is_the_golden_one() -> None:
    compare_with_golden("fleet-read.svg", plot("Ranges of 4 MiB", ROWS[:7]))


def test_plots_are_xml_and_scripts_have_no_way_in() -> None:
    tree = ElementTree.fromstring(plot("<script>&", [*ROWS[:6], row("channel", 1.0, absent=None)]))
    assert {element.tag.partition("}")[2] for element in tree.iter()} == {"svg", "rect", "text", "path"}


def test_a_page_and_its_plots_are_written_side_by_side(tmp_path: Path) -> None:
    write_page(RESULT, tmp_path / "performance.md")
    text = (tmp_path / "performance.md").read_text("utf-8")
    for target in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (tmp_path / target).is_file()
    assert sorted(path.name for path in (tmp_path / "performance").iterdir()) == ["fleet-read.svg", "scale.svg"]


def test_a_quick_run_says_so_on_its_page() -> None:
    assert "A quick run" in "\n".join(page(RESULT._replace(quick=True), "x"))
