"""Conditional headers: If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, as Azure judges them.

`Conditions.parse` reads them once (None when a request has none: the common case costs five look-ups);
`check_read` and `check_write` compare them with a version and a Last-Modified second, and raise Refusal.
Source: Azure REST, "Specifying conditional headers for Blob service operations".
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from pvblob.blobs.answers import Refusal, etag
from pvblob.blobs.catalog import load_json
from pvblob.blobs.tag_expressions import Expression, parse_condition
from pvblob.http import Fields

_NAMES = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
_SOURCE_NAMES = tuple(f"x-ms-source-{name}" for name in _NAMES)


@dataclass(slots=True, frozen=True)
class Conditions:
    """The parsed conditions: ETags without quotes (`*` stands for any), times in seconds since 1970."""

    match: tuple[str, ...]
    none_match: tuple[str, ...]
    modified_since: int | None
    unmodified_since: int | None
    tags: Expression | None = None

    @classmethod
    def parse(cls, fields: Fields, *, source: bool = False) -> Conditions | None:
        """Read the conditions of a request (source: those on a copy's source); None when there are none."""
        tags = fields.get("x-ms-source-if-tags" if source else "x-ms-if-tags")
        match, none_match, modified, unmodified = (fields.get(name) for name in (_SOURCE_NAMES if source else _NAMES))
        if not (match or none_match or modified or unmodified or tags):
            return None
        expression = parse_condition(tags) if tags else None
        return cls(_etags(match), _etags(none_match), _seconds(modified), _seconds(unmodified), expression)

    def check_read(self, version: int, modified: int, tags: str = "") -> None:
        """Judge a read of an existing resource: 412, or 304 where the client's copy is still good. *tags*: its own.

        If-None-Match and If-Modified-Since together: either one holding is enough.
        """
        if "*" in self.none_match:
            raise Refusal("UnsatisfiableCondition")
        self._check_tags(tags, "ConditionNotMet")
        if self.match and not _matches(self.match, version):
            raise Refusal("ConditionNotMet")
        if self.unmodified_since is not None and modified > self.unmodified_since:
            raise Refusal("ConditionNotMet")
        outcomes = []
        if self.none_match:
            outcomes.append(not _matches(self.none_match, version))
        if self.modified_since is not None:
            outcomes.append(modified > self.modified_since)
        if outcomes and not any(outcomes):
            raise Refusal("ConditionNotMet", status=304, fields=[("etag", etag(version))])

    def check_write(self, version: int | None, modified: int, tags: str = "", *, code: str = "ConditionNotMet") -> None:
        """Judge a write; *version* None: the resource does not exist. *code*: ConditionNotMet or its source twin."""
        self._check_combination()
        self._check_tags(tags, code)
        if version is None:
            if self.match:
                raise Refusal(code)
            return
        if self.none_match:
            holds = not _matches(self.none_match, version)
        elif self.match:
            holds = _matches(self.match, version)
        elif self.modified_since is not None:
            holds = modified > self.modified_since
        else:
            holds = self.unmodified_since is None or modified <= self.unmodified_since
        if not holds:
            raise Refusal(code)

    def _check_tags(self, tags: str, code: str) -> None:
        if self.tags is not None and not self.tags.holds(load_json(tags)):
            raise Refusal(code)

    def check_create(self, version: int | None, modified: int, tags: str = "") -> None:
        """Judge a write that makes a blob (Put Blob, Put Block List, Copy Blob): `If-None-Match: *` on one that exists
        is 409 BlobAlreadyExists, not 412."""
        if version is not None and "*" in self.none_match:
            self._check_combination()
            raise Refusal("BlobAlreadyExists")
        self.check_write(version, modified, tags)

    def _check_combination(self) -> None:
        """Writes take one condition, or If-None-Match with If-Modified-Since, or If-Match with If-Unmodified-Since."""
        first = bool(self.none_match) + (self.modified_since is not None)
        second = bool(self.match) + (self.unmodified_since is not None)
        if (first and second) or len(self.match) > 1 or len(self.none_match) > 1:
            raise Refusal("MultipleConditionHeadersNotSupported")


def _matches(etags: tuple[str, ...], version: int) -> bool:
    return "*" in etags or etag(version).strip('"') in etags


def _etags(text: str | None) -> tuple[str, ...]:
    if not text:
        return ()
    return tuple(part.strip().removeprefix("W/").strip('"') for part in text.split(","))


def _seconds(text: str | None) -> int | None:
    if not text:
        return None
    try:
        return int(parsedate_to_datetime(text).timestamp())
    except (ValueError, TypeError, OverflowError):
        raise Refusal("InvalidHeaderValue", f"{text[:64]!r} is not a date.") from None
