"""Snapshots: what a blob was at a moment, kept by the service. Source: Azure REST, "Snapshot Blob"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from pvblob.client import answers
from pvblob.client.operations import Call, ListOptions, Operations, Pairs, metadata_fields
from pvblob.client.properties import BlobPrefix, BlobProperties

if TYPE_CHECKING:
    from pvblob.client.answers import Page
    from pvblob.client.exchange import Answer


class SnapshotOperations(Operations):
    """Builds calls that name a snapshot of their blob. snapshot: the moment as the service wrote it."""

    __slots__ = ("snapshot",)
    _WITH_SNAPSHOTS: ClassVar[Pairs] = []

    def __init__(self, account: str, snapshot: str) -> None:
        super().__init__(account)
        self.snapshot = snapshot

    def blob(self, container: str, blob: str, query: str = "") -> str:
        """Return the target of the snapshot."""
        moment = f"snapshot={quote(self.snapshot, safe='')}"
        return super().blob(container, blob, f"{query}&{moment}" if query else moment)


def take(operations: Operations, container: str, blob: str, metadata: Mapping[str, str] | None) -> Call[str]:
    """Snapshot Blob; the value is the moment that names the snapshot."""
    request = operations.request("PUT", operations.blob(container, blob, "comp=snapshot"), metadata_fields(metadata))

    def interpret(answer: Answer) -> str:
        answers.check(answer, request)
        return answer.fields.get("x-ms-snapshot") or ""

    return Call(request, interpret)


def page(operations: Operations, container: str, blob: str, marker: str) -> Call[Page[BlobProperties | BlobPrefix]]:
    """List Blobs with their snapshots, one page of the names that begin with this blob's."""
    return operations.list_blobs(container, ListOptions(prefix=blob, include="snapshots,metadata"), marker)


def of_blob(found: Page[BlobProperties | BlobPrefix], blob: str) -> list[BlobProperties]:
    """Return this blob's snapshots on a page."""
    entries = (entry for entry in found.entries if isinstance(entry, BlobProperties))
    return [entry for entry in entries if entry.name == blob and entry.snapshot]


def following(found: Page[BlobProperties | BlobPrefix], blob: str) -> str | None:
    """Return the marker of the next page that may show this blob's snapshots; None when there is none."""
    return found.next_marker if found.next_marker and not any(entry.name > blob for entry in found.entries) else None
