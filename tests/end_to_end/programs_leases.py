"""Programs that hold leases: a leader's lock, a guarded upload, a guarded container; see `programs` for the rules."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from azure.storage.blob import BlobLeaseClient, BlobServiceClient
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

from tests.end_to_end import programs_aio
from tests.end_to_end.programs import fresh_container, outcome, program

OTHER = str(uuid.UUID(int=7))
_PRESENT = ("ResourceExistsError", 409, "LeaseAlreadyPresent")
_MISSING = ("HttpResponseError", 412, "LeaseIdMissing")
_MISMATCH = ("HttpResponseError", 412, "LeaseIdMismatchWithBlobOperation")
_NOT_THAT_ONE = ("ResourceExistsError", 409, "LeaseIdMismatchWithLeaseOperation")
_CONTAINERS = ("HttpResponseError", 412, "LeaseIdMismatchWithContainerOperation")


@program((_PRESENT, _MISSING, _MISMATCH, ("leased", "locked", "fixed"), b"mine", _NOT_THAT_ONE, ("available", None)))
def lease_a_blob(service: BlobServiceClient, scratch: Path) -> Any:
    blob = fresh_container(service, "leases").get_blob_client("lock")
    blob.upload_blob(b"free")
    lease = blob.acquire_lease(lease_duration=15)
    present = outcome(lambda: blob.acquire_lease(15))
    missing = outcome(lambda: blob.upload_blob(b"theirs", overwrite=True))
    mismatch = outcome(lambda: blob.delete_blob(lease=OTHER))
    held = blob.get_blob_properties(lease=lease).lease
    lease.renew()
    lease.change(OTHER)
    blob.upload_blob(b"mine", overwrite=True, lease=lease)
    mine = blob.download_blob(lease=lease).readall()
    other = outcome(lambda: BlobLeaseClient(blob, str(uuid.UUID(int=8))).release())
    lease.release()
    after = blob.get_blob_properties().lease
    return present, missing, mismatch, (held.state, held.status, held.duration), mine, other, (after.state, None)


@program((0, "broken", ["breaking", "locked"], True, "leased"))
def break_leases(service: BlobServiceClient, scratch: Path) -> Any:
    container = fresh_container(service, "broken-leases")
    blob = container.get_blob_client("lock")
    blob.upload_blob(b"")
    lease = blob.acquire_lease()
    at_once = lease.break_lease()
    broken = blob.get_blob_properties().lease.state
    again = blob.acquire_lease()
    left_s = again.break_lease(lease_break_period=60)
    (listed,) = container.list_blobs()
    again.break_lease(lease_break_period=0)
    blob.acquire_lease(60)
    (after,) = container.list_blobs()
    return at_once, broken, [listed.lease.state, listed.lease.status], 58 <= left_s <= 60, after.lease.state


@program((_MISSING, _CONTAINERS, ("leased", "infinite"), True))
def lease_a_container(service: BlobServiceClient, scratch: Path) -> Any:
    container = fresh_container(service, "leased-container")
    lease = container.acquire_lease()
    missing = outcome(container.delete_container)
    mismatch = outcome(lambda: container.get_container_properties(lease=OTHER))
    (listed,) = service.list_containers(name_starts_with="leased-container")
    container.delete_container(lease=lease)
    return missing, mismatch, (listed.lease.state, listed.lease.duration), not container.exists()


@programs_aio.program((_PRESENT, _MISSING, b"mine", "available"))
async def lease_a_blob_aio(service: AsyncBlobServiceClient, scratch: Path) -> Any:
    container = await programs_aio.fresh_container(service, "aio-leases")
    blob = container.get_blob_client("lock")
    await blob.upload_blob(b"free")
    lease = await blob.acquire_lease(lease_duration=15)
    present = await programs_aio.outcome(blob.acquire_lease(15))
    missing = await programs_aio.outcome(blob.upload_blob(b"theirs", overwrite=True))
    await lease.renew()
    await lease.change(OTHER)
    await blob.upload_blob(b"mine", overwrite=True, lease=lease)
    mine = await programs_aio.contents(container, "lock", lease=lease)
    await lease.break_lease(0)
    await lease.release()
    return present, missing, mine, (await blob.get_blob_properties()).lease.state
