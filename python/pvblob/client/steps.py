"""The steps of a conversation: what it asks of whoever drives it. The driver waits; conversations never do.

A conversation yields a step and is sent what the step says. `lend`, `attach`, `post`, `collect` and `fill` do this
with types.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, TypeAlias, TypeVar

    from pvblob import _native
    from pvblob.client.sinks import Answer
    from pvblob.vsc.registration import Placed

    T = TypeVar("T")

    # Whatever the driver's device returned for a Post; dropping it cancels the request.
    Ticket: TypeAlias = Any
    Step: TypeAlias = "Lend | Attach | Post | Collect | Fill"
    Steps: TypeAlias = Generator[Step, object, T]
    Conversation: TypeAlias = Steps[Answer]


class Lend:
    """Lend pages. The answer is a LentBuffer of `size_bytes`, or of fewer but at least `size_bytes_min`.

    optional: the conversation can go on without; the answer is then None where memory is spent.
    """

    __slots__ = ("optional", "size_bytes", "size_bytes_min")

    def __init__(self, size_bytes: int, size_bytes_min: int, optional: bool = False) -> None:
        self.size_bytes = size_bytes
        self.size_bytes_min = size_bytes_min
        self.optional = optional


class Attach:
    """Give me pages for a buffer in registered memory. The answer is a LentBuffer, or None: it must be copied."""

    __slots__ = ("placed",)

    def __init__(self, placed: Placed) -> None:
        self.placed = placed


class Post:
    """Send one packet. The answer is a ticket; the buffers are the host's until it is collected, or cancelled."""

    __slots__ = ("data", "data_valid", "guid", "request", "response")

    def __init__(
        self,
        request: _native.LentBuffer,
        response: _native.LentBuffer,
        data: _native.LentBuffer | None,
        data_valid: int,
        guid: bytes,
    ) -> None:
        self.request = request
        self.response = response
        self.data = data
        self.data_valid = data_valid
        self.guid = guid


class Collect:
    """Wait for a posted packet's completion. The answer is (device status, response bytes)."""

    __slots__ = ("ticket",)

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket


class Fill:
    """Give me the next bytes of the source, at most `into`'s length. The answer is the number of bytes."""

    __slots__ = ("into",)

    def __init__(self, into: memoryview) -> None:
        self.into = into


def lend(size_bytes: int, size_bytes_min: int | None = None) -> Steps[_native.LentBuffer]:
    """Lend pages: *size_bytes*, or at least *size_bytes_min* where that is given."""
    lent = yield Lend(size_bytes, size_bytes if size_bytes_min is None else size_bytes_min)
    return lent  # type: ignore[return-value]


def lend_if_possible(size_bytes: int) -> Steps[_native.LentBuffer | None]:
    """Lend *size_bytes* of pages unless memory is spent."""
    lent = yield Lend(size_bytes, size_bytes, optional=True)
    return lent  # type: ignore[return-value]


def attach(placed: Placed) -> Steps[_native.LentBuffer | None]:
    """Have pages for a buffer in registered memory, if the connection can have them."""
    attached = yield Attach(placed)
    return attached  # type: ignore[return-value]


def post(step: Post) -> Steps[Ticket]:
    """Send one packet."""
    return (yield step)


def collect(ticket: Ticket) -> Steps[tuple[int, int]]:
    """Wait for a packet's completion: (device status, response bytes)."""
    outcome = yield Collect(ticket)
    return outcome  # type: ignore[return-value]


def fill(into: memoryview) -> Steps[int]:
    """Fill *into* from the source; the number of bytes."""
    count = yield Fill(into)
    return count  # type: ignore[return-value]
