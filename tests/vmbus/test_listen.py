"""Where guest and host meet: listening, taking over from the dead, refusing to, and clear errors. Rule W-5."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pvblob.errors import ChannelError, HostUnavailable, SettingsError
from pvblob.vmbus import messages as m
from pvblob.vmbus import socket_path
from pvblob.vmbus.bus import BusClosed, close_all, connect, listen
from pvblob.vmbus.roles import GUEST, HOST
from pvblob.vmbus.session import Session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pvblob" / "bus.sock"


def test_a_guest_and_a_host_exchange_messages_and_descriptors(path: Path) -> None:
    guest, host = Session(GUEST), Session(HOST)
    with listen(path) as listener:
        assert listener.accept() is None
        with connect(path) as ours:
            theirs = listener.accept()
            assert theirs is not None
            assert ours.peer.pid == theirs.peer.pid == os.getpid()
            ours.send(guest.send(guest.contact()))
            came = theirs.receive()
            assert came is not None
            contact = host.receive(came[0], len(came[1]))
            assert isinstance(contact, m.InitiateContact)
            page = os.memfd_create("page")
            theirs.send(host.send(host.answer(contact)))
            theirs.send(host.send(m.HostPage(4096)), [page])
            os.close(page)
            for expected in (m.VersionResponse(1), m.HostPage(4096)):
                came = ours.receive()
                assert came is not None
                assert guest.receive(came[0], len(came[1])) == expected
                close_all(came[1])
            theirs.close()


def test_the_socket_is_its_owners_and_so_is_the_directory(path: Path) -> None:
    with listen(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with listen(path, mode=0o660):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_socket_is_removed_when_its_host_stops(path: Path) -> None:
    listener = listen(path)
    listener.close()
    listener.close()
    assert not path.exists()


def test_a_host_that_stops_leaves_the_socket_of_another_alone(path: Path) -> None:
    with listen(path):
        path.unlink()
        other = listen(path)
    assert path.exists()
    other.close()


def test_a_second_host_is_told_that_one_is_listening(path: Path) -> None:
    with listen(path) as listener:
        with pytest.raises(ChannelError, match="a host is already listening on"):
            listen(path)
        with connect(path) as guest:
            assert guest.fileno() >= 0
        served = listener.accept()
        assert served is not None, "the probe of the second host comes first"
        with served, pytest.raises(BusClosed):
            served.receive()


def test_a_socket_left_by_a_dead_host_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(os.fspath(path))
        dead.listen()
    with pytest.raises(HostUnavailable):
        connect(path)
    with listen(path), connect(path) as guest:
        assert guest.peer.pid == os.getpid()


def test_two_hosts_that_start_at_once_do_not_remove_each_others_socket(path: Path) -> None:
    path.parent.mkdir()
    with socket_path.only_one_starts(path.parent), pytest.raises(ChannelError, match="another host is starting"):
        listen(path)
    listen(path).close()


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(SettingsError, match="is no socket"):
        listen(path)
    assert path.read_text() == "precious"


def test_a_path_that_cannot_be_made_is_a_setting_to_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot listen on .*PVBLOB_SOCKET"):
        listen(tmp_path / "file" / "bus.sock")


@pytest.mark.parametrize("act", [listen, connect])
def test_a_path_too_long_for_a_socket_is_named_with_its_limit(act: type, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"107.*PVBLOB_SOCKET"):
        act(tmp_path / ("x" * 108))


def test_without_a_host_the_error_says_how_to_start_one(path: Path) -> None:
    for _ in range(2):
        with pytest.raises(HostUnavailable, match=r"no host listens on .*start one with `pvblob serve`"):
            connect(path)
        path.parent.mkdir(exist_ok=True)


def test_another_kind_of_socket_is_no_host(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.bind(os.fspath(path))
        stream.listen()
        with pytest.raises(HostUnavailable, match="is no pvblob host"):
            connect(path)
        with pytest.raises(ChannelError, match="already listening"):
            listen(path)


def shared(tmp_path: Path) -> Path:
    """A directory like /tmp, in which anybody may have made the socket's directory first."""
    made = tmp_path / "shared"
    made.mkdir()
    made.chmod(0o1777)
    return made


@pytest.mark.parametrize("act", [listen, connect])
def test_a_directory_in_tmp_that_others_may_write_is_not_trusted(act: type, tmp_path: Path) -> None:
    directory = shared(tmp_path) / "pvblob"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(SettingsError, match="may belong to somebody else"):
        act(directory / "bus.sock")


@pytest.mark.parametrize("act", [listen, connect])
def test_a_link_in_tmp_is_not_trusted(act: type, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    link = shared(tmp_path) / "pvblob"
    link.symlink_to(elsewhere)
    with pytest.raises(SettingsError, match="may belong to somebody else"):
        act(link / "bus.sock")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give a directory away")
def test_a_directory_in_tmp_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    directory = shared(tmp_path) / "pvblob"
    directory.mkdir(mode=0o700)
    os.chown(directory, 12345, 12345)
    with pytest.raises(SettingsError, match="owner uid 12345"):
        connect(directory / "bus.sock")


def test_a_directory_of_ours_in_tmp_is_good(tmp_path: Path) -> None:
    path = shared(tmp_path) / "pvblob" / "bus.sock"
    with listen(path), connect(path) as guest:
        assert guest.fileno() >= 0


def test_a_host_out_of_descriptors_refuses_guests_with_a_reason_instead_of_leaving_them_waiting(
    path: Path, full_descriptor_table: Callable[[], AbstractContextManager[list[int]]]
) -> None:
    """W-14; without the descriptor kept for this, the listener would stay readable and the host would spin."""
    refusal = m.encode(m.Refused.because(1, "out of descriptors"))
    with listen(path, refusal=refusal) as listener, connect(path) as guest:
        with full_descriptor_table():
            assert listener.accept() is None
            assert listener.refused == 1
            assert not listener.starved
        assert guest.receive() == (refusal, [])
        with pytest.raises(BusClosed):
            guest.receive()
        with connect(path), listener.accept() as served:  # type: ignore[union-attr]
            assert served.receive() is None


def test_a_refused_guest_is_closed_by_who_may_wait_and_the_next_ones_wait_until_it_is(
    path: Path, full_descriptor_table: Callable[[], AbstractContextManager[list[int]]]
) -> None:
    """Rule 1: what it had sent may hold up whoever closes it, for as long as its sender likes."""
    to_close: list[int] = []
    refusal = m.encode(m.Refused.because(1, "out of descriptors"))
    with listen(path, refusal=refusal, dispose=to_close.extend) as listener, connect(path) as first:
        first.send(b"x", [first.fileno()])
        with connect(path) as second, full_descriptor_table():
            assert listener.accept() is None
            assert (listener.refused, listener.starved, len(to_close)) == (1, False, 1)
            assert first.receive() == (refusal, [])
            assert listener.accept() is None
            assert (listener.refused, listener.starved) == (1, True), "there is nothing left to refuse with"
            os.close(to_close.pop())
            assert listener.accept() is None
            assert (listener.refused, listener.starved, len(to_close)) == (2, False, 1)
            assert second.receive() == (refusal, [])
        os.close(to_close.pop())
