"""The bus over real socket pairs: datagrams, descriptors, hostile datagrams; no descriptor is ever leaked."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pvblob.errors import ChannelError, LocalProtocolError, RemoteProtocolError
from pvblob.vmbus.bus import DATAGRAM_BYTES_MAX, DESCRIPTORS_MAX, Bus, BusClosed, BusFull, PeerCredentials, close_all

Buses = tuple[Bus, Bus]


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.exists()}


@pytest.fixture
def no_leak() -> Iterator[None]:
    """The test leaves as many descriptors open as it found."""
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Bus]]:
    """A bare socket, to send what `Bus` would not, and the bus at its other end."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, Bus(right) as bus:
        yield left, bus


def send_descriptors(to: socket.socket, datagram: bytes, count: int) -> None:
    sent = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
    to.sendmsg([datagram], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", sent))])
    close_all(sent)


def send_until_full(bus: Bus) -> int:
    """Return how many messages of the largest kind fitted."""
    for sent in range(100_000):
        try:
            bus.send(b"x" * 240)
        except BusFull as full:
            assert f"pid {os.getpid()}" in str(full)  # noqa: PT017
            return sent
    raise AssertionError("never full")


def test_a_datagram_arrives_whole_and_alone(buses: Buses) -> None:
    """W-1."""
    one, other = buses
    assert other.receive() is None
    one.send(b"first")
    one.send(b"x" * DATAGRAM_BYTES_MAX)
    assert other.receive() == (b"first", [])
    assert other.receive() == (b"x" * DATAGRAM_BYTES_MAX, [])
    assert other.receive() is None


@pytest.mark.usefixtures("no_leak")
def test_descriptors_arrive_with_their_datagram_and_are_close_on_exec(buses: Buses) -> None:
    one, other = buses
    memory = os.memfd_create("lent")
    os.write(memory, b"hello")
    one.send(b"region", [memory])
    one.send(b"doorbells", [memory, memory])
    os.close(memory)
    came = other.receive()
    assert came is not None
    datagram, descriptors = came
    assert (datagram, len(descriptors)) == (b"region", 1)
    assert os.pread(descriptors[0], 9, 0) == b"hello"
    assert fcntl.fcntl(descriptors[0], fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    close_all(descriptors)
    came = other.receive()
    assert came is not None
    assert len(came[1]) == 2
    close_all(came[1])


@pytest.mark.usefixtures("no_leak")
def test_more_descriptors_than_a_message_has_are_refused_and_closed(raw: tuple[socket.socket, Bus]) -> None:
    """W-1."""
    peer, bus = raw
    for count in (DESCRIPTORS_MAX + 1, 100):
        send_descriptors(peer, b"datagram", count)
        with pytest.raises(RemoteProtocolError, match="more than 2 descriptors"):
            bus.receive()


@pytest.mark.usefixtures("no_leak")
def test_an_oversized_datagram_is_refused_and_its_descriptors_closed(raw: tuple[socket.socket, Bus]) -> None:
    peer, bus = raw
    send_descriptors(peer, b"x" * (DATAGRAM_BYTES_MAX + 1), 2)
    with pytest.raises(RemoteProtocolError, match="more than 4096 bytes"):
        bus.receive()
    assert bus.receive() is None


@pytest.mark.usefixtures("no_leak")
def test_an_empty_datagram_is_the_end_and_its_descriptors_are_closed(raw: tuple[socket.socket, Bus]) -> None:
    """W-1: it cannot be told from the end."""
    peer, bus = raw
    send_descriptors(peer, b"", 2)
    with pytest.raises(BusClosed):
        bus.receive()


@pytest.mark.usefixtures("no_leak")
def test_descriptors_still_unread_when_the_bus_closes_are_not_leaked(raw: tuple[socket.socket, Bus]) -> None:
    send_descriptors(raw[0], b"never read", 2)


@pytest.mark.usefixtures("no_leak")
def test_a_full_descriptor_table_is_ours_to_report_and_nothing_is_kept(
    raw: tuple[socket.socket, Bus], full_descriptor_table: Callable[[], AbstractContextManager[list[int]]]
) -> None:
    """The peer did nothing wrong, so it is no protocol error."""
    peer, bus = raw
    send_descriptors(peer, b"datagram", 2)
    with full_descriptor_table() as filler:
        os.close(filler.pop())
        with pytest.raises(ChannelError, match="ulimit -n") as error:
            bus.receive()
        assert error.value.errno == errno.EMFILE


def test_a_peer_that_never_reads_makes_the_bus_full_and_never_blocks_it(buses: Buses) -> None:
    """W-3: bounded, at once, and it works again once the peer reads."""
    one, other = buses
    sent = send_until_full(one)
    assert 100 < sent < 1000
    for _ in range(sent):
        assert other.receive() is not None
    assert other.receive() is None
    one.send(b"again")


def test_a_full_bus_becomes_writable_when_the_peer_reads(buses: Buses) -> None:
    one, other = buses
    send_until_full(one)
    poll = select.poll()
    poll.register(one, select.POLLOUT)
    assert poll.poll(0) == []
    while other.receive():
        pass
    assert poll.poll(0) == [(one.fileno(), select.POLLOUT)]


def test_the_end_comes_after_what_was_sent_before_it(buses: Buses) -> None:
    one, other = buses
    one.send(b"last words")
    one.close()
    assert other.receive() == (b"last words", [])
    for _ in range(2):
        with pytest.raises(BusClosed):
            other.receive()
    with pytest.raises(BusClosed):
        other.send(b"too late")


def test_last_words_are_heard_even_if_the_peer_closed_without_reading(buses: Buses) -> None:
    """A host that refuses a guest does not read on; Linux then reports ECONNRESET before what it had sent."""
    guest, host = buses
    guest.send(b"never read")
    host.send(b"refused")
    host.close()
    assert guest.receive() == (b"refused", [])
    with pytest.raises(BusClosed):
        guest.receive()


@pytest.mark.parametrize(("datagram", "count"), [(b"", 0), (b"x" * (DATAGRAM_BYTES_MAX + 1), 0), (b"x", 3)])
def test_what_is_no_datagram_is_our_error(buses: Buses, datagram: bytes, count: int) -> None:
    with pytest.raises(LocalProtocolError, match="is no datagram"):
        buses[0].send(datagram, [0] * count)


def test_a_closed_descriptor_of_ours_is_the_callers_error(buses: Buses) -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as error:
        buses[0].send(b"x", [999_999])
    assert not isinstance(error.value, ChannelError)


def test_the_peer_is_who_the_kernel_says(buses: Buses) -> None:
    """W-4."""
    assert buses[0].peer == PeerCredentials(os.getpid(), os.getuid(), os.getgid())


def test_the_peers_pidfd_tells_of_its_death() -> None:
    """W-4, design rule 7."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind("")
    listening.listen()
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        "s.connect(sys.argv[1].encode().replace(b'@', b'\\0')); sys.stdin.read()"
    )
    name = "@" + listening.getsockname()[1:].decode()
    with listening, subprocess.Popen([sys.executable, "-c", script, name], stdin=subprocess.PIPE) as guest:
        bus = Bus(listening.accept()[0])
        assert bus.peer.pid == guest.pid
        pidfd = bus.open_peer_pidfd()
        if pidfd is None:
            guest.kill()
            pytest.skip("this kernel has no SO_PEERPIDFD (Linux 6.5)")
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(0) == []
        guest.kill()
        assert poll.poll(10_000) == [(pidfd, select.POLLIN)]
        os.close(pidfd)
        bus.close()
