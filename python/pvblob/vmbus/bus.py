"""The socket that carries channel messages: one datagram = one message, with its descriptors.

`listen` (host) and `connect` (guest) make Unix SOCK_SEQPACKET sockets; `Bus` moves datagrams over one of them without
ever waiting: what cannot be sent now is `BusFull`, what has not come is None. Descriptors that arrive belong to the
caller, and are closed here whenever the datagram is not handed over. What a datagram means is not known here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

from pvblob.errors import ChannelError, HostUnavailable, LocalProtocolError, RemoteProtocolError, SettingsError
from pvblob.frozen import frozen
from pvblob.settings import absolute
from pvblob.vmbus import socket_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

    Dispose = Callable[[Iterable[int]], None]

DATAGRAM_BYTES_MAX = 4096
DESCRIPTORS_MAX = 2  # what the message with most of them carries (DOORBELLS)
_DESCRIPTORS_SENT_MAX = 253  # the kernel's SCM_MAX_FD
SEND_BUFFER_BYTES = 131_072  # bounds what a peer that does not read can make the kernel keep for it
_SO_PEERPIDFD = 77
_SO_PEERGROUPS = 59
_GROUPS_BYTES_MAX = 1024  # what Python's getsockopt reads at most: 256 groups
BACKLOG = 4096  # guests that may wait to be accepted; the kernel cuts it to net.core.somaxconn
_HINT = "start one with `pvblob serve`"
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
_CREDENTIALS = struct.Struct("3i")
_DESCRIPTOR_BYTES = 4
# Room for as many as can be sent: those without room the kernel would close during the call, however long that takes.
_ANCILLARY_BYTES = socket.CMSG_SPACE(_DESCRIPTORS_SENT_MAX * _DESCRIPTOR_BYTES)
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
_CLOSED = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})


class BusFull(ChannelError, BlockingIOError):
    """The peer does not read: nothing was sent. Wait until the bus is writable, or give the peer up."""


class BusClosed(ChannelError, ConnectionError):
    """The peer has closed its end, or died."""


@frozen
class PeerCredentials:
    """Who is at the other end, as the kernel recorded it when the connection was made."""

    pid: int
    uid: int
    gid: int


class Bus:
    """One connected socket.

    Owns *connection*, a Unix SOCK_SEQPACKET socket. Closed by `close` or on leaving a `with` block.
    dispose: closes the descriptors of datagrams that are not handed over; a host does so where nobody waits for it.
    """

    __slots__ = ("_dispose", "_socket", "peer")

    def __init__(self, connection: socket.socket, dispose: Dispose | None = None) -> None:
        self._dispose = dispose or close_all
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        recorded = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self._socket = connection
        self.peer = PeerCredentials(*_CREDENTIALS.unpack(recorded))

    def fileno(self) -> int:
        """Return the descriptor to wait on: readable when something came, writable when something can be sent."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close our end; the peer reads what was sent, then the end."""
        self._socket.close()

    def shut_down(self) -> None:
        """Let the peer read what was sent, then the end, and send us nothing more; `close` is still owed."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Bus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open_peer_pidfd(self) -> int | None:
        """Return a descriptor that becomes readable when the peer's process ends; the caller closes it.

        None where the kernel cannot say (before 6.5): one made from `peer.pid` could be another process's by now.
        Raises BusClosed when the peer's process is gone already.
        """
        try:
            return self._socket.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as error:
            if error.errno in (errno.ESRCH, errno.EINVAL):
                raise BusClosed(f"process {self.peer.pid} has ended") from error
            if error.errno in (errno.ENOPROTOOPT, errno.ENODATA):
                return None
            raise

    def peer_groups(self) -> tuple[int, ...]:
        """Return the peer's supplementary groups; none where the kernel cannot say, or says more than 256."""
        try:
            packed = self._socket.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES_MAX)
        except OSError as error:
            if error.errno in (errno.ENOPROTOOPT, errno.ERANGE, errno.ENODATA):
                return ()
            raise
        return struct.unpack(f"{len(packed) // 4}I", packed)

    def send(self, datagram: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send one datagram; the descriptors are duplicated into it, ours stay ours.

        Raises BusFull when the peer does not read, BusClosed when it is gone (what it sent before can still be
        received), LocalProtocolError for an empty or oversized datagram or too many descriptors.
        """
        if not 0 < len(datagram) <= DATAGRAM_BYTES_MAX or len(descriptors) > DESCRIPTORS_MAX:
            what = f"{len(datagram)} bytes with {len(descriptors)} descriptors"
            raise LocalProtocolError(f"{what} is no datagram: 1 to {DATAGRAM_BYTES_MAX}, at most {DESCRIPTORS_MAX}")
        rights = struct.pack(f"{len(descriptors)}i", *descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        try:
            self._socket.sendmsg([datagram], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno in _FULL:
                raise BusFull(f"the peer (pid {self.peer.pid}) does not read its messages") from error
            if error.errno in _CLOSED:
                raise BusClosed(f"the peer (pid {self.peer.pid}) has closed the bus") from error
            raise

    def receive(self) -> tuple[bytes, list[int]] | None:
        """Return the next datagram and its descriptors (close-on-exec, the caller's to close); None if none came.

        Raises BusClosed at the end; RemoteProtocolError when the datagram or its descriptors are more than anyone may
        send; ChannelError(EMFILE) when this process has no room for the descriptors. All of them are closed then.
        """
        came = self._receive()
        if came is None:
            return None
        datagram, descriptors, flags = came
        try:
            self._judge(datagram, descriptors, flags)
        except BaseException:
            self._dispose(descriptors)
            raise
        return datagram, descriptors

    def _receive(self) -> tuple[bytes, list[int], int] | None:
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        # A peer that closes without reading everything leaves one ECONNRESET in front of what it had sent.
        for attempt in range(2):
            try:
                datagram, ancillary, came, _ = self._socket.recvmsg(DATAGRAM_BYTES_MAX, _ANCILLARY_BYTES, flags)
            except BlockingIOError:
                return None
            except ConnectionResetError as error:
                if attempt:
                    raise BusClosed(f"the peer (pid {self.peer.pid}) has closed the bus") from error
            else:
                return datagram, _descriptors(ancillary), came
        raise AssertionError("both attempts return or raise")

    def _judge(self, datagram: bytes, descriptors: list[int], flags: int) -> None:
        if flags & socket.MSG_CTRUNC:
            # There was room for as many as can be sent, so the room that lacks is in our descriptor table.
            raise ChannelError(errno.EMFILE, "no descriptor is free for what a peer sent; raise the limit (ulimit -n)")
        if len(descriptors) > DESCRIPTORS_MAX:
            raise RemoteProtocolError(f"the peer sent more than {DESCRIPTORS_MAX} descriptors with one datagram")
        if flags & socket.MSG_TRUNC:
            raise RemoteProtocolError(f"the peer sent a datagram of more than {DATAGRAM_BYTES_MAX} bytes")
        if not datagram:
            # The end; an empty datagram cannot be told from it, and nobody has reason to send one.
            raise BusClosed(f"the peer (pid {self.peer.pid}) has closed the bus")


class Listener:
    """A host's listening socket. Owns *listening*, bound to *path*.

    refusal: datagram for guests that cannot be accepted because this process is out of descriptors.
    refused: how many guests got it.  starved: the last `accept` had not even a descriptor to refuse with: whoever waits
    goes on waiting, so come again a little later.  dispose: see `Bus`; it closes the connections of refused guests too.
    """

    __slots__ = ("_dispose", "_identity", "_listening", "_refusal", "_spare", "path", "refused", "starved")

    def __init__(self, listening: socket.socket, path: Path, refusal: bytes, dispose: Dispose | None = None) -> None:
        self._dispose = dispose or close_all
        self._listening = listening
        self._identity = socket_path.identity(path)
        self._refusal = refusal
        self._spare: int | None = _spare_descriptor()
        self.path = path
        self.refused = 0
        self.starved = False

    def fileno(self) -> int:
        """Return the descriptor that is readable when a guest waits."""
        return self._listening.fileno()

    def accept(self) -> Bus | None:
        """Return the next guest's bus, or None when nobody waits or the one who did was refused or gave up."""
        self._keep_spare()
        self.starved = False
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            if error.errno not in _NO_DESCRIPTORS:
                raise
            self._refuse_one()
            return None
        return Bus(connection, self._dispose)

    def _refuse_one(self) -> None:
        """Accept and dismiss one guest with the descriptor kept for it; else it would wait, and we spin, for ever.

        It may have sent descriptors whose last close waits, so its connection is closed as those are: not here.
        """
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        try:
            connection, _ = self._listening.accept()
        except OSError as error:
            self.starved = error.errno in _NO_DESCRIPTORS
            return
        self.refused += 1
        with contextlib.suppress(OSError):
            if self._refusal:
                connection.send(self._refusal, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            connection.shutdown(socket.SHUT_RDWR)
        self._dispose([connection.detach()])
        self._keep_spare()

    def _keep_spare(self) -> None:
        # The connection of the guest that was refused last may still have its place; then a later call gets one.
        with contextlib.suppress(OSError):
            self._spare = _spare_descriptor() if self._spare is None else self._spare

    def close(self) -> None:
        """Stop listening and remove the socket from the file system if it is still ours. May be called again."""
        if self._listening.fileno() < 0:
            return
        if socket_path.identity(self.path) == self._identity:
            self.path.unlink(missing_ok=True)
        self._listening.close()
        if self._spare is not None:
            os.close(self._spare)

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def listen(
    path: Path,
    *,
    refusal: bytes = b"",
    mode: int = 0o600,
    group: int | None = None,
    dispose: Dispose | None = None,
) -> Listener:
    """Listen on *path*; its directory is made if it is not there, and lets through whom *mode* lets connect.

    mode: who may connect; a directory made for the default is 0700.  group: gid the socket belongs to, None for ours.
    refusal: see `Listener`.  dispose: see `Bus`.
    Raises ChannelError when a host is already listening there, SettingsError when the path cannot be used.
    """
    path = path.absolute()
    socket_path.check_length(path)
    try:
        socket_path.make_directory(path.parent, mode, group)
        socket_path.check_directory(path.parent)
        with socket_path.only_one_starts(path.parent):
            socket_path.remove_stale(path)
            return Listener(_listening(path, mode, group), path, refusal, dispose)
    except ChannelError:
        raise
    except OSError as error:
        raise SettingsError(f"cannot listen on {path} ({error.strerror}): set $PVBLOB_SOCKET") from error


def _listening(path: Path, mode: int, group: int | None) -> socket.socket:
    made = _socket()
    try:
        made.bind(os.fspath(path))
        # Nobody can connect before listen(), so the mode is never wider than asked for.
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(mode)
        made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


def connect(path: str | Path) -> Bus:
    """Connect to the host that listens on *path*, without waiting.

    Raises HostUnavailable when no host answers there; SettingsError when the path cannot be a host's.
    """
    path = absolute(path)
    socket_path.check_length(path)
    connection = _socket()
    try:
        directory = os.path.dirname(path)  # noqa: PTH120  # most guests never import pathlib
        if os.path.isdir(directory):  # noqa: PTH112
            socket_path.check_directory(directory)
        connection.connect(path)
        return Bus(connection)
    except OSError as error:
        connection.close()
        raise HostUnavailable(_why_unavailable(path, error), listens=error.errno == errno.EAGAIN) from error
    except BaseException:
        connection.close()
        raise


def _why_unavailable(path: str, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ECONNREFUSED | errno.ENOTDIR:
            return f"no host listens on {path}: {_HINT}"
        case errno.EAGAIN:
            return f"the host on {path} does not accept guests fast enough: try again"
        case errno.EACCES | errno.EPERM:
            return f"this user may not connect to {path}: ask the host's owner for access"
        case errno.EPROTOTYPE:
            return f"what listens on {path} is no pvblob host: set $PVBLOB_SOCKET, or {_HINT}"
        case _:
            return f"cannot connect to {path}: {error.strerror or error}"


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    made.setblocking(False)
    return made


def _spare_descriptor() -> int:
    return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    found: list[int] = []
    for level, kind, rights in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            count = len(rights) // _DESCRIPTOR_BYTES
            found.extend(struct.unpack_from(f"{count}i", rights))
    return found


def close_all(descriptors: Iterable[int]) -> None:
    """Close every descriptor, each whatever becomes of the others."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
