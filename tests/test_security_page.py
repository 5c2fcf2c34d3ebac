"""docs/security.md names every rule and, for each, tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
RULES = [f"H{number}" for number in range(1, 25)] + [f"R{number}" for number in range(1, 13)]
ROWS = {row[1]: row[2] for row in re.finditer(r"^\| ([HR]\d+) \|[^|]*\|(.*)\|$", PAGE, re.MULTILINE)}


def declared_in(pattern: str, declaration: str) -> set[str]:
    found: set[str] = set()
    for folder in ("tests", "crates", "fuzz"):
        for path in (ROOT / folder).rglob(pattern):
            if "target" not in path.parts:
                found.update(re.findall(declaration, path.read_text("utf-8"), re.MULTILINE))
    return found


TESTS = declared_in("*.py", r"def (test_\w+)\(") | declared_in("*.rs", r"#\[test\]\s*fn (\w+)\(")


def test_every_rule_is_on_the_page_and_nothing_else() -> None:
    assert list(ROWS) == RULES


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_names_its_test_or_says_why_it_cannot_arise(rule: str) -> None:
    row = ROWS[rule]
    assert "cannot arise: " in row or re.search(r"`\w+`", row), "neither a test nor a reason"


def test_every_test_the_page_names_exists() -> None:
    named = set(re.findall(r"`((?:test|rule|[hr]\d+)_\w+)`", PAGE))
    assert len(named) > 60
    assert not named - TESTS


def test_every_file_the_page_names_exists() -> None:
    named = set(re.findall(r"`((?:tests|fuzz|docs)/[\w/.]+)`", PAGE))
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]
