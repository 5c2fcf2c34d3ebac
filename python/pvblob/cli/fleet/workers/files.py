"""A plain file, written by a system call: what storing bytes costs before anybody makes a blob of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pvblob.cli.fleet.workers.contract import Call, WritingWorker

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Write(WritingWorker):
    """A new file each time, in place of the one before."""

    FSYNC = False

    def calls(self) -> Sequence[Call]:
        """Return a write for each slot."""
        return [self._write(slot) for slot in range(self.SLOTS)]

    def _write(self, slot: int) -> Call:
        path, data, flags = self._path(slot), self.data[slot], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC

        def call(_offset: int) -> None:
            fd = os.open(path, flags, 0o600)
            try:
                if os.write(fd, data) != len(data):
                    raise OSError(f"{path}: the disk is full")
                if self.FSYNC:
                    os.fsync(fd)
            finally:
                os.close(fd)

        return call

    def _path(self, slot: int) -> str:
        return os.path.join(self.address.directory, f"file-{self.names[slot]}")  # noqa: PTH118  no Path in a timed call

    def read_back(self, slot: int) -> Buffer:
        """Return the file's bytes."""
        return Path(self._path(slot)).read_bytes()


class WriteThrough(Write):
    """The same, and fsync before it counts."""

    FSYNC = True
