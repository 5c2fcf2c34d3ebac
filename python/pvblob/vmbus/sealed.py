"""Whether a descriptor is memory that nobody can shrink under us (design rule 1).

The host asks before it hands a lent region on; the data plane asks again before it maps. Nothing is mapped here.
"""

from __future__ import annotations

import fcntl
import os

from pvblob.errors import RemoteProtocolError

SEALS_REQUIRED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_F_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h; the fcntl module does not name it
_NAMES = {fcntl.F_SEAL_SHRINK: "F_SEAL_SHRINK", fcntl.F_SEAL_GROW: "F_SEAL_GROW", fcntl.F_SEAL_SEAL: "F_SEAL_SEAL"}


def check_sealed(fd: int, length: int) -> None:
    """Check that *fd* is writable memory of exactly *length* bytes whose size and seals are final.

    Without SHRINK a peer could truncate it and our access would raise SIGBUS (spec/vmbus.md §5). The size is read after
    the seals: before them it could still change.  Raises RemoteProtocolError saying what is wrong.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise RemoteProtocolError(f"descriptor {fd} is no memfd: only sealed memory can be lent ({error})") from error
    missing = [name for seal, name in _NAMES.items() if not seals & seal]
    if missing:
        raise RemoteProtocolError(f"lent memory lacks the seals {', '.join(missing)}")
    if seals & (fcntl.F_SEAL_WRITE | _F_SEAL_FUTURE_WRITE):
        raise RemoteProtocolError("lent memory is sealed against writing: responses could not be put there")
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        raise RemoteProtocolError("lent memory is not open for reading and writing")
    size_bytes = os.fstat(fd).st_size
    if size_bytes != length:
        raise RemoteProtocolError(f"lent memory has {size_bytes} bytes; the message says {length}")
