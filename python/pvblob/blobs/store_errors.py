"""Why a store cannot be opened: in words an operator can act on."""

from __future__ import annotations

from pvblob.errors import PvblobError


class StoreError(PvblobError):
    """The store cannot be used; the text says which path and what to do."""


class StoreInUse(StoreError, BlockingIOError):
    """Another process has the store open; the text names its pid."""


class StoreCorrupt(StoreError):
    """The catalog or a segment does not hold what it must; the text names the file and the place."""
