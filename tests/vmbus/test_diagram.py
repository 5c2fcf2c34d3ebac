"""The page's state diagrams are made from the table, and current."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvblob.vmbus import diagram
from pvblob.vmbus.transitions import DECIDES, TRANSITIONS, Either

PAGE = Path(__file__).parents[2] / "docs" / "wire-protocol.md"


def test_the_page_shows_the_current_table() -> None:
    """If this fails: python -m pvblob.vmbus.diagram docs/wire-protocol.md."""
    page = PAGE.read_text(encoding="utf-8")
    assert diagram.replace(page) == page


def test_every_entry_of_the_table_is_in_the_listing() -> None:
    rendered = diagram.render()
    for state, message in TRANSITIONS:
        rows = [line for line in rendered.splitlines() if line.startswith(f"| {state.name} | {state.value} |")]
        assert any(message.NAME in row for row in rows)


def test_both_outcomes_of_a_message_have_a_name() -> None:
    assert {message for (_, message), entry in TRANSITIONS.items() if isinstance(entry, Either)} == set(DECIDES)


def test_a_page_is_rewritten_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{diagram.BEGIN}\nof yesterday\n{diagram.END}\nafter\n", encoding="utf-8")
    assert diagram.main([str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "of yesterday" not in text
    assert "stateDiagram-v2" in text


def test_without_a_page_the_diagrams_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert diagram.main([]) == 0
    assert capsys.readouterr().out == diagram.render() + "\n"


@pytest.mark.parametrize("page", ["", diagram.BEGIN, diagram.END + diagram.BEGIN])
def test_a_page_without_markers_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        diagram.replace(page)
