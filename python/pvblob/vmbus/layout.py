"""How a frozen class lies in bytes: field declarations with offsets, and the two directions.

`messages` and `user_data` declare their classes with `wire`; `pack` and `unpack` move them to and from bytes. Every
integer is little-endian; a field stands at the offset the specification gives, so a declaration can be read beside it.
Bytes between fields are zero when written and ignored when read. Nothing here knows a message, a session or a socket.
"""

from __future__ import annotations

from pvblob.errors import LocalProtocolError
from pvblob.frozen import MISSING, annotated, dataclass_transform, made_of, with_fields
from pvblob.vmbus.guid import GUID_BYTES, Guid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class FieldError(ValueError):
    """A value does not fit its field, or bytes do not form a value; the caller knows whose fault it is."""


class Placed:
    """Where and how one field lies. size: bytes, or None for "the rest of the message"."""

    __slots__ = ("default", "from_bytes", "offset", "size", "to_bytes")

    def __init__(
        self,
        offset: int,
        size: int | None,
        to_bytes: Callable[[Any], bytes],
        from_bytes: Callable[[bytes], Any],
        default: Any,
    ) -> None:
        self.offset = offset
        self.size = size
        self.to_bytes = to_bytes
        self.from_bytes = from_bytes
        self.default = default


def printable(text: str, bytes_max: int) -> str:
    """Return *text* with unprintable characters replaced, cut at a character so that it takes <= *bytes_max* in UTF-8.

    What a peer may put into our logs and error messages passes through here, in both directions.
    """
    clean = "".join(char if char.isprintable() else " " if char.isspace() else REPLACEMENT for char in text)
    return clean.encode("utf-8", "replace")[:bytes_max].decode("utf-8", "ignore")


def _integer(offset: int, size: int, default: Any) -> Any:
    def to_bytes(value: int) -> bytes:
        try:
            return value.to_bytes(size, "little")
        except OverflowError as error:
            raise FieldError(f"{value} does not fit {size} unsigned bytes") from error

    return Placed(offset, size, to_bytes, lambda raw: int.from_bytes(raw, "little"), default)


def u8(offset: int, *, default: Any = MISSING) -> Any:
    """Declare an unsigned 8-bit field at byte *offset*."""
    return _integer(offset, 1, default)


def u16(offset: int, *, default: Any = MISSING) -> Any:
    """Declare an unsigned 16-bit field at byte *offset*."""
    return _integer(offset, 2, default)


def u32(offset: int, *, default: Any = MISSING) -> Any:
    """Declare an unsigned 32-bit field at byte *offset*."""
    return _integer(offset, 4, default)


def u64(offset: int, *, default: Any = MISSING) -> Any:
    """Declare an unsigned 64-bit field at byte *offset*."""
    return _integer(offset, 8, default)


def guid(offset: int, *, default: Any = MISSING) -> Any:
    """Declare a GUID at byte *offset*."""

    def to_bytes(value: Guid) -> bytes:
        if not isinstance(value, Guid):
            raise FieldError(f"{value!r} is no Guid")
        return bytes(value)

    return Placed(offset, GUID_BYTES, to_bytes, Guid, default)


def raw(offset: int, size: int, *, default: Any = MISSING) -> Any:
    """Declare exactly *size* opaque bytes at byte *offset*."""

    def to_bytes(value: bytes) -> bytes:
        if len(value) != size:
            raise FieldError(f"{len(value)} bytes where exactly {size} belong")
        return bytes(value)

    return Placed(offset, size, to_bytes, bytes, default)


def _utf8(value: str, bytes_max: int) -> bytes:
    if printable(value, bytes_max) != value:
        raise FieldError(f"{value!r} is not printable UTF-8 of at most {bytes_max} bytes")
    return value.encode()


def text(offset: int, size: int, *, default: Any = MISSING) -> Any:
    """Declare UTF-8 text in *size* bytes at byte *offset*, padded with zeros; printable, see `printable`."""

    def from_bytes(value: bytes) -> str:
        return printable(value.partition(b"\0")[0].decode("utf-8", "replace"), size)

    return Placed(offset, size, lambda value: _utf8(value, size).ljust(size, b"\0"), from_bytes, default)


def text_to_end(offset: int, bytes_max: int, *, default: Any = MISSING) -> Any:
    """Declare UTF-8 text from byte *offset* to the end of the message, at most *bytes_max* bytes; printable."""

    def from_bytes(value: bytes) -> str:
        if len(value) > bytes_max:
            raise FieldError(f"text of {len(value)} bytes where at most {bytes_max} are allowed")
        return printable(value.rstrip(b"\0").decode("utf-8", "replace"), bytes_max)

    return Placed(offset, None, lambda value: _utf8(value, bytes_max), from_bytes, default)


def u64_to_end(offset: int, *, default: Any = MISSING) -> Any:
    """Declare unsigned 64-bit words from byte *offset* to the end of the message; an odd rest is ignored."""

    def to_bytes(values: tuple[int, ...]) -> bytes:
        try:
            return b"".join(value.to_bytes(8, "little") for value in values)
        except OverflowError as error:
            raise FieldError(f"a word of {values} does not fit 8 unsigned bytes") from error

    def from_bytes(value: bytes) -> tuple[int, ...]:
        return tuple(int.from_bytes(value[at : at + 8], "little") for at in range(0, len(value) - 7, 8))

    return Placed(offset, None, to_bytes, from_bytes, default)


def payload_to_end(offset: int, *, default: Any = MISSING) -> Any:
    """Declare opaque bytes from byte *offset* to the end of the message."""
    return Placed(offset, None, bytes, bytes, default)


@dataclass_transform(
    frozen_default=True,
    field_specifiers=(u8, u16, u32, u64, guid, raw, text, text_to_end, u64_to_end, payload_to_end),
)
def wire(cls: type[T]) -> type[T]:
    """Make *cls* a `frozen` class whose fields know their place in bytes."""
    places = {name: cls.__dict__[name] for name in annotated(cls)}
    made = with_fields(cls, {name: placed.default for name, placed in places.items()})
    _PLACES[made] = tuple(places.items())
    return made


_PLACES: dict[type, tuple[tuple[str, Placed], ...]] = {}


def placed_fields(cls: type) -> tuple[tuple[str, Placed], ...]:
    """Return the name and place of every field of a `wire` class, in the order of declaration."""
    return _PLACES[cls]


def pack(value: object, into: bytearray) -> bytes:
    """Write the fields of *value* into a copy of *into* and return it; what runs to the end is appended.

    into: as long as the fixed part.  Raises LocalProtocolError naming class and field when a value does not fit.
    """
    out = bytearray(into)
    for name, placed in placed_fields(type(value)):
        try:
            encoded = placed.to_bytes(getattr(value, name))
        except (FieldError, AttributeError, TypeError) as error:
            raise LocalProtocolError(f"{type(value).__name__}.{name}: {error}") from error
        out[placed.offset : placed.offset + len(encoded)] = encoded
    return bytes(out)


def unpack(cls: type[T], data: bytes) -> T:
    """Read a *cls* from *data*, which the caller has found long enough for the fixed part. Raises FieldError."""
    values: dict[str, Any] = {}
    for name, placed in placed_fields(cls):
        end = len(data) if placed.size is None else placed.offset + placed.size
        values[name] = placed.from_bytes(data[placed.offset : end])
    return made_of(cls, values)
