"""What every listing's query shares: page size and markers."""

from __future__ import annotations

import base64
import binascii

from pvblob.blobs.answers import Refusal

PAGE_MAX = 5000


def page_size(query: dict[str, str]) -> int:
    """Return how many entries a page may have: `maxresults`, at most PAGE_MAX."""
    text = query.get("maxresults")
    if text is None:
        return PAGE_MAX
    if not (text.isascii() and text.isdigit()):
        raise Refusal("InvalidQueryParameterValue", "maxresults is not a number.")
    if int(text) == 0:
        raise Refusal("OutOfRangeQueryParameterValue", "maxresults must be at least 1.")
    return min(int(text), PAGE_MAX)


def encode_marker(name: bytes) -> str:
    """Make the opaque marker of a page that begins at *name*."""
    return base64.urlsafe_b64encode(name).decode("ascii")


def decode_marker(marker: str) -> bytes:
    """Invert `encode_marker`. Refuses what is no marker of ours."""
    try:
        return base64.b64decode(marker, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("InvalidQueryParameterValue", "marker is not one that a listing returned.") from None
