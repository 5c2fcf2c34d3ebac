"""The benchmark for real, small: servers, clients, every path that is installed, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from pvblob.cli.fleet.limit import limit_program
from pvblob.cli.fleet.servers import nginx_program
from pvblob.cli.scenarios.results import SCHEMA

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]


def children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return [int(child) for child in listed]


def test_a_small_run_measures_every_path_and_leaves_nothing(pvblob: Run, tmp_path: Path) -> None:
    store = tmp_path / "here"
    store.mkdir()
    paths = "limit,channel,channel-inplace,http-raw,channel-sdk"
    narrowed = ("--clients", "4", "--paths", paths, "--rounds", "2", "--seconds", "0.05", "--gib", "0.06")
    done = pvblob("bench", "fleet-read", "--quick", "--json", "result.json", "--dir", str(store), *narrowed)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text("utf-8"))
    jsonschema.validate(result, json.loads(SCHEMA.read_text("utf-8")))
    rows = {row["path"]: row for row in result["rows"]}
    assert list(rows) == paths.split(",")
    missing = {
        "limit": None if limit_program() else "pvblob-limit is not built",
        "http-raw": None if nginx_program() else "not installed",
    }
    for path, row in rows.items():
        assert row["absent"] == missing.get(path)
        if row["absent"] is None:
            assert 0 < row["min"] <= row["gib_per_s"] <= row["max"]
            assert row["repeats"] == 2
            assert row["client_cpu_s_per_gib"] > 0
            assert row["host_cpu_s_per_gib"] > 0
    assert not list(store.iterdir())


def test_uploads_are_read_back_and_compared(pvblob: Run, tmp_path: Path) -> None:
    narrowed = ("--clients", "1", "--paths", "channel-fsync,file-fsync", "--rounds", "1", "--seconds", "0.02")
    done = pvblob("bench", "upload", "--quick", "--json", "result.json", "--dir", str(tmp_path), *narrowed)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "result.json").read_text("utf-8"))["rows"]
    assert [(row["path"], row["block_bytes"] >> 10, row["absent"]) for row in rows] == [
        (path, kib, None) for kib in (65536, 4) for path in ("channel-fsync", "file-fsync")
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "there is no scenario 'nonsense': fleet-read, whole-read"),
        (("latency", "--paths", "telepathy"), "there is no path telepathy: channel"),
        (("latency", "--clients", "7"), "no stage has 7 clients: 1"),
        (("latency", "--clients", "one"), "--clients one: numbers with commas between them"),
    ],
)
def test_wrong_arguments_are_told_before_anything_starts(pvblob: Run, arguments: tuple[str, ...], said: str) -> None:
    done = pvblob("bench", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_ctrl_c_ends_every_process_and_removes_every_file(start: Start, tmp_path: Path) -> None:
    process = start("bench", "fleet-read", "--quick", "--clients", "4", "--paths", "channel", "--dir", str(tmp_path))
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("fleet-read, 4 MiB"):
            break
    begun = children_of(process.pid)
    assert len(begun) >= 2, "a host and a crew"
    assert list(tmp_path.glob("pvblob-*"))
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert not list(tmp_path.glob("pvblob-*"))
    for pid in begun:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
