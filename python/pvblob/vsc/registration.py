"""Memory of the program's own that the host reads into and writes from directly: `Device.register`.

A `RegisteredMemory` outlives connections: each link attaches it at its first use there, a fork's child on its own link.
Whoever is handed a buffer asks `Registrations.find`, which goes by address: any view of registered memory is found.
Invariant: while it is registered, the program's mapping is pinned by a view, so no other memory can take its addresses.
"""

from __future__ import annotations

import os
import weakref

from pvblob import _native
from pvblob.errors import RemoteProtocolError
from pvblob.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from typing_extensions import Buffer

    from pvblob.vsc.device import Device
    from pvblob.vsc.link import Link

PAGE_BYTES = 4096


@frozen
class Placed:
    """A buffer inside registered memory: *size_bytes* bytes from *offset* of what was registered."""

    memory: RegisteredMemory
    offset: int
    size_bytes: int

    def of(self, attached: _native.LentBuffer) -> _native.LentBuffer:
        """Return this part of the pages that the memory has on a link."""
        return self.memory.cut(attached, self.offset, self.size_bytes)


class RegisteredMemory:
    """What `Device.register` returns. `read_into` and uploads that are given views of it copy nothing in this process.

    view: the memory, as bytes.  sealed: lent as memory whose size is final.  Use as a context manager, or call
    `deregister`, before the memory is closed. If the memory is cut while the host uses it, requests on it fail.
    """

    def __init__(self, device: Device, memory: Any) -> None:
        from pvblob.vsc.shared_memory import locate  # most programs register nothing

        found = locate(memory)
        try:
            first_page = found.offset // PAGE_BYTES
            self._skip_bytes = found.offset - first_page * PAGE_BYTES
            mapped_bytes = -(-(self._skip_bytes + found.size_bytes) // PAGE_BYTES) * PAGE_BYTES
            self.mapping = _native.SharedMapping(found.fd, first_page, mapped_bytes)
            self.sealed = first_page == 0 and _is_sealed(found.fd, mapped_bytes)
        finally:
            os.close(found.fd)
        self.file_page = first_page
        self.size_bytes = found.size_bytes
        own = self.mapping.address + self._skip_bytes
        self._addresses = (own,) if found.address is None else (found.address, own)
        self._owner: object = found.owner
        self._device: Device | None = device
        # The link that lets go of it. Weak: the link knows this object until the host has answered.
        self._left: weakref.ref[Link] | None = None

    @property
    def view(self) -> memoryview:
        """Return the memory as writable bytes, through a mapping of our own that lives as long as the view."""
        return memoryview(self.mapping)[self._skip_bytes : self._skip_bytes + self.size_bytes]

    def __len__(self) -> int:
        return self.size_bytes

    def offset_of(self, address: int, size_bytes: int) -> int | None:
        """Return the offset at which the range lies in this memory, None if it is not wholly inside."""
        for start in self._addresses:
            if start <= address and address + size_bytes <= start + self.size_bytes:
                return address - start
        return None

    def cut(self, attached: _native.LentBuffer, offset: int, size_bytes: int) -> _native.LentBuffer:
        """Return the part of *attached*, the mapping's pages on one link, that is *offset* and *size_bytes* of ours."""
        return attached.slice(self._skip_bytes + offset, size_bytes)

    @property
    def is_lent(self) -> bool:
        """Whether the host may still touch the memory: until `deregister`, and then until its last request is done."""
        link = None if self._left is None else self._left()
        return self._device is not None or (link is not None and link.still_holds(self))

    def deregister(self) -> None:
        """Take the memory back: no request uses it from now on, and when none is in flight the host lets go of it.

        Returns at once; `is_lent` says when the host has let go. The program may close the memory either way.
        """
        device, self._device = self._device, None
        if device is not None:
            device.registrations.remove(self)
            self._owner, link = None, device.current()
            if link is not None:
                self._left = weakref.ref(link)
                link.detach(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.deregister()


class Registrations:
    """The registered memory of one device. Replaced as a whole, never changed, so that a look needs no lock."""

    def __init__(self) -> None:
        self._all: tuple[RegisteredMemory, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, memory: RegisteredMemory) -> None:
        """Find it from now on."""
        self._all = (*self._all, memory)

    def remove(self, memory: RegisteredMemory) -> None:
        """Find it no more."""
        self._all = tuple(other for other in self._all if other is not memory)

    @property
    def size_bytes(self) -> int:
        """How much memory is registered, in whole pages."""
        return sum(len(memory.mapping) for memory in self._all)

    def bytes_missing(self, link: Link) -> int:
        """Return how many bytes of registered memory *link* has not attached yet."""
        return sum(len(memory.mapping) for memory in self._all if link.attached(memory) is None)

    def attached(self, buffer: Buffer, link: Link | None) -> _native.LentBuffer | None:
        """Return lent pages for a writable *buffer* in registered memory that *link* has attached already."""
        placed = self.find(buffer, writable=True)
        attached = None if placed is None or link is None else link.attached(placed.memory)
        return None if attached is None or placed is None else placed.of(attached)

    def find(self, buffer: Buffer, *, writable: bool) -> Placed | None:
        """Return where *buffer* lies in registered memory, None if it does not (or cannot be written as it must)."""
        if not self._all or isinstance(buffer, (bytes, _native.LentBuffer)):
            return None
        try:
            view = memoryview(buffer)
            if not view.contiguous or not view.nbytes or (writable and view.readonly):
                return None
            address, size_bytes = _native.buffer_address(view)
        except (TypeError, ValueError, BufferError):
            return None
        for memory in self._all:
            offset = memory.offset_of(address, size_bytes)
            if offset is not None:
                return Placed(memory, offset, size_bytes)
        return None


def _is_sealed(fd: int, size_bytes: int) -> bool:
    from pvblob.vmbus.sealed import check_sealed

    try:
        check_sealed(fd, size_bytes)
    except RemoteProtocolError:
        return False
    return True
