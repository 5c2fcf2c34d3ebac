"""The body of Put Block List: XML to (kind, block id) entries, sizes bounded."""

from __future__ import annotations

import base64
import binascii

from pvblob.blobs.answers import Refusal
from pvblob.blobs.xml_body import read_xml

Entry = tuple[str, bytes]  # "Committed", "Uncommitted" or "Latest"; the decoded block id

_KINDS = ("Committed", "Uncommitted", "Latest")
BLOCK_ID_BYTES_MAX = 64


class _Reader:
    """Collects entries from expat's events."""

    def __init__(self, count_max: int) -> None:
        self.entries: list[Entry] = []
        self._count_max = count_max
        self._path: list[str] = []
        self._text: list[str] = []

    def start(self, name: str, _attributes: dict[str, str]) -> None:
        expected = ("BlockList",) if not self._path else _KINDS
        if name not in expected or len(self._path) > 1:
            raise Refusal("InvalidXmlDocument", f"The element {name[:32]!r} is not expected here.")
        self._path.append(name)
        self._text.clear()

    def text(self, text: str) -> None:
        self._text.append(text)

    def end(self, name: str) -> None:
        self._path.pop()
        if name == "BlockList":
            return
        if len(self.entries) >= self._count_max:
            raise Refusal("BlockListTooLong")
        self.entries.append((name, decode_block_id("".join(self._text).strip())))


def decode_block_id(text: str) -> bytes:
    """Decode a block id: Base64 of 1 to 64 bytes."""
    try:
        block_id = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("InvalidBlockId") from None
    if not 1 <= len(block_id) <= BLOCK_ID_BYTES_MAX:
        raise Refusal("InvalidBlockId")
    return block_id


def parse_block_list(body: bytes, count_max: int) -> list[Entry]:
    """Parse a block list of at most *count_max* entries. Refuses with InvalidXmlDocument, InvalidBlockId or
    BlockListTooLong."""
    reader = _Reader(count_max)
    read_xml(body, reader)
    return reader.entries
