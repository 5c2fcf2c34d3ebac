"""The nouns that guest and host share: Fields, Request, ByteRange. `http` has them too, with those of the host alone.

Field names are lower case; field values are text in which every character stands for one byte (ISO 8859-1), so any
bytes that arrive can be handed on unchanged. Every guest imports this: it needs no other module to be loaded.
"""

from __future__ import annotations

from pvblob.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pvblob.http import OnceKey


class Fields:
    """An ordered multi-map of header fields; look-ups ignore case.

    Names are stored in lower case. `get` returns the first value of a name, as Azure's own parsers do.
    """

    __slots__ = ("_first", "_pairs")

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs: list[tuple[str, str]] = []
        self._first: dict[str, str] = {}
        for name, value in pairs:
            self.add(name, value)

    @classmethod
    def lowered(cls, pairs: list[tuple[str, str]]) -> Fields:
        """Wrap *pairs* (taken over, not copied) whose names are lower case already: what the RFC 9292 decoder gives."""
        fields = cls.__new__(cls)
        fields._pairs = pairs
        fields._first = dict(reversed(pairs))
        return fields

    def add(self, name: str, value: str) -> None:
        """Append one field, keeping those of the same name."""
        lowered = name.lower()
        self._pairs.append((lowered, value))
        self._first.setdefault(lowered, value)

    def set(self, name: str, value: str) -> None:
        """Replace every field of this name by one."""
        self.discard(name)
        self.add(name, value)

    def discard(self, name: str) -> None:
        """Remove every field of this name, if any."""
        lowered = name.lower()
        if self._first.pop(lowered, None) is not None:
            self._pairs = [pair for pair in self._pairs if pair[0] != lowered]

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of *name*, or *default*."""
        value = self._first.get(name)
        if value is None and name not in self._first:
            value = self._first.get(name.lower(), default)
        return value

    def pairs(self) -> list[tuple[str, str]]:
        """Return the fields in order; the list belongs to this object."""
        return self._pairs

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._first

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self._pairs == other._pairs

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Fields({self._pairs!r})"


METADATA = "x-ms-meta-"
# How the metadata names of one message are spelled, prefix left out, separated by commas. It is there only when one of
# them is not all lower case, which is how the names themselves travel (RFC 9292 §3.6). See docs/decisions/0003.
METADATA_NAMES = "pvblob-metadata-names"


def metadata_spelling(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the field that keeps the case of metadata *names* (without prefix), or none when nothing would be lost."""
    names = list(names)
    return [(METADATA_NAMES, ",".join(names))] if any(name != name.lower() for name in names) else []


def spelled_metadata(fields: Fields) -> dict[str, str]:
    """Return lower-case name → name as spelled, both with prefix, for the fields that METADATA_NAMES speaks of.

    The first spelling of a name counts.
    """
    noted = fields.get(METADATA_NAMES)
    names = (METADATA + name for name in noted.split(",")) if noted else ()
    spelling: dict[str, str] = {}
    for name in names:
        spelling.setdefault(name.lower(), name)
    return spelling


class Request:
    """One REST request, its body aside.

    method: upper case.  scheme, authority: as in the URL (`https`, `devstoreaccount1.blob.core.windows.net`).
    target: raw path and query exactly as sent, percent-encoding untouched, beginning with "/".
    once: set for requests that came over a channel.  guest: who asks, for fair shares.  deadline_s: the moment, by
    `time.monotonic`, at which nobody waits for the answer any more; None: nobody said.
    wants_offload: an answer that can be given again is worth an `Offer`.  reader: the same number for requests of one
    program, 0 when nobody knows: who reads on where it read before.
    """

    __match_args__ = (
        "method", "scheme", "authority", "target", "fields", "once", "wants_offload", "guest", "deadline_s", "reader",
    )  # fmt: skip
    __slots__ = __match_args__

    def __init__(
        self,
        method: str,
        scheme: str,
        authority: str,
        target: str,
        fields: Fields,
        once: OnceKey | None = None,
        wants_offload: bool = False,
        guest: str = "",
        deadline_s: float | None = None,
        reader: int = 0,
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.authority = authority
        self.target = target
        self.fields = fields
        self.once = once
        self.wants_offload = wants_offload
        self.guest = guest
        self.deadline_s = deadline_s
        self.reader = reader

    def __repr__(self) -> str:
        return f"Request({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and all(getattr(self, one) == getattr(other, one) for one in self.__slots__)

    __hash__ = None  # type: ignore[assignment]


@frozen
class ByteRange:
    """A requested range: first byte, and last byte inclusive or None for "to the end". Source: RFC 9110 §14.1.2."""

    first: int
    last: int | None = None

    def __init__(self, first: int, last: int | None = None) -> None:  # the shared one would be slower
        object.__setattr__(self, "first", first)
        object.__setattr__(self, "last", last)

    @classmethod
    def parse(cls, text: str) -> ByteRange | None:
        """Parse `bytes=first-last` or `bytes=first-`; None for anything else (Azure ignores ranges it cannot read)."""
        unit, equals, span = text.strip().partition("=")
        first, dash, last = span.partition("-")
        if unit.strip().lower() != "bytes" or not equals or not dash:
            return None
        if not (first.isascii() and first.isdigit()) or (last and not (last.isascii() and last.isdigit())):
            return None
        parsed = cls(int(first), int(last) if last else None)
        return None if parsed.last is not None and parsed.last < parsed.first else parsed

    def resolve(self, size_bytes: int) -> tuple[int, int] | None:
        """Return (offset, length) within a blob of *size_bytes*, cut at its end; None when it begins past the end."""
        if self.first >= size_bytes:
            return None
        last = size_bytes - 1 if self.last is None else min(self.last, size_bytes - 1)
        return self.first, last - self.first + 1

    def __str__(self) -> str:
        return f"bytes={self.first}-{'' if self.last is None else self.last}"
