"""A run as one JSON document: machine, versions, rows, verdicts. Its shape is `result.schema.json`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from pvblob.cli.scenarios.goals import Verdict, judge
from pvblob.cli.scenarios.rows import Row

SCHEMA = Path(__file__).with_name("result.schema.json")


class Result(NamedTuple):
    """What a run found. started: date and time; command: what was typed; quick: whether it was a short run."""

    started: str
    command: str
    quick: bool
    machine: dict[str, object]
    versions: dict[str, str]
    rows: list[Row]

    @property
    def verdicts(self) -> list[Verdict]:
        """The goals of what was measured."""
        return judge(self.rows)

    def as_json(self) -> dict[str, Any]:
        """Return the document."""
        return self._asdict() | {
            "rows": [asdict(row) for row in self.rows],
            "goals": [verdict.as_json() for verdict in self.verdicts],
        }

    def write(self, path: Path) -> None:
        """Write the document."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n", "utf-8")
