"""Leases by the clients' handles, over a real channel. Source: Azure REST, "Lease Blob", "Lease Container"."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

import pvblob
from pvblob import AsyncClient, Client


def test_a_lease_keeps_others_from_writing_until_it_is_let_go(client: Client) -> None:
    blob = client.container("things").blob("b")
    blob.put(b"free")
    with blob.lease(15) as held:
        with pytest.raises(pvblob.PreconditionFailed, match="LeaseIdMissing"):
            blob.put(b"theirs")
        with pytest.raises(pvblob.Conflict, match="LeaseAlreadyPresent"):
            blob.lease(15)
        held.handle.put(b"mine")
        held.handle.client.set_metadata("things", "b", {"a": "1"})
        held.renew()
        assert blob.get() == held.handle.get() == b"mine"
    blob.put(b"free again")
    with pytest.raises(pvblob.Conflict, match="LeaseIdMismatch"):
        held.release()


def test_a_large_upload_and_a_deletion_carry_the_lease(client: Client) -> None:
    blob = client.container("things").blob("b")
    blob.put(b"")
    with blob.lease() as held:
        held.handle.put(b"x" * (20 << 20))
        assert held.handle.delete()
    assert list(client.list("things")) == [], "the end of a lease on what is gone is no error"
    with pytest.raises(pvblob.NotFound):
        blob.lease()


def test_what_fails_under_a_lease_is_what_the_program_hears_of(client: Client) -> None:
    blob = client.container("things").blob("b")
    blob.put(b"")
    with pytest.raises(KeyError, match="its own"), blob.lease() as held:
        raise KeyError(f"its own, not that of {held.id}")
    blob.put(b"the lease is gone")


def test_a_leased_container_is_deleted_with_its_lease(client: Client) -> None:
    container = client.container("leased")
    container.create()
    with container.lease() as held:
        with pytest.raises(pvblob.PreconditionFailed, match="LeaseIdMissing"):
            container.delete()
        assert held.handle.delete()


def test_appends_carry_the_lease(client: Client) -> None:
    blob = client.container("things").blob("log")
    blob.append(b"1")
    with blob.lease() as held:
        with pytest.raises(pvblob.PreconditionFailed):
            blob.append(b"2")
        assert held.handle.append(b"3") == 1


async def test_an_async_client_holds_leases_too(live_host: Any) -> None:
    async with await AsyncClient.connect(live_host.socket_path) as client:
        container = client.container("leased")
        await container.create()
        blob = container.blob("b")
        await blob.put(b"free")
        async with await blob.lease(15) as held:
            with pytest.raises(pvblob.PreconditionFailed):
                await blob.put(b"theirs")
            await held.renew()
            await held.handle.put(b"mine")
        assert await blob.get() == b"mine"
        async with await container.lease() as leased:
            await leased.handle.delete()


def test_a_held_lease_survives_pickling(client: Client) -> None:
    blob = client.container("things").blob("b")
    blob.put(b"")
    with blob.lease() as held:
        again = pickle.loads(pickle.dumps(held))
        with again.handle.client:
            again.handle.put(b"by another process")
    assert blob.get() == b"by another process"
