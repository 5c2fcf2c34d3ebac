"""Shows on standard error what a contest is doing: a bar on a terminal, else a line whenever it is something new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pvblob.cli.fleet.venue import Narrate


@contextmanager
def narrator() -> Iterator[Narrate]:
    """Yield what shows (what, done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:70}"), BarColumn(), MofNCompleteColumn())
    # Drawn only when told: a display that refreshes by itself would run inside the timed sections.
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        shown = ""

        def narrate(what: str, done: int, total: int) -> None:
            nonlocal shown
            if what != shown and not console.is_terminal:
                console.print(what, highlight=False)
            shown = what
            bar.update(task, description=what, completed=done, total=total, refresh=True)

        yield narrate
