"""The blob a request copies from: found, judged, and read as a body while it is pinned.

Sources in other accounts are refused: who may read them is not this service's to judge.
Source: Azure REST, "Copy Blob", "Put Block From URL", the headers x-ms-copy-source and x-ms-source-if-….
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from pvblob import _native
from pvblob.blobs import leases
from pvblob.blobs.answers import Call, Refusal
from pvblob.blobs.catalog import Current
from pvblob.blobs.conditions import Conditions
from pvblob.blobs.segment_work import read_content, read_run, to_the_end
from pvblob.blobs.store import Found, Store
from pvblob.blobs.tags import TAGS, tags_of
from pvblob.blobs.target import InvalidTarget, parse_target, split_url
from pvblob.blobs.versions import BlobVersion
from pvblob.http import BytesBody, Fields, FileContent, Stored

COPY_SOURCE = "x-ms-copy-source"
_STEP_BYTES = 4 << 20


def source_version(store: Store, call: Call, source_url: str) -> BlobVersion:
    """Return the version of the source blob: see `found_source`."""
    return found_source(store, call, source_url).version


def copied_tags(fields: Fields, source: Current) -> str:
    """Return the tags of the blob to be made: the request's own, or those of the source if it says so."""
    option = (fields.get("x-ms-copy-source-tag-option") or "replace").lower()
    if option not in ("replace", "copy") or (option == "copy" and fields.get(TAGS)):
        raise Refusal("InvalidHeaderValue", "x-ms-copy-source-tag-option is REPLACE, or COPY without x-ms-tags.")
    return source.tags if option == "copy" else tags_of(fields)


def found_source(store: Store, call: Call, source_url: str) -> Found:
    """Find the source blob, in the same account, and judge the conditions on it. Refuses; pins nothing yet."""
    try:
        _, authority, raw_target = split_url(source_url)
        target = parse_target(authority, raw_target)
    except InvalidTarget as error:
        raise Refusal("InvalidHeaderValue", f"x-ms-copy-source: {error}") from None
    if target.query.get("versionid"):
        raise Refusal("NotImplemented", "Copying versions is not supported.")
    if target.account != call.target.account:
        raise Refusal("NotImplemented", "Copying from another account is not supported.")
    if target.blob is None:
        raise Refusal("InvalidHeaderValue", "x-ms-copy-source names no blob.")
    try:
        found = store.find_blob(Call(call.request, target, BytesBody()))
    except Refusal:
        raise Refusal("CannotVerifyCopySource") from None
    row, current = found.version.row, found.current
    conditions = Conditions.parse(call.fields, source=True)
    if conditions is not None:
        conditions.check_write(row.version, row.modified, current.tags, code="SourceConditionNotMet")
    leases.check_read(current.lease, call.fields, store.now_ms, name=leases.SOURCE_LEASE_ID)
    return found


@dataclass(slots=True)
class SourceBody:
    """Pinned content as a request's body. The caller owns the pins and releases them when the body was used."""

    content: FileContent

    @property
    def size_bytes(self) -> int:
        """The content's length."""
        return self.content.size_bytes

    @property
    def lent(self) -> None:
        """Nothing: the bytes lie in files."""
        return None

    async def read(self) -> bytes:
        """Return the content as private bytes."""
        return await to_the_end(lambda: read_content(self.content))

    async def store(self, fd: int, offset: int, *, md5: bool) -> Stored:
        """Write the content to *fd* at byte *offset*, in a thread that has ended when this returns or raises."""
        digest, stop = _native.Digest(md5), threading.Event()
        await to_the_end(lambda: _copy_checked(self.content, digest, fd, offset, stop), stop)
        return Stored(digest.crc64, digest.md5())


def _copy_checked(content: FileContent, digest: _native.Digest, fd: int, offset: int, stop: threading.Event) -> None:
    for extent in content.extents:
        done = 0
        while done < extent.length and not stop.is_set():
            piece = read_run(extent.fd, min(_STEP_BYTES, extent.length - done), extent.offset + done)
            digest.write(piece, fd, offset)
            offset += len(piece)
            done += len(piece)
