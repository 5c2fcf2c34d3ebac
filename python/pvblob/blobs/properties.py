"""What a request says about a blob besides its bytes: content settings, metadata, tier; and how they are answered.

Parsing raises Refusal. Metadata names keep the case they were set with, and are compared without it, as in Azure; how
the case travels past fields whose names are lower case is `http.METADATA_NAMES`.
Source: Azure REST, "Put Blob", "Set Blob Properties", "Setting and retrieving properties and metadata".
"""

from __future__ import annotations

import base64
import binascii
import re

from pvblob.blobs.answers import Refusal
from pvblob.http import METADATA, Fields, metadata_spelling, spelled_metadata

METADATA_BYTES_MAX = 8192
TIERS = ("Hot", "Cool", "Cold")
DEFAULT_CONTENT_TYPE = "application/octet-stream"

_SETTINGS = ("cache-control", "content-type", "content-encoding", "content-language", "content-disposition")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def metadata_of(fields: Fields) -> dict[str, str]:
    """Collect `x-ms-meta-*`, names as they were spelled. Values of a name that repeats are joined with commas."""
    metadata: dict[str, str] = {}
    spelling = spelled_metadata(fields)
    for name, value in fields.pairs():
        if name.startswith(METADATA):
            key = spelling.get(name, name)[len(METADATA) :]
            metadata[key] = f"{metadata[key]},{value}" if key in metadata else value
    for key in metadata:
        if not key.strip():
            raise Refusal("EmptyMetadataKey")
        if _IDENTIFIER.match(key) is None:
            raise Refusal("InvalidMetadata", f"{key[:64]!r} is not a C# identifier.")
        if _CONTROL.search(metadata[key]):
            raise Refusal("InvalidMetadata", f"The value of {key[:64]!r} has control characters.")
    if sum(len(key) + len(value) for key, value in metadata.items()) > METADATA_BYTES_MAX:
        raise Refusal("MetadataTooLarge")
    return metadata


def metadata_pairs(metadata: dict[str, str]) -> list[tuple[str, str]]:
    """Return metadata as response fields, and the one that keeps the case of their names."""
    pairs = [(METADATA + key.lower(), value) for key, value in metadata.items()]
    return pairs + metadata_spelling(metadata)


def settings_of(fields: Fields, *, standard: bool) -> dict[str, str]:
    """Collect the content settings: `x-ms-blob-…` first, then (standard=True, as Put Blob does) the plain header.

    `content-md5` is taken from `x-ms-blob-content-md5` only, and checked to be one.
    """
    settings: dict[str, str] = {}
    for name in _SETTINGS:
        value = fields.get(f"x-ms-blob-{name}")
        if value is None and standard:
            value = fields.get(name)
        if value:
            if _CONTROL.search(value):
                raise Refusal("InvalidHeaderValue", f"{name} has control characters.")
            settings[name] = value
    md5 = fields.get("x-ms-blob-content-md5")
    if md5:
        decode_md5(md5)
        settings["content-md5"] = md5
    return settings


def has_settings(fields: Fields) -> bool:
    """Say whether Set Blob Properties was given any of the settings, which then replaces them all."""
    return "x-ms-blob-content-md5" in fields or any(f"x-ms-blob-{name}" in fields for name in _SETTINGS)


def decode_md5(text: str) -> bytes:
    """Decode a Base64 MD5."""
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("InvalidMd5") from None
    if len(digest) != 16:
        raise Refusal("InvalidMd5")
    return digest


def encode_base64(value: bytes) -> str:
    """Encode bytes for a header field."""
    return base64.b64encode(value).decode("ascii")


def encode_crc64(crc64: int) -> str:
    """Encode a CRC-64/NVME as Azure's headers do: Base64 of eight little-endian bytes."""
    return encode_base64(crc64.to_bytes(8, "little"))


def tier_of(fields: Fields) -> str:
    """Return the access tier asked for, or "" when none was."""
    tier = fields.get("x-ms-access-tier")
    if not tier:
        return ""
    for known in TIERS:
        if tier.lower() == known.lower():
            return known
    if tier.lower() == "archive":
        raise Refusal("NotImplemented", "The Archive tier is not supported.")
    raise Refusal("InvalidHeaderValue", f"{tier[:32]!r} is not an access tier of block blobs.")


def refuse_unsupported(fields: Fields) -> None:
    """Refuse what must not be ignored in silence when a blob is written."""
    for name in ("x-ms-encryption-key", "x-ms-encryption-scope"):
        if fields.get(name):
            raise Refusal("NotImplemented", f"The header {name} is not supported.")
    for name in ("x-ms-immutability-policy-until-date", "x-ms-legal-hold", "x-ms-expiry-option", "x-ms-expiry-time"):
        if fields.get(name, "false") not in ("false", ""):
            raise Refusal("NotImplemented", f"The header {name} is not supported.")
