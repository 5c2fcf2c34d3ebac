"""What may be said about tags: `"key" = 'value'`, comparisons joined by AND and OR, in parentheses where wanted.

A condition (x-ms-if-tags) may say all of it; a search (`where`) joins by AND only, knows no `<>`, and may name
`@container`. Values are compared as text, byte by byte; a key that a blob has not got compares as false.
Source: Azure REST, "Find Blobs by Tags" (remarks), "Specifying conditional headers" (x-ms-if-tags).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pvblob.blobs.answers import Refusal

CONTAINER = "@container"
COMPARISONS_MAX = 64

_TOKEN = re.compile(
    r"\s*(?:(?P<mark>[()])|(?P<operator><>|>=|<=|=|>|<)|'(?P<value>[^']*)'|\"(?P<quoted>[^\"]*)\"|(?P<word>@?[\w.\-]+))"
)
_COMPARE: dict[str, Callable[[str, str], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}

Tags = dict[str, str]


class Comparison(NamedTuple):
    """One comparison of a tag with a value. operator: a key of the table above."""

    key: str
    operator: str
    value: str

    def holds(self, tags: Tags) -> bool:
        """Judge the tags of one blob."""
        found = tags.get(self.key)
        return found is not None and _COMPARE[self.operator](found, self.value)


class Joined(NamedTuple):
    """Expressions of which all must hold, or any."""

    parts: tuple[Expression, ...]
    every: bool

    def holds(self, tags: Tags) -> bool:
        """Judge the tags of one blob."""
        return (all if self.every else any)(part.holds(tags) for part in self.parts)


Expression = Comparison | Joined


def parse_condition(text: str) -> Expression:
    """Parse the value of x-ms-if-tags. Refuses."""
    parser = _Parser(text, "InvalidHeaderValue")
    found = parser.any_of()
    parser.expect_end()
    return found


def parse_search(text: str) -> list[Comparison]:
    """Parse the `where` of a search: comparisons that must all hold. Refuses."""
    parser = _Parser(text, "InvalidQueryParameterValue")
    comparisons = [parser.comparison()]
    while parser.word("AND"):
        comparisons.append(parser.comparison())
    parser.expect_end()
    for comparison in comparisons:
        if comparison.operator == "<>" or (comparison.key == CONTAINER and comparison.operator != "="):
            raise parser.broken(f"{comparison.operator} cannot be searched by here")
    if all(comparison.key == CONTAINER for comparison in comparisons):
        raise parser.broken("it names no tag")
    return comparisons


class _Parser:
    """A descent over the tokens of one expression, of bounded length and depth."""

    def __init__(self, text: str, code: str) -> None:
        self._code = code
        self._tokens = list(self._split(text))
        self._at = 0
        if sum(kind == "operator" for kind, _ in self._tokens) > COMPARISONS_MAX:
            raise self.broken(f"it has more than {COMPARISONS_MAX} comparisons")

    def _split(self, text: str) -> Iterator[tuple[str, str]]:
        at, text = 0, text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self.broken(f"{text[at : at + 16]!r} is not understood")
            assert match.lastgroup is not None
            yield match.lastgroup, match[match.lastgroup]
            at = match.end()

    def broken(self, why: str) -> Refusal:
        return Refusal(self._code, f"The expression on tags: {why}.")

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _take(self, *kinds: str) -> str:
        kind, text = self._peek()
        if kind not in kinds:
            raise self.broken(f"{text or 'its end'!r} is not expected there")
        self._at += 1
        return text

    def word(self, word: str) -> bool:
        """Take *word* if it comes next."""
        kind, text = self._peek()
        found = kind == "word" and text.upper() == word
        self._at += found
        return found

    def expect_end(self) -> None:
        self._take("end") if self._at < len(self._tokens) else None

    def any_of(self, depth: int = 0) -> Expression:
        parts = [self._all_of(depth)]
        while self.word("OR"):
            parts.append(self._all_of(depth))
        return parts[0] if len(parts) == 1 else Joined(tuple(parts), every=False)

    def _all_of(self, depth: int) -> Expression:
        parts = [self._one(depth)]
        while self.word("AND"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else Joined(tuple(parts), every=True)

    def _one(self, depth: int) -> Expression:
        if self._peek() != ("mark", "("):
            return self.comparison()
        if depth >= COMPARISONS_MAX:
            raise self.broken("its parentheses are too deep")
        self._take("mark")
        found = self.any_of(depth + 1)
        if self._take("mark") != ")":
            raise self.broken("a parenthesis is not closed")
        return found

    def comparison(self) -> Comparison:
        return Comparison(self._take("quoted", "word"), self._take("operator"), self._take("value"))
