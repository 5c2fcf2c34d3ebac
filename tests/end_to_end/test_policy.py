"""`pvblob serve --policy`: processes of other users get what the file says, and no more; SIGHUP reads it again."""

from __future__ import annotations

import grp
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobServiceClient

from pvblob import Client
from pvblob.errors import Denied, HostRefused
from tests.end_to_end.serving import Serving, pvblob

KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
ME = os.geteuid()
OTHER_UID, OTHER_GID, EXTRA_GID = 54321, 54322, 54323
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

# What a process of another user says of a read and a write. It does both as root first, so that everything is imported
# that the other user may have no right to read.
GUEST = """
import os, sys
import xml.etree.ElementTree
import pvblob
from pvblob.errors import BlobError, Denied, HostRefused, HostUnavailable

for attempt in (lambda client: client.get("box", "warm"), lambda client: client.put("box", "warm", b"")):
    try:
        with pvblob.Client.connect(sys.argv[1]) as client:
            attempt(client)
    except BlobError:
        pass

os.setgroups([int(group) for group in sys.argv[4].split(",") if group])
os.setresgid(*[int(sys.argv[3])] * 3)
os.setresuid(*[int(sys.argv[2])] * 3)
try:
    with pvblob.Client.connect(sys.argv[1]) as client:
        said = [client.get("box", "a").decode()]
        try:
            client.put("box", "b", b"written")
            said.append("written")
        except Denied as denied:
            said.append(denied.code)
    print(*said)
except (HostRefused, HostUnavailable) as refused:
    print(type(refused).__name__, refused)
"""


def guest(socket: str, uid: int, gid: int = OTHER_GID, groups: tuple[int, ...] = ()) -> str:
    command = [sys.executable, "-W", "error", "-c", GUEST, socket, str(uid), str(gid), ",".join(map(str, groups))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def entry(name: str, who: str, rules: str = "[[guest.allow]]") -> str:
    return textwrap.dedent(f"""
        [[guest]]
        name = "{name}"
        {who}
        {rules}
    """)


READ_ONLY = '[[guest.allow]]\noperations = ["read", "list"]'


@pytest.fixture
def directory() -> Path:
    """A directory that other users can reach: pytest's own is closed to them, and a socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="pvblob-") as made:
        Path(made).chmod(0o711)
        yield Path(made)  # type: ignore[misc]


@pytest.fixture
def serve(directory: Path) -> Callable[..., Serving]:
    def serve(policy: str, *arguments: str) -> Serving:
        (directory / "policy.toml").write_text(policy)
        serving = Serving(directory, "--policy", str(directory / "policy.toml"), *arguments)
        with Client.connect(serving.socket) as client:
            client.create_container("box", exist_ok=True)
            client.put("box", "a", b"content")
        return serving

    return serve


OPEN = ("--socket-mode", "0666")


@as_root
def test_a_process_of_another_user_gets_what_its_entry_says(serve: Callable[..., Serving]) -> None:
    policy = entry("me", f"uid = {ME}") + entry("other", f"uid = {OTHER_UID}", READ_ONLY)
    with serve(policy, *OPEN) as serving:
        assert guest(serving.socket, OTHER_UID) == "content AuthorizationPermissionMismatch"
        assert guest(serving.socket, OTHER_UID + 1).startswith("HostRefused")
        log = serving.log.read_text()
    assert f"uid={OTHER_UID}" in log
    assert "asked='write /devstoreaccount1/box/b'" in log
    assert f"names no guest like this process (uid {OTHER_UID + 1})" in log


@as_root
def test_supplementary_groups_count(serve: Callable[..., Serving]) -> None:
    policy = entry("me", f"uid = {ME}") + entry("group", f"gid = {EXTRA_GID}", READ_ONLY)
    with serve(policy, *OPEN) as serving:
        assert guest(serving.socket, OTHER_UID, groups=(7, EXTRA_GID)).startswith("content")
        assert guest(serving.socket, OTHER_UID, gid=EXTRA_GID).startswith("content")
        assert guest(serving.socket, OTHER_UID, groups=(7,)).startswith("HostRefused")


@as_root
def test_the_socket_s_mode_and_group_say_who_can_connect_at_all(serve: Callable[..., Serving]) -> None:
    policy = entry("me", f"uid = {ME}") + entry("anybody", 'uid = "*"')
    with serve(policy, "--socket-mode", "0660", "--socket-group", "daemon") as serving:
        daemon = grp.getgrnam("daemon").gr_gid
        assert guest(serving.socket, OTHER_UID, groups=(daemon,)) == "content written"
        assert guest(serving.socket, OTHER_UID).startswith("HostUnavailable this user may not connect")


@as_root
def test_without_a_policy_other_users_are_refused(directory: Path) -> None:
    with Serving(directory, *OPEN) as serving:
        assert guest(serving.socket, OTHER_UID).startswith("HostRefused")


def cgroup() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next((line[3:] for line in lines if line.startswith("0::")), "")


@pytest.mark.skipif(not cgroup() or not hasattr(os, "pidfd_open"), reason="no cgroup v2 tree here")
def test_a_guest_is_known_by_its_cgroup(serve: Callable[..., Serving]) -> None:
    elsewhere = entry("elsewhere", 'cgroup = "/nowhere.slice/*"', READ_ONLY)
    with (
        serve(elsewhere + entry("here", f'cgroup = "{cgroup()}"')) as serving,
        Client.connect(serving.socket) as client,
    ):
        client.put("box", "b", b"x")


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll until a signal has had its effect in the other process; it has no descriptor to wait on."""
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.01)


def test_sighup_reads_the_policy_again_and_a_broken_file_changes_nothing(
    serve: Callable[..., Serving], directory: Path
) -> None:
    path = directory / "policy.toml"
    with serve(entry("me", f"uid = {ME}")) as serving, Client.connect(serving.socket) as client:
        path.write_text(entry("me", f"uid = {ME}\nmod = 1"))
        serving.signal(signal.SIGHUP)
        wait_for(lambda: "the policy stays as it was" in serving.log.read_text())
        assert "mod = 1: there is no such key here" in serving.log.read_text()
        client.put("box", "b", b"x")

        path.write_text(entry("me", f"uid = {ME}", READ_ONLY))
        serving.signal(signal.SIGHUP)
        wait_for(lambda: "the policy was read again" in serving.log.read_text())
        with pytest.raises(Denied):
            client.put("box", "c", b"x")
        assert client.get("box", "b") == b"x"

        path.write_text(entry("somebody else", f"uid = {OTHER_UID}"))
        serving.signal(signal.SIGHUP)
        wait_for(lambda: serving.log.read_text().count("the policy was read again") == 2)
        with pytest.raises(HostRefused):
            client.get("box", "b")


def test_the_front_is_a_guest_that_policy_can_deny_any_account_container_or_operation(
    serve: Callable[..., Serving],
) -> None:
    rules = '[[guest.allow]]\noperations = ["read", "list"]\n[[guest.deny]]\ncontainers = "secret"'
    policy = entry("me", f"uid = {ME}") + entry("web", "front = true", rules)
    with serve(policy, "--http", "127.0.0.1:0") as serving:
        with Client.connect(serving.socket) as client:
            client.create_container("secret")
            client.put("secret", "a", b"hidden")
        with BlobServiceClient(serving.url, {"account_name": "devstoreaccount1", "account_key": KEY}) as service:
            assert service.get_blob_client("box", "a").download_blob().readall() == b"content"
            for denied in (
                lambda: service.get_blob_client("secret", "a").download_blob(),
                lambda: service.get_blob_client("box", "b").upload_blob(b"x" * 5_000_000),
                lambda: service.create_container("new"),
            ):
                with pytest.raises(HttpResponseError) as refused:
                    denied()
                assert (refused.value.status_code, refused.value.error_code) == (403, "AuthorizationPermissionMismatch")
        log = serving.log.read_text()
        assert "denied front entry='web' asked='read /devstoreaccount1/secret/a'" in log
        assert "opens devstoreaccount1 with its well-known key" in log, "the well-known key is warned of at start"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--socket-mode", "0777"], "socket_mode = '0777' (--socket-mode): must be an octal mode"),
        (["--socket-group", "no-such-group"], "socket_group = 'no-such-group' (--socket-group): this machine knows no"),
        (["--policy", "/nowhere/policy.toml"], "policy file /nowhere/policy.toml: No such file"),
        (["--metrics", "9464"], "metrics = '9464' (--metrics): must be HOST:PORT"),
    ],
)
def test_a_wrong_argument_of_serve_is_one_clear_line(directory: Path, arguments: list[str], message: str) -> None:
    done = pvblob("serve", "--store", str(directory / "s"), "--socket", str(directory / "bus.sock"), *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
