"""The transition table as Mermaid diagrams and as a list, for docs/wire-protocol.md.

`python -m pvblob.vmbus.diagram docs/wire-protocol.md` rewrites what stands between the two markers there; a test holds
the page to `render()`. The table in `transitions` is the only source; nothing is added here.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from pvblob.vmbus.messages import Message
from pvblob.vmbus.roles import GUEST
from pvblob.vmbus.transitions import CROSSED, DECIDES, MACHINES, TRANSITIONS, Either, State

BEGIN = "<!-- transition table: begin (made by python -m pvblob.vmbus.diagram) -->"
END = "<!-- transition table: end -->"
_TITLES = {
    "ConnectionState": "Connection",
    "ChannelState": "Channel, one per relid",
    "InterruptState": "Interrupt of a channel",
    "GpadlState": "GPADL, one per id",
    "RegionState": "Memory region, one per guest address",
}
# REFUSED may come in every state: as arrows it would hide the others, so it stands in the list only.
_LISTED_ONLY = frozenset({"REFUSED"})
Arrow = tuple[State, State, str]


def _label(message: type[Message], outcome: str = "") -> str:
    direction = "guest" if message.SENDER is GUEST else "host"
    return f"{direction} {message.NAME}" + (f" ({outcome})" if outcome else "")


def _arrows(machine: type[State]) -> list[Arrow]:
    """Return every move of one machine, from, to and label; entries that are crossings move nothing."""
    found: list[Arrow] = []
    for (state, message), entry in TRANSITIONS.items():
        if not isinstance(state, machine) or entry is CROSSED:
            continue
        if isinstance(entry, Either):
            outcomes = zip((entry.yes, entry.no), DECIDES[message], strict=True)
            found.extend((state, after, _label(message, word)) for after, word in outcomes if after is not None)
        elif isinstance(entry, State):
            found.append((state, entry, _label(message)))
    return found


def _diagram(machine: type[State]) -> list[str]:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {next(iter(machine)).name}"]
    for before, after, label in _arrows(machine):
        if before is not after and after.name not in _LISTED_ONLY:
            lines.append(f"    {before.name} --> {after.name}: {label}")
    return [*lines, "```"]


def _listing(machine: type[State]) -> list[str]:
    moves: dict[State, dict[str, list[str]]] = {state: defaultdict(list) for state in machine}
    for before, after, label in _arrows(machine):
        moves[before]["stays" if before is after else f"→ {after.name}"].append(label)
    for (state, message), entry in TRANSITIONS.items():
        if isinstance(state, machine) and entry is CROSSED:
            moves[state]["taken quietly"].append(_label(message))
    lines = ["| state | meaning | legal messages |", "|---|---|---|"]
    for state, grouped in moves.items():
        cells = [f"{what}: {', '.join(labels)}" for what, labels in grouped.items()]
        lines.append(f"| {state.name} | {state.value} | {'<br>'.join(cells) or 'none'} |")
    return lines


def render() -> str:
    """Return the Markdown between the markers, the markers included."""
    lines = [BEGIN]
    for machine in MACHINES:
        lines += ["", f"### {_TITLES[machine.__name__]}", "", *_diagram(machine), "", *_listing(machine)]
    return "\n".join([*lines, "", END])


def replace(page: str) -> str:
    """Return *page* with what stands between the markers made anew. Raises ValueError if they are not there once."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or END in after:
        raise ValueError(f"the page must contain {BEGIN!r} and then {END!r}, once each")
    return before + render() + after


def main(arguments: list[str]) -> int:
    """Rewrite the page named by the one argument, or print to standard output without one."""
    if not arguments:
        sys.stdout.write(render() + "\n")
        return 0
    page = Path(arguments[0])
    page.write_text(replace(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
