"""XML bodies of requests: expat's events for a reader that knows which elements it expects.

Document types are refused, so no entity expands.
"""

from __future__ import annotations

from typing import Protocol
from xml.parsers import expat

from pvblob.blobs.answers import Refusal


class Reader(Protocol):
    """What follows a document's events, in order; each method may refuse, which ends the reading."""

    def start(self, name: str, _attributes: dict[str, str]) -> None:
        """An element begins."""

    def text(self, text: str) -> None:
        """Characters, perhaps not all of the element's."""

    def end(self, name: str) -> None:
        """The element that began last ends."""


def read_xml(body: bytes, reader: Reader) -> None:
    """Read a whole document, whose bytes the caller has bounded, to *reader*. Refuses with InvalidXmlDocument."""
    parser = expat.ParserCreate(namespace_separator=None)
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise Refusal("InvalidXmlDocument", f"{error}.") from None


def _refuse_doctype(*_declaration: object) -> None:
    raise Refusal("InvalidXmlDocument", "A document type is not allowed.")
