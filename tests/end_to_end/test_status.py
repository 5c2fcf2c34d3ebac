"""`pvblob status` and `--metrics` say what goes on in a host, and nobody else may ask (issue 4, "Seeing inside")."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import termios
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pvblob import Client
from pvblob.errors import Denied
from tests.end_to_end.serving import PVBLOB, Serving, pvblob

POLICY = f"""
[[guest]]
name = "me"
uid = {os.geteuid()}
limits = {{ lent_bytes = "64MiB", requests_in_flight = 32 }}
[[guest.allow]]
[[guest.deny]]
containers = "secret"
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("s")
    (directory / "policy.toml").write_text(POLICY)
    with Serving(directory, "--metrics", "127.0.0.1:0", "--policy", str(directory / "policy.toml")) as serving:
        yield serving


@pytest.fixture
def client(serving: Serving) -> Iterator[Client]:
    """A guest that has written, read often, and been denied."""
    with Client.connect(serving.socket) as client:
        client.create_container("box", exist_ok=True)
        client.put("box", "a", b"x" * 10_000)
        for _ in range(20):
            client.get("box", "a")
        with pytest.raises(Denied):
            client.get("secret", "a")
        yield client


def test_status_names_guests_channels_rings_counters_and_offload(serving: Serving, client: Client) -> None:
    done = pvblob("status", "--json", "--socket", serving.socket)
    assert done.returncode == 0, done.stderr
    state = json.loads(done.stdout)
    assert state["pid"] == serving.process.pid
    assert state["sockets"] == [serving.socket]
    assert state["policy"].endswith("policy.toml")
    (guest,) = state["guests"]
    assert (guest["pid"], guest["uid"], guest["entry"]) == (os.getpid(), os.geteuid(), "me")
    assert (guest["lent_bytes_max"], guest["requests_in_flight_max"]) == (64 << 20, 32)
    assert 0 < guest["lent_bytes"] <= 64 << 20
    assert 0 < guest["offload_hits"] <= state["offload"]["hits"]
    assert guest["offload_bytes"] == guest["offload_hits"] * 10_000
    (channel,) = guest["channels"]
    assert channel["from_guest"]["size"] > channel["from_guest"]["used"] >= 0
    assert channel["to_guest"]["size"] > 0
    assert channel["in_flight"] == 0
    counters = state["counters"]
    assert counters["requests"] >= 3
    assert counters["denied"] >= 1
    assert counters["lent_bytes"] == guest["lent_bytes"]
    assert state["offload"]["hits"] + state["offload"]["misses"] >= 20


def on_a_terminal(*command: str, columns: int) -> str:
    """Run *command* on a terminal of its own and return what it shows there."""
    ours, its = os.openpty()
    termios.tcsetwinsize(its, (24, columns))
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": ""}
    environment.pop("COLUMNS", None)
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        shown = b""
        with contextlib.suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:  # EIO: its last user ended
            while piece := terminal.read(65536):
                shown += piece
    assert process.returncode == 0, shown
    return shown.decode()


def test_status_is_readable_for_people(serving: Serving, client: Client) -> None:
    done = pvblob("status", "--socket", serving.socket)
    assert done.returncode == 0, done.stderr
    for text in (f"host pid {serving.process.pid}", "Guests: 1", "Channels: 1", "Counters", "Offload", "denied"):
        assert text in done.stdout
    (row,) = (line for line in done.stdout.splitlines() if line.lstrip().startswith(f"{os.getpid()} "))
    assert row.split()[1:4] == [str(os.geteuid()), "me", "channel"]


def test_on_a_terminal_of_80_columns_status_cuts_nothing(serving: Serving, client: Client) -> None:
    shown = on_a_terminal(*PVBLOB, "status", "--socket", serving.socket, columns=80)
    assert "\x1b[" in shown, "a terminal was there"
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert "…" not in "".join(lines)
    (head,) = (line for line in lines if "cgroup" in line)
    assert head.split() == ["pid", "uid", "entry", "mode", "cgroup", "lent", "hits", "channels"]


def test_without_a_host_status_says_how_to_start_one(tmp_path: Path) -> None:
    done = pvblob("status", "--socket", str(tmp_path / "bus.sock"))
    assert done.returncode == 2
    assert done.stderr == f"pvblob: no host listens on {tmp_path / 'bus.sock'}: start one with `pvblob serve`\n"


def test_the_device_s_directory_is_closed_to_others_and_goes_with_the_host(tmp_path: Path) -> None:
    directory = tmp_path / "bus.d"
    with Serving(tmp_path) as serving:
        assert directory.stat().st_mode & 0o777 == 0o700
        assert (directory / "status.sock").stat().st_mode & 0o777 == 0o600
        serving.kill()
    assert pvblob("status", "--socket", serving.socket).returncode == 2
    assert directory.exists()
    with Serving(tmp_path) as second:  # what a dead host left behind is not in the next one's way
        assert pvblob("status", "--socket", second.socket).returncode == 0
    assert not directory.exists()


def test_two_hosts_on_one_machine_tell_each_its_own_state(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with Serving(tmp_path / "a") as one, Serving(tmp_path / "b") as other:
        for serving in (one, other):
            state = json.loads(pvblob("status", "--json", "--socket", serving.socket).stdout)
            assert state["pid"] == serving.process.pid


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_not_told_even_where_it_can_reach_the_socket(serving: Serving) -> None:
    path = Path(serving.socket).with_suffix(".d") / "status.sock"
    # Through a descriptor of the directory, for the directories above it are closed to that user.
    ask = """if True:
        import os, socket, sys
        descriptor = os.open(os.path.dirname(sys.argv[1]), os.O_PATH)
        os.setresuid(54321, 54321, 54321)
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(f"/proc/self/fd/{descriptor}/status.sock")
            print(asking.recv(100))
    """
    mode = path.parent.stat().st_mode
    path.parent.chmod(0o711)
    path.chmod(0o666)
    try:
        done = subprocess.run([sys.executable, "-c", ask, str(path)], capture_output=True, text=True, check=True)
    finally:
        path.chmod(0o600)
        path.parent.chmod(mode & 0o777)
    assert done.stdout == "b''\n"


def test_pending_requests_are_shown_as_the_driver_s_debugfs_file_shows_them(serving: Serving, client: Client) -> None:
    done = pvblob("status", "--pending", "--socket", serving.socket)
    assert done.stdout == (
        "List of pending requests\n"
        "UUID request_len response_len data_len data_valid request_buffer response_buffer data_buffer state\n"
    )


def scrape(url: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_requests_bytes_latencies_and_what_was_refused(serving: Serving, client: Client) -> None:
    before = scrape(serving.ready["metrics"])
    client.put("box", "b", b"y" * 5000)
    with pytest.raises(Denied):
        client.put("secret", "b", b"z")
    after = scrape(serving.ready["metrics"])

    def grown(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0.0)

    write = {"via": "channel", "operation": "write"}
    assert grown("pvblob_requests_total", **write, status="2xx") == 1
    assert grown("pvblob_requests_total", **write, status="4xx") == 1
    assert grown("pvblob_received_bytes_total", **write) == 5001
    assert grown("pvblob_request_seconds_count", **write) == 2
    assert grown("pvblob_denied_total") == 1
    assert grown("pvblob_commit_batch_size_count") == 1
    assert grown("pvblob_commit_batch_size_sum") == 1
    assert after["pvblob_guests", ()] == 1
    assert after["pvblob_lent_bytes", ()] > 0
    assert after["pvblob_requests_queued", ()] == 0
    answered = after["pvblob_offload_hits_total", ()]
    assert after["pvblob_entry_offload_hits_total", (("entry", "me"),)] == answered, "also of guests that have gone"
    assert after["pvblob_offload_hits_total", ()] + after["pvblob_offload_misses_total", ()] > 0


def test_the_http_front_is_counted_in_status_and_metrics(tmp_path: Path) -> None:
    with Serving(tmp_path, "--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0") as serving:
        address = serving.ready["http"].removeprefix("http://")
        connection = http.client.HTTPConnection(address, timeout=30)
        for _ in range(3):
            connection.request("GET", "/devstoreaccount1?comp=list")
            assert connection.getresponse().read()
        state = json.loads(pvblob("status", "--json", "--socket", serving.socket).stdout)
        assert (state["front"]["connections"], state["front"]["received"], state["front"]["refused"]) == (1, 3, 3)
        connection.close()
        samples = scrape(serving.ready["metrics"])
        assert samples["pvblob_front_received_total", ()] == 3
        assert samples["pvblob_front_refused_total", ()] == 3
        assert samples["pvblob_front_connections", ()] <= 1
        assert "HTTP front" in pvblob("status", "--socket", serving.socket).stdout


def test_metrics_have_no_label_that_a_guest_could_multiply(serving: Serving, client: Client) -> None:
    samples = scrape(serving.ready["metrics"])
    assert {label for _, labels in samples for label, _ in labels} <= {"via", "operation", "status", "le", "entry"}
    entries = {value for _, labels in samples for label, value in labels if label == "entry"}
    assert entries == {"me"}, "as many as the policy has, not as many as there are guests"


def test_a_metrics_address_that_is_taken_is_one_clear_line(serving: Serving, tmp_path: Path) -> None:
    address = serving.ready["metrics"].removeprefix("http://").removesuffix("/metrics")
    command = [*PVBLOB, "serve", "--store", str(tmp_path / "s"), "--socket", str(tmp_path / "b.sock")]
    done = subprocess.run([*command, "--metrics", address], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"--metrics {address}: " in done.stderr
    assert "choose another port" in done.stderr
