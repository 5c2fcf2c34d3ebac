"""What fsspec is told of a blob, a directory, a container: dictionaries with name, size in bytes, type, and more.

Directories are the common beginnings of names; a blob that another tool left as the mark of one is shown as one.
Source: fsspec's specification of `AbstractFileSystem.ls` and `info`; the marks are those of the hadoop-azure drivers.
"""

from __future__ import annotations

from typing import Any

from pvblob.client.properties import BlobPrefix, BlobProperties, ContainerProperties

Entry = dict[str, Any]


def is_mark(blob: BlobProperties) -> bool:
    """Say whether the blob is another tool's mark of a directory."""
    folder = blob.metadata.get("hdi_isfolder") or blob.metadata.get("Hdi_isfolder") or ""
    return blob.size_bytes == 0 and (blob.name.endswith("/") or folder.lower() == "true")


def directory_entry(name: str) -> Entry:
    """Return what stands for a directory."""
    return {"name": name, "size": 0, "type": "directory"}


def container_entry(container: ContainerProperties) -> Entry:
    """Return what stands for a container."""
    return {**directory_entry(container.name), "etag": container.etag, "last_modified": container.last_modified}


def blob_entry(container: str, blob: BlobProperties | BlobPrefix) -> Entry:
    """Return what `ls` and `info` say of one entry of a listing."""
    name = f"{container}/{blob.name.rstrip('/')}"
    if isinstance(blob, BlobPrefix) or is_mark(blob):
        return directory_entry(name)
    return {
        "name": f"{container}/{blob.name}",
        "size": blob.size_bytes,
        "type": "file",
        "etag": blob.etag,
        "last_modified": blob.last_modified,
        "created": blob.created,
        "content_type": blob.content_type,
        "metadata": dict(blob.metadata),
    }
