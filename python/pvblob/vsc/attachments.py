"""Registered memory on one link: announced, in use, leaving. Kept by the link, under the link's lock.

A memory region's life is that of docs/wire-protocol.md: it may be taken back only after the host has answered for it,
and only when no request uses it; so what is to leave is noted and goes at the next opportunity.
"""

from __future__ import annotations

from pvblob.vmbus import messages as m
from pvblob.vmbus.constants import REGION_SEALED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pvblob import _native
    from pvblob.vsc.registration import RegisteredMemory

    Send = Callable[[m.Message, tuple[int, ...]], None]


class Attachment:
    """One registered memory's place on the link. status: the host's answer, None until it came."""

    __slots__ = ("buffer", "gpa", "memory", "status", "taken_back")

    def __init__(self, memory: RegisteredMemory, gpa: int, buffer: _native.LentBuffer) -> None:
        self.memory = memory
        self.gpa = gpa
        self.buffer: _native.LentBuffer | None = buffer
        self.status: int | None = None
        self.taken_back = False  # MEMORY_REGION_REMOVE has been sent


class Attachments:
    """All of them. `get` may be called without the lock: it is one look into a dict.

    It is given the link's `send` where it needs it: a link must be free of cycles, for its end closes descriptors.
    """

    def __init__(self, memory: _native.LentMemory) -> None:
        self._lent = memory
        self._current: dict[RegisteredMemory, Attachment] = {}
        self._leaving: dict[int, Attachment] = {}

    def get(self, memory: RegisteredMemory) -> Attachment | None:
        """Return the attachment in use or announced."""
        return self._current.get(memory)

    def begin(self, memory: RegisteredMemory, send: Send) -> Attachment | None:
        """Give *memory* a place and announce it. None: lent memory is spent."""
        placed = self._lent.register(memory.mapping)
        if placed is None:
            return None
        gpa, buffer = placed
        flags = REGION_SEALED if memory.sealed else 0
        announced = m.MemoryRegion(gpa, len(memory.mapping), flags, 0 if memory.sealed else memory.file_page)
        attachment = self._current[memory] = Attachment(memory, gpa, buffer)
        send(announced, (memory.mapping.fileno(),))
        return attachment

    def answered(self, gpa: int, status: int) -> bool:
        """Note the host's answer for a region; False when it is none of these."""
        attachment = next((one for one in (*self._current.values(), *self._leaving.values()) if one.gpa == gpa), None)
        if attachment is None:
            return False
        attachment.status = status
        if status:
            attachment.buffer = None
            self._current.pop(attachment.memory, None)
            self._leaving.pop(gpa, None)
            self._lent.forget(gpa)
        return True

    def leave(self, memory: RegisteredMemory) -> None:
        """Use it no more."""
        attachment = self._current.pop(memory, None)
        if attachment is not None:
            attachment.buffer = None
            self._leaving[attachment.gpa] = attachment

    def return_left(self, send: Send) -> None:
        """Tell the host of every one that is to leave and that nobody uses any more."""
        for gpa, attachment in self._leaving.items():
            if attachment.status is not None and not attachment.taken_back and self._lent.is_free(gpa):
                attachment.taken_back = True
                send(m.MemoryRegionRemove(gpa), ())

    def removed(self, gpa: int) -> None:
        """The host has let go of a region."""
        self._leaving.pop(gpa, None)

    def is_leaving(self, memory: RegisteredMemory) -> bool:
        """Whether the host may still touch memory that was left."""
        return any(attachment.memory is memory for attachment in list(self._leaving.values()))
