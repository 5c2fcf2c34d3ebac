"""GUIDs as the bus has them: 16 bytes, the first three parts little-endian. Source: spec/vmbus.md §3.

The standard library's UUID says more, and importing it takes a guest longer than connecting to its host.
"""

from __future__ import annotations

GUID_BYTES = 16


class Guid(bytes):
    """A GUID, as its 16 bytes lie in messages; `str` gives the usual text."""

    __slots__ = ()

    @classmethod
    def of(cls, text: str) -> Guid:
        """Return the GUID written as `0590b792-db64-45cc-81db-b8d70c577c9e`. Raises ValueError for anything else."""
        raw = bytes.fromhex(text.replace("-", ""))
        if len(raw) != GUID_BYTES:
            raise ValueError(f"{text!r} is no GUID: it has 32 hexadecimal digits")
        return cls(raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:])

    def __str__(self) -> str:
        digits = (self[3::-1] + self[5:3:-1] + self[7:5:-1] + self[8:]).hex()
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def __repr__(self) -> str:
        return f"Guid.of({str(self)!r})"
