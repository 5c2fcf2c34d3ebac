"""`pvblob rescind`: an operator withdraws the device; programs see a pause and no error (design rule 3)."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pvblob import Client
from tests.end_to_end.serving import Serving, pvblob


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("s")) as serving:
        yield serving


@pytest.fixture
def client(serving: Serving) -> Iterator[Client]:
    with Client.connect(serving.socket) as client:
        client.create_container("box", exist_ok=True)
        client.put("box", "a", b"x" * 1000)
        yield client


def channels(serving: Serving) -> list[dict[str, Any]]:
    state = json.loads(pvblob("status", "--json", "--socket", serving.socket).stdout)
    return [channel for guest in state["guests"] for channel in guest["channels"]]


def test_a_guest_whose_device_is_withdrawn_connects_again_at_its_next_call(serving: Serving, client: Client) -> None:
    (before,) = channels(serving)
    for guest in (str(os.getpid()), f"{os.getpid()}/{before['relid']}"):
        (before,) = channels(serving)
        done = pvblob("rescind", guest, "--socket", serving.socket)
        assert done.returncode == 0, done.stderr
        uid = os.geteuid()
        assert done.stdout == f"withdrawn from pid {os.getpid()} (uid {uid}); channels: {before['relid']}\n"
        assert channels(serving) == []
        assert client.get("box", "a") == b"x" * 1000
        (after,) = channels(serving)
        assert after["key"] != before["key"]


def test_a_busy_program_sees_no_error(serving: Serving, client: Client) -> None:
    failures: list[BaseException] = []
    stop = threading.Event()
    rounds = threading.Semaphore(0)

    def work() -> None:
        try:
            while not stop.is_set():
                client.put("box", "busy", b"y" * 5000)
                assert client.get("box", "busy") == b"y" * 5000
                rounds.release()
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    for _ in range(5):
        assert rounds.acquire(timeout=20), failures
        done = pvblob("rescind", "--all", "--json", "--socket", serving.socket)
        assert done.returncode == 0, done.stderr
        assert {json.loads(line)["pid"] for line in done.stdout.splitlines()} <= {os.getpid()}
    stop.set()
    worker.join(30)
    assert not failures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1"], "no guest has pid 1: `pvblob status` lists those that are connected"),
        (["{pid}/999"], "the guest with pid {pid} has no channel 999; open: "),
        (["box"], "'box' is no guest: write PID, or PID/CHANNEL, as `pvblob status` shows them"),
        (["1/"], "'1/' is no guest: write PID, or PID/CHANNEL, as `pvblob status` shows them"),
        ([], "name the guests (pvblob rescind PID), or --all: one of the two"),
        (["1", "--all"], "name the guests (pvblob rescind PID), or --all: one of the two"),
    ],
)
def test_what_cannot_be_withdrawn_is_one_clear_line(
    serving: Serving, client: Client, arguments: list[str], message: str
) -> None:
    pid = str(os.getpid())
    done = pvblob("rescind", *[one.format(pid=pid) for one in arguments], "--socket", serving.socket)
    assert done.returncode == 1
    assert done.stderr.startswith(f"pvblob: {message.format(pid=pid)}")
    assert done.stderr.count("\n") == 1
    assert client.get("box", "a") == b"x" * 1000


def test_without_a_host_it_says_how_to_start_one(tmp_path: Path) -> None:
    done = pvblob("rescind", "--all", "--socket", str(tmp_path / "bus.sock"))
    assert done.returncode == 2
    assert "start one with `pvblob serve`" in done.stderr
