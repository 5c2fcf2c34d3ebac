"""Tags: names and values by which blobs are found across an account.

Source: Azure REST, "Get Blob Tags", "Set Blob Tags", "Find Blobs by Tags".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pvblob.client import answers
from pvblob.client.answers import Page
from pvblob.client.operations import Call, Operations, container_target, query_text
from pvblob.client.properties import FoundBlob

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from pvblob.client.exchange import Answer


def get_tags(operations: Operations, container: str, blob: str) -> Call[dict[str, str]]:
    """Get Blob Tags."""
    request = operations.request("GET", operations.blob(container, blob, "comp=tags"), [])
    return Call(request, lambda answer: _tags(answers.xml(answer, request)))


def set_tags(operations: Operations, container: str, blob: str, tags: Mapping[str, str]) -> Call[None]:
    """Set Blob Tags: replaces all of them."""
    from xml.sax.saxutils import escape  # imported here: it brings half of urllib

    listed = "".join(
        f"<Tag><Key>{escape(name)}</Key><Value>{escape(value)}</Value></Tag>" for name, value in tags.items()
    )
    body = f'<?xml version="1.0" encoding="utf-8"?><Tags><TagSet>{listed}</TagSet></Tags>'.encode()
    target = operations.blob(container, blob, "comp=tags")
    request = operations.request("PUT", target, [("content-type", "application/xml; charset=UTF-8")])
    return Call(request, lambda answer: answers.check(answer, request), body)


def find(operations: Operations, container: str | None, where: str, marker: str) -> Call[Page[FoundBlob]]:
    """Find Blobs by Tags in Container or (container None) in the account, one page."""
    place, restype = ("/", None) if container is None else (container_target(container), "container")
    target = place + query_text(restype=restype, comp="blobs", where=where, marker=marker)
    request = operations.request("GET", target, [])

    def interpret(answer: Answer) -> Page[FoundBlob]:
        root = answers.xml(answer, request)
        entries = [
            FoundBlob(element.findtext("ContainerName") or "", element.findtext("Name") or "", _tags(element))
            for element in root.iterfind("Blobs/Blob")
        ]
        return Page(entries, root.findtext("NextMarker") or "")

    return Call(request, interpret)


def _tags(parent: Element) -> dict[str, str]:
    return {tag.findtext("Key") or "": tag.findtext("Value") or "" for tag in parent.iter("Tag")}
