"""A peer that sends whatever it likes: the session takes it, or fails with RemoteProtocolError, and stays bounded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvblob.errors import RemoteProtocolError
from pvblob.vmbus import layout
from pvblob.vmbus import messages as m
from pvblob.vmbus.constants import AZURE_BLOB_CLASS, VPCI_CLASS, VPCI_TWIN_INSTANCES
from pvblob.vmbus.records import Bounds
from pvblob.vmbus.roles import GUEST, HOST, Role
from pvblob.vmbus.session import Session
from pvblob.vmbus.transitions import ConnectionState

BOUNDS = Bounds(channels_max=3, gpadls_max=3, gpadl_pages_max=40, regions_max=3)
# Few values, so that messages meet each other's records; and the extremes of every size.
PLAUSIBLE = (0, 1, 2, 3, 16, 24, 4096, 8192)


def values(placed: layout.Placed) -> st.SearchStrategy[int]:
    top = (1 << 8 * (placed.size or 1)) - 1
    return st.sampled_from([*(value for value in PLAUSIBLE if value <= top), top])


def some(cls: type[m.Message]) -> st.SearchStrategy[m.Message]:
    by_name: dict[str, st.SearchStrategy[Any]] = {
        "class_id": st.sampled_from([AZURE_BLOB_CLASS, VPCI_CLASS]),
        "instance_id": st.sampled_from([AZURE_BLOB_CLASS, *VPCI_TWIN_INSTANCES]),
        "user_data": st.just(bytes(120)),
        "pfns": st.lists(st.integers(0, 9), max_size=26).map(tuple),
        "text": st.just("no"),
    }
    fields = {name: by_name.get(name, values(placed)) for name, placed in layout.placed_fields(cls)}
    return st.builds(cls, **fields)


def sent_to(role: Role) -> st.SearchStrategy[list[m.Message]]:
    kinds = [some(cls) for cls in m.MESSAGE_TYPES.values() if cls.SENDER is role.peer]
    return st.lists(st.one_of(kinds), max_size=30)


def ready(role: Role) -> Session:
    """A session at READY whose peer has kept to the rules so far."""
    session = Session(role, bounds=BOUNDS)
    opening = (m.InitiateContact(0x50003), m.VersionResponse(1), m.HostPage(4096), m.RequestOffers())
    for message in (*opening, m.OfferChannel(AZURE_BLOB_CLASS, AZURE_BLOB_CLASS, 1), m.AllOffersDelivered()):
        if message.SENDER is role:
            session.send(message)
        else:
            session.receive(m.encode(message), message.DESCRIPTORS)
    return session


@pytest.mark.long
@pytest.mark.parametrize("role", [GUEST, HOST], ids=repr)
@given(st.data())
def test_whatever_a_peer_sends_is_taken_or_a_remote_error(role: Role, data: st.DataObject) -> None:
    session = ready(role)
    for message in data.draw(sent_to(role)):
        try:
            session.receive(m.encode(message), message.DESCRIPTORS)
        except RemoteProtocolError:
            assert session.state is ConnectionState.FAILED
            return
        assert len(session.channels) <= BOUNDS.channels_max
        assert len(session.gpadls) <= BOUNDS.gpadls_max
        assert len(session.regions) <= BOUNDS.regions_max
        assert all(len(one.pfns) <= BOUNDS.gpadl_pages_max for one in session.gpadls.values())


@given(st.binary(max_size=300), st.integers(0, 5))
def test_random_bytes_never_raise_anything_but_a_remote_error(datagram: bytes, fd_count: int) -> None:
    for role in (GUEST, HOST):
        try:
            ready(role).receive(datagram, fd_count)
        except RemoteProtocolError:
            continue
