"""policy.toml is checked as a whole, and an error says where it is, what it is and what to write instead."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from pvblob.errors import SettingsError
from pvblob.vsp.host import SocketSettings
from pvblob.vsp.policy import GuestLimits, Rule
from pvblob.vsp.policy_file import load_policy

ME = pwd.getpwuid(os.geteuid()).pw_name

WHOLE = f"""
[[socket]]
path = "/run/pvblob/web.sock"
mode = "0660"
group = 33

[[guest]]
name = "web"
uid = ["{ME}", 1001]
gid = 33
cgroup = "/system.slice/web-*.service"
socket = "/run/pvblob/web.sock"
mode = "verify"
limits = {{ requests_in_flight = 64, lent_bytes = "1GiB", spooled_bytes = "256 MiB", weight = 50 }}

[[guest.allow]]
accounts = "devstoreaccount1"
containers = ["logs-*", "photos"]
prefixes = ["2026/"]
operations = ["read", "list"]

[[guest.deny]]
containers = "logs-secret"

[[guest]]
name = "front"
front = true
[[guest.allow]]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policy.toml"


def test_every_key_of_the_file_arrives_in_the_policy(path: Path) -> None:
    path.write_text(WHOLE)
    policy, sockets = load_policy(path, front=True)
    assert sockets == (SocketSettings(Path("/run/pvblob/web.sock"), 0o660, 33),)
    web, front = policy.entries
    assert (web.name, web.mode, web.front) == ("web", "verify", False)
    assert (web.uids, web.gids) == (frozenset({os.geteuid(), 1001}), frozenset({33}))
    assert web.cgroups == ("/system.slice/web-*.service",)
    assert web.sockets == frozenset({"/run/pvblob/web.sock"})
    assert web.limits == GuestLimits(64, 1 << 30, 256 << 20, 50)
    read_list = frozenset({"read", "list"})
    assert web.allow == (Rule(("devstoreaccount1",), ("logs-*", "photos"), (b"2026/",), read_list),)  # type: ignore[arg-type]
    assert web.deny == (Rule(containers=("logs-secret",)),)
    assert front.front
    assert front.allow == (Rule(),), "an empty rule is every right there is"


BAD = [
    ('uid = "no-such-user"', "uid = 'no-such-user': this machine knows no user of that name"),
    ("uid = -1", "uid = -1: must be a user name, a number from 0"),
    ("uid = []", "uid = []: Value should have at least 1 item"),
    ('uid = 1\nmod = "verify"', "mod = 'verify': there is no such key here"),
    ('uid = 1\nmode = "trust"', "mode = 'trust': Input should be 'channel' or 'verify'"),
    ('uid = 1\nlimits = { lent_bytes = "12 apples" }', "limits.lent_bytes = '12 apples': could not interpret"),
    ("uid = 1\nlimits = { weight = 0 }", "limits.weight = 0: Input should be greater than or equal to 1"),
    ("", 'names no guest: give uid, gid, cgroup or socket (uid = "*" is everybody)'),
    ("uid = 1\nfront = true", "front = true is a guest of its own"),
]


@pytest.mark.parametrize(("lines", "message"), BAD, ids=[lines or "nothing" for lines, _ in BAD])
def test_a_wrong_value_is_named_with_its_file_entry_and_key(path: Path, lines: str, message: str) -> None:
    path.write_text(f'[[guest]]\nname = "web"\n{lines}\n[[guest.allow]]\n')
    with pytest.raises(SettingsError) as refused:
        load_policy(path)
    assert str(refused.value).startswith(f"policy file {path}: [[guest]] 1 ('web'): ")
    assert message in str(refused.value)


def test_all_wrong_values_are_told_at_once(path: Path) -> None:
    path.write_text(
        '[[socket]]\npath = "/a"\nmode = "0777"\n[[guest]]\nuid = 1\n[[guest.allow]]\noperations = ["wrte"]\n'
    )
    with pytest.raises(SettingsError) as refused:
        load_policy(path)
    assert "[[socket]] 1: mode = '0777': must be an octal mode" in str(refused.value)
    assert "[[guest]] 1: name: must be given" in str(refused.value)
    assert "[[guest]] 1, [[allow]] 1: operations = 'wrte': Input should be 'read', 'write'" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[guest]", "policy.toml: "),
        ("", "guest: must be given"),
        ('[[guest]]\nname = "a"\nuid = 1\n', "allows nothing: add [[guest.allow]]"),
        ('[[guest]]\nname="a"\nuid=1\n[[guest.allow]]\n' * 2, "two entries are called 'a': rename one"),
        ('[[guest]]\nname="a"\nuid=1\n[[guest.allow]]\n', "the HTTP front is on, but no [[guest]] has front = true"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_refused(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"policy file .*") as refused:
        load_policy(path, front=True)
    assert message in str(refused.value)


def test_a_file_that_is_not_there_is_an_error_not_an_empty_policy(path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_policy(path)
