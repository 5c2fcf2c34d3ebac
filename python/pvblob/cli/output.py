"""What commands print: JSON lines and plain text to standard output, progress to standard error if it is a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress
    from rich.table import Table

    from pvblob import BlobPrefix, BlobProperties, ContainerProperties, Written

_COLUMNS_MAX = 1000
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def json_line(value: object) -> None:
    """Print *value* as one line of JSON."""
    sys.stdout.write(json.dumps(value, default=_plain, ensure_ascii=False) + "\n")


def text_line(text: str) -> None:
    """Print one line of text."""
    sys.stdout.write(text + "\n")


def size_text(size_bytes: float) -> str:
    """Return a size for people, e.g. `64.0 MiB`."""
    for unit in UNITS[:-1]:
        if size_bytes < 1024:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} {UNITS[-1]}"


def record(value: BlobProperties | BlobPrefix | ContainerProperties | Written) -> dict[str, Any]:
    """Return a client's value as a JSON object: times in ISO 8601, MD5 in hexadecimal, nothing that is unknown."""
    return {name: entry for name, entry in asdict(value).items() if entry not in (None, {})}


def table(title: str, columns: Mapping[str, str], texts: Collection[str]) -> Table:
    """Return an empty table with these columns: name → heading. Those of *texts* are set left, the others right."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for name, heading in columns.items():
        made.add_column(heading, justify="left" if name in texts else "right", no_wrap=True)
    return made


def show(*parts: RenderableType) -> None:
    """Print tables, and text as it is. Figures cut short tell nothing: the terminal breaks lines that are too long."""
    from rich.console import Console

    console = Console()
    terminal_columns, unlimited = console.width, console.options.update_width(_COLUMNS_MAX)
    for part in parts:
        if isinstance(part, str):
            text_line(part)
        else:
            console.width = max(terminal_columns, console.measure(part, options=unlimited).maximum)
            console.print(part)


def progress_bar() -> Progress:
    """Return a progress display for transfers: on standard error, hidden unless that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} has no JSON form")
