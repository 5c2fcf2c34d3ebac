"""A plot of a scenario as SVG: a panel for each stage, a bar for each path with its least and most.

Written here, in a hundred lines, because what is needed is bars: matplotlib would be a hundred times the size of
pvblob, and libraries that write SVG themselves add scripts and random ids that repositories do not show or diff badly
(docs/decisions/0006-plots.md). The same rows give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pvblob.cli.scenarios.rows import Row
from pvblob.cli.scenarios.tables import StageRows, absent_text, path_text, stages

WIDTH = 860
LABELS = 210
FIGURES = 150
BAR, GAP, HEAD, FOOT = 14, 5, 28, 12
_COLORS = (("channel", "#1a7f64"), ("limit", "#8c959f"), ("file", "#8c959f"), ("sdk-floor", "#8c959f"))
_PEER = "#b35900"
_UNITS = {"gib_per_s": "GiB/s", "requests_per_s": "requests/s", "p50_us": "µs, median; shorter is better"}


def plot(title: str, rows: Sequence[Row]) -> str:
    """Return the SVG of one scenario."""
    parts: list[str] = []
    top = HEAD
    for stage in stages(rows):
        parts += _panel(stage, top)
        top += HEAD + len(stage.rows) * (BAR + GAP) + FOOT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}" '
            'font-family="sans-serif" font-size="11" fill="#1f2328">',
            f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>',
            _text(8, 18, title, 'font-size="14" font-weight="bold"'),
            *parts,
            "</svg>\n",
        ]
    )


def _panel(stage: StageRows, top: int) -> list[str]:
    most = max((row.max for row in stage.rows if row.max is not None), default=0.0)
    parts = [_text(8, top + 18, f"{stage.title} ({_UNITS[stage.measure]})", 'font-weight="bold"')]
    for number, row in enumerate(stage.rows):
        parts += _bar(row, top + HEAD + number * (BAR + GAP), most)
    return parts


def _bar(row: Row, top: int, most: float) -> list[str]:
    middle = top + BAR - 3
    name = path_text(row) if row.connected is None else f"{path_text(row)}, {row.connected} connected"
    parts = [_text(LABELS - 6, middle, name, 'text-anchor="end"')]
    value = row.value(row.measure)
    if value is None or row.min is None or row.max is None or not most:
        return [
            *parts,
            _text(LABELS, middle, absent_text(row), 'fill="#6e7781"'),
        ]
    scale = (WIDTH - LABELS - FIGURES) / most
    low, high, center = LABELS + row.min * scale, LABELS + row.max * scale, top + BAR / 2
    digits = 0 if row.measure == "requests_per_s" else 2 if row.measure == "gib_per_s" else 1
    return [
        *parts,
        f'<rect x="{LABELS}" y="{top}" width="{value * scale:.1f}" height="{BAR}" fill="{_color(row.path)}"/>',
        f'<path d="M{low:.1f} {center}H{high:.1f}M{low:.1f} {top + 3}v{BAR - 6}M{high:.1f} {top + 3}v{BAR - 6}" '
        'stroke="#1f2328" fill="none"/>',
        _text(round(high) + 6, middle, f"{value:,.{digits}f}", ""),
    ]


def _color(path: str) -> str:
    return next((color for prefix, color in _COLORS if path.startswith(prefix)), _PEER)


def _text(x: int, y: int, text: str, attributes: str) -> str:
    return f'<text x="{x}" y="{y}"{" " if attributes else ""}{attributes}>{escape(text)}</text>'
