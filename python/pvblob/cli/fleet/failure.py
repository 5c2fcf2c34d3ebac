"""The error of a contest that cannot go on."""

from __future__ import annotations

from pvblob.errors import PvblobError

TEXT_MAX = 300


class ContestFailure(PvblobError):
    """A client or a server failed; the text says which and how, in one line."""

    def __init__(self, text: str) -> None:
        line = " ".join(text.split())
        super().__init__(line if len(line) <= TEXT_MAX else f"{line[:TEXT_MAX]}…")
