"""GPADLs: split page numbers into GPADL_HEADER and GPADL_BODY messages, and put them together again.

The guest sends what `split` yields; the session of either role feeds an `Assembly` per id, so both know the pages.
Lengths are taken from the header alone: bodies may be padded with junk (spec/vmbus.md §3.2), and a header is judged
before anything is kept (H14). Whether the pages are lent memory is for whoever maps them.
"""

from __future__ import annotations

from pvblob.errors import LocalProtocolError
from pvblob.vmbus.constants import PAGE_BYTES
from pvblob.vmbus.messages import GpadlBody, GpadlHeader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEADER_PFNS_MAX = 26
BODY_PFNS_MAX = 28
PFNS_MAX = 8190  # the range buffer's length is a u16: 8 + 8 * 8190 = 65,528
_RANGE_BYTES = 8
_PFN_BYTES = 8


class GpadlError(ValueError):
    """A header or body breaks a rule; the session says whose message it was."""


def split(relid: int, gpadl_id: int, pfns: Sequence[int]) -> Iterator[GpadlHeader | GpadlBody]:
    """Yield the messages that describe whole pages *pfns*, in order: one header, then bodies numbered from 1.

    Raises LocalProtocolError when there are no pages or more than 8190.
    """
    if not 1 <= len(pfns) <= PFNS_MAX:
        raise LocalProtocolError(f"a GPADL of {len(pfns)} pages; one range holds 1 to {PFNS_MAX}")
    yield GpadlHeader(
        relid,
        gpadl_id,
        range_buffer_bytes=_RANGE_BYTES + _PFN_BYTES * len(pfns),
        range_count=1,
        byte_count=len(pfns) * PAGE_BYTES,
        byte_offset=0,
        pfns=tuple(pfns[:HEADER_PFNS_MAX]),
    )
    for number, first in enumerate(range(HEADER_PFNS_MAX, len(pfns), BODY_PFNS_MAX), start=1):
        yield GpadlBody(gpadl_id, tuple(pfns[first : first + BODY_PFNS_MAX]), message_number=number)


def pages_of(byte_count: int, byte_offset: int) -> int:
    """Return how many pages a range touches. Source: spec/vmbus.md §2.3."""
    return (byte_offset + byte_count + PAGE_BYTES - 1) // PAGE_BYTES


class Assembly:
    """The page numbers of one GPADL as they arrive."""

    __slots__ = ("_pages", "_pfns", "byte_count", "byte_offset")

    def __init__(self, header: GpadlHeader, pages_max: int) -> None:
        """Begin with *header*. Raises GpadlError when it breaks H11, H14 or the bound of *pages_max* pages."""
        if header.range_count != 1:
            raise GpadlError(f"{header.range_count} ranges; exactly 1 is supported")
        if header.byte_count == 0 or header.byte_offset >= PAGE_BYTES:
            raise GpadlError(f"range of {header.byte_count} bytes at {header.byte_offset} in its first page")
        self._pages = pages_of(header.byte_count, header.byte_offset)
        if self._pages > min(pages_max, PFNS_MAX):
            raise GpadlError(f"{self._pages} pages; at most {min(pages_max, PFNS_MAX)} are accepted")
        if header.range_buffer_bytes != _RANGE_BYTES + _PFN_BYTES * self._pages:
            raise GpadlError(f"range buffer of {header.range_buffer_bytes} bytes for {self._pages} pages")
        self.byte_count = header.byte_count
        self.byte_offset = header.byte_offset
        self._pfns: tuple[int, ...] = header.pfns[: self._pages]

    @property
    def complete(self) -> bool:
        """Whether every page number has arrived."""
        return len(self._pfns) == self._pages

    @property
    def pfns(self) -> tuple[int, ...]:
        """The page numbers so far, in order."""
        return self._pfns

    def would_complete(self, body: GpadlBody) -> bool:
        """Return whether *body* brings what is missing. Raises GpadlError for a body that brings nothing."""
        if not body.pfns:
            raise GpadlError("a body without page numbers")
        return len(self._pfns) + len(body.pfns) >= self._pages

    def add(self, body: GpadlBody) -> None:
        """Take what is still missing from *body*; the rest is junk by rule."""
        self._pfns += body.pfns[: self._pages - len(self._pfns)]
