"""Every program: importing their modules registers them."""

from __future__ import annotations

from tests.end_to_end import (
    programs_appends,
    programs_checksums,
    programs_copies,
    programs_leases,
    programs_snapshots,
    programs_tags,
)
from tests.end_to_end.programs import PROGRAMS
from tests.end_to_end.programs_aio import ASYNC_PROGRAMS

__all__ = [
    "ASYNC_PROGRAMS",
    "PROGRAMS",
    "programs_appends",
    "programs_checksums",
    "programs_copies",
    "programs_leases",
    "programs_snapshots",
    "programs_tags",
]
