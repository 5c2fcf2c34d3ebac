"""Programs that take snapshots; see `programs` for the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from azure.storage.blob import BlobServiceClient
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

from tests.end_to_end import programs_aio
from tests.end_to_end.programs import fresh_container, outcome, program

_PRESENT = ("ResourceExistsError", 409, "SnapshotsPresent")
_GONE = ("ResourceNotFoundError", 404, "BlobNotFound")


@program((b"old", {"own": "1"}, [("b", False), ("b", True), ("b", True)], _PRESENT, b"old", _GONE, ["b"], []))
def take_snapshots(service: BlobServiceClient, scratch: Path) -> Any:
    container = fresh_container(service, "snapshots")
    blob = container.get_blob_client("b")
    blob.upload_blob(b"old", metadata={"a": "1"})
    first = container.get_blob_client("b", snapshot=blob.create_snapshot()["snapshot"])
    blob.upload_blob(b"new", overwrite=True)
    second = container.get_blob_client("b", snapshot=blob.create_snapshot(metadata={"own": "1"})["snapshot"])
    old, own = first.download_blob().readall(), dict(second.get_blob_properties().metadata)
    listed = sorted((one.name, one.snapshot is not None) for one in container.list_blobs(include=["snapshots"]))
    present = outcome(blob.delete_blob)
    blob.start_copy_from_url(first.url)
    restored = blob.download_blob().readall()
    first.delete_blob()
    gone = outcome(first.download_blob)
    blob.delete_blob(delete_snapshots="only")
    left = [one.name for one in container.list_blobs(include=["snapshots"])]
    blob.create_snapshot()
    blob.delete_blob(delete_snapshots="include")
    return old, own, listed, present, restored, gone, left, list(container.list_blobs(include=["snapshots"]))


@programs_aio.program((b"old", _PRESENT, []))
async def take_snapshots_aio(service: AsyncBlobServiceClient, scratch: Path) -> Any:
    container = await programs_aio.fresh_container(service, "aio-snapshots")
    blob = container.get_blob_client("b")
    await blob.upload_blob(b"old")
    first = container.get_blob_client("b", snapshot=(await blob.create_snapshot())["snapshot"])
    await blob.upload_blob(b"new", overwrite=True)
    old = await (await first.download_blob()).readall()
    present = await programs_aio.outcome(blob.delete_blob())
    await blob.delete_blob(delete_snapshots="include")
    return old, present, [one.name async for one in container.list_blobs(include=["snapshots"])]
