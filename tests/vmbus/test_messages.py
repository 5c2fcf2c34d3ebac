"""Channel messages to and from bytes: golden vectors, H2, and hypothesis. Source: spec/vmbus.md §3."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvblob.errors import LocalProtocolError, RemoteProtocolError
from pvblob.frozen import replace
from pvblob.vmbus import layout
from pvblob.vmbus import messages as m
from pvblob.vmbus.constants import AZURE_BLOB_CLASS, OWN_TYPES, VMBUS_TYPES
from pvblob.vmbus.guid import Guid

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "messages.json").read_text())["messages"]
CLASSES = {cls.__name__: cls for cls in (*m.MESSAGE_TYPES.values(), m.Unknown)}


def name_of(vector: dict[str, Any]) -> str:
    return str(vector["message"])


def size_min(vector: dict[str, Any]) -> int:
    return CLASSES[vector["message"]].SIZE_MIN


def runs_to_end(vector: dict[str, Any]) -> bool:
    return any(placed.size is None for _, placed in layout.placed_fields(CLASSES[vector["message"]]))


def from_vector(vector: dict[str, Any]) -> m.Message:
    fields = dict(vector["fields"])
    for name, convert in (
        ("class_id", Guid.of),
        ("instance_id", Guid.of),
        ("user_data", bytes.fromhex),
        ("pfns", tuple),
    ):
        if name in fields:
            fields[name] = convert(fields[name])
    if vector["message"] == "Unknown":
        fields["payload"] = bytes.fromhex(fields["payload"])
    return CLASSES[vector["message"]](**fields)


def integer(size: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << 8 * size) - 1)


printable_text = st.text(max_size=66).map(lambda text: layout.printable(text, m.REFUSED_TEXT_BYTES_MAX))


def messages_of(cls: type[m.Message]) -> st.SearchStrategy[m.Message]:
    """Every field of *cls* with every value its place allows."""
    if cls is m.Unknown:
        known = set(m.MESSAGE_TYPES)
        numbers = [number for number in (*VMBUS_TYPES, *OWN_TYPES) if number not in known]
        return st.builds(m.Unknown, st.sampled_from(numbers), st.binary(max_size=232))
    room = (m.DATAGRAM_BYTES_MAX - cls.SIZE_MIN) // 8
    by_name: dict[str, st.SearchStrategy[Any]] = {
        "class_id": st.uuids().map(lambda value: Guid(value.bytes_le)),
        "instance_id": st.uuids().map(lambda value: Guid(value.bytes_le)),
        "user_data": st.binary(min_size=120, max_size=120),
        "pfns": st.lists(integer(8), max_size=room).map(tuple),
        "text": printable_text,
    }
    fields = {name: by_name.get(name, integer(placed.size or 0)) for name, placed in layout.placed_fields(cls)}
    return st.builds(cls, **fields)


any_message = st.one_of([messages_of(cls) for cls in CLASSES.values()])


@pytest.mark.parametrize("vector", VECTORS, ids=name_of)
def test_a_message_encodes_to_the_golden_bytes(vector: dict[str, Any]) -> None:
    message = from_vector(vector)
    assert m.encode(message).hex() == vector["hex"]
    assert m.decode(bytes.fromhex(vector["hex"])) == message
    assert m.descriptors_expected(message) == vector["descriptors"]


def test_every_message_type_has_a_golden_vector() -> None:
    assert {vector["message"] for vector in VECTORS} == set(CLASSES)


@pytest.mark.parametrize("cls", m.MESSAGE_TYPES.values(), ids=lambda cls: cls.NAME)
def test_the_fields_of_a_message_neither_overlap_nor_pass_its_size(cls: type[m.Message]) -> None:
    taken: set[int] = set(range(m.HEADER_BYTES))
    for name, placed in layout.placed_fields(cls):
        if placed.size is None:
            assert placed.offset == cls.SIZE_MIN
            continue
        span = set(range(placed.offset, placed.offset + placed.size))
        assert not span & taken, name
        assert max(span) < cls.SIZE_MIN
        taken |= span


@given(any_message)
def test_decode_undoes_encode(message: m.Message) -> None:
    assert m.decode(m.encode(message)) == message


@given(st.binary(max_size=300))
def test_random_bytes_are_a_message_or_a_remote_error(datagram: bytes) -> None:
    """H2; the second half makes the type one that exists, so that the fields are read too."""
    for number in (None, *m.MESSAGE_TYPES):
        typed = datagram if number is None else number.to_bytes(4, "little") + datagram[4:]
        try:
            message = m.decode(typed)
        except RemoteProtocolError:
            continue
        assert m.decode(m.encode(message)) == message


# A message that is a header alone cannot be shorter without being no datagram at all, see below.
@pytest.mark.parametrize("vector", [one for one in VECTORS if size_min(one) > m.HEADER_BYTES], ids=name_of)
def test_a_message_below_its_minimum_is_refused_by_type_length_and_minimum(vector: dict[str, Any]) -> None:
    """H2."""
    cls = CLASSES[vector["message"]]
    short = bytes.fromhex(vector["hex"])[: cls.SIZE_MIN - 1]
    with pytest.raises(RemoteProtocolError, match=f"{cls.NAME}.* {len(short)} bytes.*minimum is {cls.SIZE_MIN}"):
        m.decode(short)


@pytest.mark.parametrize("vector", [one for one in VECTORS if not runs_to_end(one)], ids=name_of)
def test_bytes_after_the_minimum_are_ignored(vector: dict[str, Any]) -> None:
    """spec/vmbus.md §3: messages may be longer than listed. What runs to the end of the message takes them."""
    longer = bytes.fromhex(vector["hex"]).ljust(m.DATAGRAM_BYTES_MAX, b"\xee")
    assert m.decode(longer) == from_vector(vector)


@pytest.mark.parametrize("vector", VECTORS, ids=name_of)
def test_padding_between_fields_is_zero_when_sent_and_ignored_when_received(vector: dict[str, Any]) -> None:
    """W-17."""
    cls = CLASSES[vector["message"]]
    noisy = bytearray(bytes.fromhex(vector["hex"]))
    used = {0, 1, 2, 3}
    for _, placed in layout.placed_fields(cls):
        used |= set(range(placed.offset, placed.offset + (placed.size or len(noisy))))
    gaps = [at for at in range(len(noisy)) if at not in used]
    for at in gaps:
        assert noisy[at] == 0
        noisy[at] = 0xA5
    assert m.decode(bytes(noisy)) == from_vector(vector)


@pytest.mark.parametrize("length", [0, 7, 241, 4096])
def test_a_datagram_outside_8_to_240_bytes_is_refused(length: int) -> None:
    """H2."""
    with pytest.raises(RemoteProtocolError, match=f"{length} bytes"):
        m.decode(bytes([3]).ljust(length, b"\0")[:length])


@pytest.mark.parametrize("number", [0, 30, 0x1000, 0x1100, 0xFFFFFFFF])
def test_a_type_outside_every_range_is_refused(number: int) -> None:
    """H2."""
    with pytest.raises(RemoteProtocolError, match=f"{number:#x}.* outside every range"):
        m.decode(number.to_bytes(4, "little") + bytes(4))
    with pytest.raises(LocalProtocolError, match="outside every range"):
        m.encode(m.Unknown(number, b""))


WRONG_VALUES: list[tuple[Callable[[], m.Message], str]] = [
    (lambda: m.CloseChannel(1 << 32), "CloseChannel.relid"),
    (lambda: m.CloseChannel(-1), "CloseChannel.relid"),
    (lambda: m.CloseChannel("5"), "CloseChannel.relid"),  # type: ignore[arg-type]
    (lambda: m.OfferChannel("no guid", AZURE_BLOB_CLASS, 1), "OfferChannel.class_id"),  # type: ignore[arg-type]
    (lambda: m.OfferChannel(AZURE_BLOB_CLASS, AZURE_BLOB_CLASS, 1, b"short"), "OfferChannel.user_data"),
    (lambda: m.GpadlBody(1, (1 << 64,)), "GpadlBody.pfns"),
    (lambda: m.GpadlBody(1, (0,) * 29), "GPADL_BODY of 248 bytes"),
    (lambda: m.Refused(0, "x" * 201), "Refused.text"),
    (lambda: m.Refused(0, "a\x1b[31m"), "Refused.text"),
]


@pytest.mark.parametrize(("make", "named"), WRONG_VALUES)
def test_a_value_that_does_not_fit_is_our_error_and_named(make: Callable[[], m.Message], named: str) -> None:
    with pytest.raises(LocalProtocolError, match=named):
        m.encode(make())


def test_text_of_a_refusal_longer_than_200_bytes_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match=r"REFUSED.*201 bytes"):
        m.decode(m.encode(m.Refused(0, "")) + b"x" * 201)


@given(st.text(), st.binary(max_size=200))
def test_text_from_a_peer_is_printable(reason: str, sent: bytes) -> None:
    """W-15: neither direction carries control characters into somebody's terminal."""
    refusal = m.Refused.because(5, reason)
    assert m.decode(m.encode(refusal)) == refusal
    received = m.decode(m.encode(m.Refused(5, "")) + sent)
    assert isinstance(received, m.Refused)
    assert received.text.isprintable()
    assert m.decode(m.encode(received)) == received


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        m.CloseChannel(1).relid = 2  # type: ignore[misc]


def test_messages_are_values_that_never_change() -> None:
    offer = m.RelidReleased(relid=7)
    assert offer == m.RelidReleased(7) == pickle.loads(pickle.dumps(offer)) == copy.copy(offer)
    assert offer != m.RelidReleased(8)
    assert len({offer, m.RelidReleased(7), replace(offer, relid=8)}) == 2
    assert repr(offer) == "RelidReleased(relid=7)"
    with pytest.raises(AttributeError):
        offer.relid = 8  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del offer.relid
    for values, named in (((), {}), ((1, 2), {}), ((1,), {"relid": 1}), ((), {"relid": 1, "other": 2})):
        with pytest.raises(TypeError, match="RelidReleased"):
            m.RelidReleased(*values, **named)
