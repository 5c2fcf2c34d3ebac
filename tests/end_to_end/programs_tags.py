"""Programs that tag blobs and find them by their tags; see `programs` for the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from azure.storage.blob import BlobServiceClient
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

from tests.end_to_end import programs_aio
from tests.end_to_end.programs import fresh_container, outcome, program

_NOT_MET = ("ResourceModifiedError", 412, "ConditionNotMet")
_TAGS = {"project": "a b", "stage": "one/two"}


@program((_TAGS, 2, _TAGS, _NOT_MET, b"1", ["1", "3"], [("1", {"stage": "one/two"})], {}))
def tag_blobs(service: BlobServiceClient, scratch: Path) -> Any:
    container = fresh_container(service, "tags")
    blobs = [container.get_blob_client(str(number)) for number in range(4)]
    for number, blob in enumerate(blobs):
        blob.upload_blob(str(number).encode(), tags={"parity": str(number % 2), "only": "tags"})
    blobs[1].set_blob_tags(_TAGS)
    kept, count = blobs[1].get_blob_tags(), blobs[1].get_blob_properties().tag_count
    listed = next(blob.tags for blob in container.list_blobs(include=["tags"]) if blob.name == "1")
    refused = outcome(lambda: blobs[1].delete_blob(if_tags_match_condition="\"project\"='b'"))
    read = blobs[1].download_blob(if_tags_match_condition="\"project\"='a b'").readall()
    blobs[1].set_blob_tags({"parity": "1", **_TAGS})
    found = [one.name for one in container.find_blobs_by_tags("\"parity\"='1'", results_per_page=1)]
    everywhere = service.find_blobs_by_tags("@container='tags' AND \"stage\">='one'")
    told = [(one.name, one.tags) for one in everywhere]
    blobs[1].set_blob_tags()
    return kept, count, listed, refused, read, found, told, blobs[1].get_blob_tags()


@programs_aio.program((_TAGS, _NOT_MET, ["b"]))
async def tag_blobs_aio(service: AsyncBlobServiceClient, scratch: Path) -> Any:
    container = await programs_aio.fresh_container(service, "aio-tags")
    blob = container.get_blob_client("b")
    await blob.upload_blob(b"b", tags={"stage": "none"})
    await blob.set_blob_tags(_TAGS)
    refused = await programs_aio.outcome(blob.delete_blob(if_tags_match_condition="\"project\"='b'"))
    found = [one.name async for one in container.find_blobs_by_tags("\"project\"='a b'")]
    return await blob.get_blob_tags(), refused, found
