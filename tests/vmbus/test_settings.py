"""Where the control socket is by default: design §3."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pvblob.settings import default_socket_path


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({"PVBLOB_SOCKET": "/a/b.sock", "XDG_RUNTIME_DIR": "/run/user/7"}, 7, "/a/b.sock"),
        ({"PVBLOB_SOCKET": "/a/b.sock"}, 0, "/a/b.sock"),
        ({"PVBLOB_SOCKET": "", "XDG_RUNTIME_DIR": "/run/user/7"}, 7, "/run/user/7/pvblob/bus.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/0"}, 0, "/run/pvblob/bus.sock"),
        ({}, 0, "/run/pvblob/bus.sock"),
        ({}, 7, "/tmp/pvblob-7/bus.sock"),
        ({"XDG_RUNTIME_DIR": "relative"}, 7, "/tmp/pvblob-7/bus.sock"),
    ],
)
def test_the_socket_path_follows_environment_and_user(environ: dict[str, str], uid: int, expected: str) -> None:
    assert default_socket_path(environ, uid) == Path(expected)


def test_a_relative_choice_is_made_absolute() -> None:
    assert default_socket_path({"PVBLOB_SOCKET": "b.sock"}, 7) == Path.cwd() / "b.sock"


def test_this_process_is_asked_when_nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVBLOB_SOCKET", "/chosen.sock")
    assert default_socket_path() == Path("/chosen.sock")
    monkeypatch.delenv("PVBLOB_SOCKET")
    assert default_socket_path() == default_socket_path(os.environ, os.geteuid())
