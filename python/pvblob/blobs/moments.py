"""The moments that snapshots are called by: ticks of 100 ns since the year 1 as numbers, `2026-11-28T22:45:01.1234567Z`
as text."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from pvblob.blobs.answers import Refusal

_TEXT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{7})Z\Z", re.ASCII)
_TICKS_PER_S = 10_000_000


def moment_text(ticks: int) -> str:
    """Format a moment."""
    seconds, rest = divmod(ticks, _TICKS_PER_S)
    return f"{(datetime.min + timedelta(seconds=seconds)).isoformat()}.{rest:07d}Z"


def parse_moment(text: str) -> int:
    """Invert `moment_text`. Refuses."""
    match = _TEXT.match(text)
    try:
        if match is not None:
            since = datetime.fromisoformat(match[1]) - datetime.min
            return (since.days * 86_400 + since.seconds) * _TICKS_PER_S + int(match[2])
    except ValueError:
        pass
    raise Refusal("InvalidQueryParameterValue", f"snapshot={text[:40]!r} is no moment.")
