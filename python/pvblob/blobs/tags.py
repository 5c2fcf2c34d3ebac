"""Blob index tags: read from a header or an XML body, held to their limits, kept as JSON, formatted.

At most 10 of a blob; keys of 1 to 128 characters, values of up to 256: letters, digits, space and `+ - . / : = _`.
Source: Azure REST, "Set Blob Tags", "Put Blob" (x-ms-tags), "Setting blob index tags".
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus
from xml.sax.saxutils import escape

from pvblob.blobs.answers import Refusal
from pvblob.blobs.catalog import dump_json
from pvblob.blobs.xml_body import read_xml
from pvblob.http import Fields

TAGS = "x-ms-tags"
TAGS_MAX = 10
KEY_CHARS_MAX = 128
VALUE_CHARS_MAX = 256
TAGS_BYTES_MAX = 64 << 10
_TEXT = re.compile(r"[A-Za-z0-9 +\-./:=_]*\Z")

Tag = tuple[str, str]


def checked(pairs: list[Tag]) -> str:
    """Return tags as the catalog keeps them, ordered by key. Refuses what is no set of tags."""
    tags = dict(pairs)
    if len(tags) != len(pairs):
        raise Refusal("InvalidTags", "A key is given twice.")
    if len(tags) > TAGS_MAX:
        raise Refusal("InvalidTags", f"A blob has at most {TAGS_MAX}.")
    for key, value in pairs:
        if not 1 <= len(key) <= KEY_CHARS_MAX or len(value) > VALUE_CHARS_MAX:
            raise Refusal("InvalidTags", f"Keys have 1 to {KEY_CHARS_MAX} characters, values up to {VALUE_CHARS_MAX}.")
        if not (_TEXT.match(key) and _TEXT.match(value)):
            raise Refusal("InvalidTags", "Letters, digits, space and + - . / : = _ are permitted.")
    return dump_json(dict(sorted(tags.items())))


def tags_of(fields: Fields) -> str:
    """Return the tags a write gives the blob: `key=value` joined by `&`, percent-encoded."""
    text = fields.get(TAGS)
    if not text:
        return ""
    parts = [part.partition("=") for part in text.split("&")]
    return checked([(unquote_plus(key), unquote_plus(value)) for key, _, value in parts])


def parse_tags(body: bytes) -> str:
    """Parse the body of Set Blob Tags. Refuses."""
    reader = _Reader()
    read_xml(body, reader)
    return checked(reader.tags)


class _Reader:
    """Collects tags from expat's events: Tags, in it TagSet, in that Tag with Key and Value."""

    _EXPECTED = ({"Tags"}, {"TagSet"}, {"Tag"}, {"Key", "Value"})

    def __init__(self) -> None:
        self.tags: list[Tag] = []
        self._depth = 0
        self._texts: dict[str, str] = {}
        self._text = ""

    def start(self, name: str, _attributes: dict[str, str]) -> None:
        if self._depth >= len(self._EXPECTED) or name not in self._EXPECTED[self._depth]:
            raise Refusal("InvalidXmlDocument", f"The element {name[:32]!r} is not expected here.")
        self._depth += 1
        self._text = ""

    def text(self, text: str) -> None:
        self._text += text

    def end(self, name: str) -> None:
        self._depth -= 1
        if name in ("Key", "Value"):
            self._texts[name] = self._text
        elif name == "Tag":
            if self._texts.keys() != {"Key", "Value"}:
                raise Refusal("InvalidXmlDocument", "A Tag has a Key and a Value.")
            self.tags.append((self._texts["Key"], self._texts["Value"]))
            self._texts = {}


def tags_xml(tags: dict[str, str]) -> str:
    """Format tags, as answers and listings have them."""
    parts = [f"<Tag><Key>{escape(key)}</Key><Value>{escape(value)}</Value></Tag>" for key, value in tags.items()]
    return f"<Tags><TagSet>{''.join(parts)}</TagSet></Tags>"
