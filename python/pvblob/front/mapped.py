"""Files mapped for reading, so that their bytes go from the page cache to a socket without passing through Python.

The flow: `content` asks for the view of an extent, writes it, and drops it before the extent's release. Invariant: a
view never reaches past the end the file had when it was mapped; at most `files_max` mappings are kept, and one that is
dropped lives on until its last view is gone. It must not know what the bytes are or where they go.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections import OrderedDict

from pvblob.http import Extent

_Identity = tuple[int, int]


class MappedFiles:
    """Mappings of the files used last. One event loop uses it."""

    def __init__(self, files_max: int) -> None:
        self._files_max = files_max
        self._views: OrderedDict[_Identity, memoryview] = OrderedDict()

    def view(self, extent: Extent) -> memoryview:
        """Return the extent's bytes, read-only and in place; valid until the extent is released.

        Raises OSError when the file ends inside the extent or cannot be mapped.
        """
        status = os.fstat(extent.fd)
        identity = (status.st_dev, status.st_ino)
        end = extent.offset + extent.length
        whole = self._views.get(identity)
        if whole is None or len(whole) < end:
            if status.st_size < end:
                raise OSError(errno.EIO, f"the file has {status.st_size} bytes; an extent ends at {end}")
            # A file that has grown is mapped anew: the old mapping goes with the last view of it.
            whole = memoryview(mmap.mmap(extent.fd, status.st_size, prot=mmap.PROT_READ))
            self._views[identity] = whole
            if len(self._views) > self._files_max:
                self._views.popitem(last=False)
        self._views.move_to_end(identity)
        return whole[extent.offset : end]

    def __len__(self) -> int:
        """How many files are mapped now, those aside that live on for a view."""
        return len(self._views)

    def clear(self) -> None:
        """Keep no mapping any more."""
        self._views.clear()
