"""One upload: pieces become uncommitted blocks, and the last one the commit; a single piece is one Put Blob.

`Client.put` cuts its data into pieces for it; a file object that is written to hands them over as they come.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pvblob.client.bodies import pieces
from pvblob.client.operations import Call, Operations, WriteOptions, block_id

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from pvblob.client.bodies import Source
    from pvblob.client.properties import Written


class BlockUpload:
    """An upload under way. run: sends a call and returns its value.  place: (container, blob).

    One thread uses it at a time. Nothing of it is visible to readers before `finish` returns.
    """

    def __init__(
        self, run: Callable[[Call[Any]], Any], operations: Operations, place: tuple[str, str], options: WriteOptions
    ) -> None:
        self._run = run
        self._operations = operations
        self._container, self._blob = place
        self._options = options
        self._upload = os.urandom(12)
        self._block_ids: list[str] = []

    def write(self, piece: Buffer) -> None:
        """Send *piece* (at most 4,000 MiB) as the next block; an empty one is left out. It is not kept."""
        if memoryview(piece).nbytes:
            name = block_id(self._upload, len(self._block_ids))
            self._run(self._operations.put_block(self._container, self._blob, name, piece))
            self._block_ids.append(name)

    def store(self, data: Source) -> Written:
        """Send all of *data*, see `Client.put`, and make the blob."""
        for piece, is_last in pieces(data):
            if is_last:
                break
            self.write(piece)
        return self.finish(piece)

    def finish(self, last: Buffer = b"") -> Written:
        """Send the *last* piece and make the blob; raises what `Client.put` raises."""
        call: Call[Written]
        if not self._block_ids:
            call = self._operations.put_blob(self._container, self._blob, last, self._options)
        else:
            self.write(last)
            call = self._operations.put_block_list(self._container, self._blob, self._block_ids, self._options)
        written: Written = self._run(call)
        return written
