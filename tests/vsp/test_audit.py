"""A denied request leaves one line, never more than the limit, never a control character (design rule 11)."""

from __future__ import annotations

import logging

import pytest

from pvblob.access import Access
from pvblob.vsp.audit import PEERS_MAX, Audit, PeerLog
from pvblob.vsp.policy import Guest

LOG = logging.getLogger("test.audit")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(clock: Clock) -> PeerLog:
    return PeerLog(LOG, lines_max=3, window_s=60, clock=clock)


def test_a_denied_request_is_one_line_that_says_who_what_and_why(
    lines: PeerLog, caplog: pytest.LogCaptureFixture
) -> None:
    audit = Audit(lines)
    audit.deny(Guest(41, 1001, cgroup="/web"), "web", Access("write", "acct", "box", b"a"), "it may only read")
    assert caplog.messages == [
        "denied pid=41 uid=1001 cgroup=/web entry='web' asked='write /acct/box/a': it may only read"
    ]
    assert audit.denied == 1


def test_control_characters_of_a_peer_are_written_escaped(lines: PeerLog, caplog: pytest.LogCaptureFixture) -> None:
    name = "a\nWARNING forged\x1b[2J\u202e".encode()
    Audit(lines).deny(Guest(uid=1, cgroup="/x\n/y"), "e", Access("read", "acct", "box", name), "no")
    assert caplog.messages[0].isprintable()
    assert "\\nWARNING forged\\x1b[2J" in caplog.messages[0]
    assert "cgroup=/x\\n/y" in caplog.messages[0]


def test_an_endless_name_is_cut(lines: PeerLog, caplog: pytest.LogCaptureFixture) -> None:
    Audit(lines).deny(Guest(uid=1), "e", Access("read", "acct", "box", b"a" * 1024), "no")
    lines.warning("uid:2", "b" * 10_000)
    assert max(map(len, caplog.messages)) < 1000


def test_a_guest_that_goes_on_is_counted_and_not_logged_and_others_are_heard(
    lines: PeerLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(100):
        lines.warning("uid:1", f"line {number}")
    lines.warning("uid:2", "another")
    assert caplog.messages == ["line 0", "line 1", "line 2", "another"]
    assert lines.suppressed == 97
    clock.now_s = 60.0
    lines.warning("uid:1", "later")
    assert caplog.messages[4:] == ["uid:1: 97 more lines were left out", "later"]


def test_what_was_left_out_is_said_at_the_end_at_the_latest(lines: PeerLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        lines.warning("uid:1", "line")
    lines.close()
    assert caplog.messages[-1] == "uid:1: 2 more lines were left out"


def test_the_log_remembers_a_bounded_number_of_peers(lines: PeerLog) -> None:
    for number in range(PEERS_MAX + 50):
        lines.warning(f"uid:{number}", "line")
    assert len(lines._peers) == PEERS_MAX
