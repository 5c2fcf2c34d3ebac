"""GPADLs in pieces and together again. Source: spec/vmbus.md §3.2, H11, H14; docs/wire-protocol.md W-24."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvblob.errors import LocalProtocolError
from pvblob.frozen import replace
from pvblob.vmbus import messages as m
from pvblob.vmbus.gpadl import PFNS_MAX, Assembly, GpadlError, split


def assemble(*parts: m.Message, pages_max: int = PFNS_MAX) -> Assembly:
    header, *bodies = parts
    assert isinstance(header, m.GpadlHeader)
    assembly = Assembly(header, pages_max)
    for body in bodies:
        assert isinstance(body, m.GpadlBody)
        assert not assembly.complete
        completes = assembly.would_complete(body)
        assembly.add(body)
        assert assembly.complete is completes
    return assembly


def test_64_pages_are_a_header_of_26_and_bodies_of_28_and_10() -> None:
    """§3.2's own example: range buffer length 520."""
    header, *bodies = split(5, 0xE1E10, range(1000, 1064))
    assert isinstance(header, m.GpadlHeader)
    assert (header.range_buffer_bytes, header.range_count, header.byte_count) == (520, 1, 64 * 4096)
    assert [len(header.pfns), *(len(body.pfns) for body in bodies)] == [26, 28, 10]
    assert len(m.encode(header)) == 236
    assert len(m.encode(bodies[0])) == 240


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=200))
def test_what_was_split_is_put_together_again_through_bytes(pfns: list[int]) -> None:
    parts = [m.decode(m.encode(part)) for part in split(1, 2, pfns)]
    assembly = assemble(*parts)
    assert assembly.complete
    assert list(assembly.pfns) == pfns


def test_the_largest_gpadl_has_8190_pages() -> None:
    parts = list(split(1, 2, range(PFNS_MAX)))
    assert len(assemble(*parts).pfns) == PFNS_MAX
    for count in (0, PFNS_MAX + 1):
        with pytest.raises(LocalProtocolError, match=f"{count} pages"):
            list(split(1, 2, range(count)))


@given(st.integers(1, 100), st.lists(st.integers(0, 99), max_size=28))
def test_junk_after_the_last_page_number_is_ignored(pages: int, junk: list[int]) -> None:
    """§3.2: senders may pad body messages with junk; take only what is still missing."""
    *parts, last = split(1, 2, range(pages))
    room = (26 if isinstance(last, m.GpadlHeader) else 28) - len(last.pfns)
    padded = replace(last, pfns=last.pfns + tuple(junk[:room]))
    assert assemble(*parts, padded).pfns == tuple(range(pages))


def test_an_odd_rest_of_a_body_is_ignored() -> None:
    body = m.decode(m.encode(m.GpadlBody(1, (5, 6))) + b"\xff\xff\xff")
    assert body == m.GpadlBody(1, (5, 6))


HEADER = m.GpadlHeader(1, 2, 16, 1, 4096, 0, (7,))


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (replace(HEADER, range_count=0), "0 ranges"),
        (replace(HEADER, range_count=2), "2 ranges"),
        (replace(HEADER, byte_count=0), "0 bytes"),
        (replace(HEADER, byte_offset=4096), "at 4096"),
        (replace(HEADER, range_buffer_bytes=24), "buffer of 24 bytes for 1 pages"),
        (replace(HEADER, byte_offset=1), "buffer of 16 bytes for 2 pages"),
        (replace(HEADER, byte_count=0xFFFFFFFF, byte_offset=4095), "at most 100"),
        (replace(HEADER, byte_count=101 * 4096, range_buffer_bytes=816), "101 pages; at most 100"),
    ],
)
def test_a_header_that_breaks_a_rule_is_refused_before_anything_is_kept(header: m.GpadlHeader, named: str) -> None:
    """H11, H14, W-26."""
    with pytest.raises(GpadlError, match=named):
        Assembly(header, 100)


def test_a_body_without_page_numbers_is_refused() -> None:
    """W-24: else a peer could send them for ever."""
    assembly = Assembly(next(split(1, 2, range(30))), 100)  # type: ignore[arg-type]
    with pytest.raises(GpadlError, match="without page numbers"):
        assembly.would_complete(m.GpadlBody(2, ()))
