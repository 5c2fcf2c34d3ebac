"""What a run found, on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pvblob.cli.scenarios.page import by_scenario, machine_text, settings_lines, versions_text
from pvblob.cli.scenarios.results import Result
from pvblob.cli.scenarios.tables import Table, stage_table, stages, verdict_table

if TYPE_CHECKING:
    from rich.console import RenderableType


def rendered(result: Result) -> Iterator[RenderableType]:
    """Yield the tables, the settings, and the goals."""
    for name, rows in by_scenario(result.rows).items():
        for stage in stages(rows):
            yield _table(stage_table(stage), f"{name}: {stage.title}")
        yield "\n".join(line.replace("`", "") for line in settings_lines(rows))
        yield ""
    if result.verdicts:
        yield _table(verdict_table(result.verdicts), "to reach")
    yield f"machine: {machine_text(result)}"
    yield f"versions: {versions_text(result)}"


def _table(table: Table, title: str) -> RenderableType:
    from rich.table import Table as RichTable

    made = RichTable(title=title, title_justify="left")
    for number, heading in enumerate(table.headings):
        made.add_column(heading, justify="right" if number else "left", no_wrap=number == 0)
    for line in table.lines:
        made.add_row(*line)
    return made
