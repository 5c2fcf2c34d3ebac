"""Writes the corpus before anything is measured: as blobs through the channel, as files, and its checksums.

`fill(corpus, sockets, files, on_written)` runs a few writer processes `python -m pvblob.cli.fleet.fill JSON`; each
takes every n-th blob, stores it everywhere, puts its pages' checksums in their place and prints a line.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from pvblob.cli.fleet.corpus import CONTAINER, PAGE_BYTES, Corpus, checksums, name
from pvblob.errors import PvblobError

WRITERS_MAX = 4
TIMEOUT_S = 120.0
WRITTEN = b"written\n"


class FillFailure(PvblobError):
    """A blob could not be written; the text says which error."""


def fill(corpus: Corpus, sockets: Sequence[str], files: Path | None, on_written: Callable[[int], None]) -> None:
    """Write every blob to every host and, into *files*, as a file. Raises FillFailure.

    on_written: told how many are done.
    """
    Path(corpus.checksums).write_bytes(b"")
    count = min(WRITERS_MAX, os.cpu_count() or 1, corpus.blob_count)
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for number in range(count):
            what = json.dumps([corpus, list(sockets), str(files) if files else "", number, count])
            process = subprocess.Popen(
                [sys.executable, "-m", "pvblob.cli.fleet.fill", what],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                start_new_session=True,
            )
            stack.callback(_end, process)
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ, process)
        done = 0
        while selector.get_map():
            for key, _ in selector.select():
                line = _report_of(key.data)
                if line:
                    done += 1
                    on_written(done)
                else:
                    selector.unregister(key.fileobj)


def _report_of(process: subprocess.Popen[bytes]) -> bytes:
    """Return the line that reports a blob, b"" when the writer is done. Raises FillFailure for anything else."""
    assert process.stdout is not None
    line: bytes = process.stdout.readline()
    if line != WRITTEN and (line or process.wait()):
        said = (line + process.stdout.read()).decode("utf-8", "replace").strip()
        raise FillFailure(f"writing the blobs failed: {said[-2000:] or 'a writer ended without a word'}")
    return line


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _write_share(corpus: Corpus, sockets: Sequence[str], files: str, blobs: range) -> None:
    from pvblob import Client

    with ExitStack() as stack:
        clients = [stack.enter_context(Client.connect(socket, timeout_s=TIMEOUT_S)) for socket in sockets]
        for client in clients:
            client.create_container(CONTAINER, exist_ok=True)
        sums = stack.enter_context(Path(corpus.checksums).open("r+b"))
        for blob in blobs:
            content = corpus.content(blob)
            for client in clients:
                client.put(CONTAINER, name(blob), content)
            if files:
                Path(files, name(blob)).write_bytes(content)
            sums.seek(blob * (corpus.blob_bytes // PAGE_BYTES) * 4)
            sums.write(array("I", checksums(content)).tobytes())
            sums.flush()
            sys.stdout.write(WRITTEN.decode())
            sys.stdout.flush()


if __name__ == "__main__":
    given, to, into, first, step = json.loads(sys.argv[1])
    whole = Corpus(*given)
    _write_share(whole, to, into, range(first, whole.blob_count, step))
