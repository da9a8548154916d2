"""Slips of the hand, applied to a right study at every place where they fit: one mistake each, and where it is.

The operators work on the tokens of the text and know the language only as far as its signs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from optlang.syntax.parse import keywords, lexed
from optlang.syntax.source import Source
from optlang.syntax.tokens import Token

OPEN = {"LBRACE": "RBRACE", "LPAR": "RPAR", "LSQB": "RSQB"}


@dataclass(frozen=True)
class Mutant:
    """A text with one slip in it; a report is due on one of `lines` of the text."""

    operator: str
    text: str
    at: int
    lines: range


def line_of(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


class Mutator:
    """All mutants of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = [token for token in lexed(Source("study", text)) if token.end_pos > token.start_pos]

    def all(self) -> Iterator[Mutant]:
        """The mutants of every operator, in the order of the text."""
        for operator in OPERATORS:
            yield from operator(self)

    def replaced(self, operator: str, start: int, end: int, by: str, *, more: range | None = None) -> Mutant:
        """The text with `by` in the place of what stands from `start` to before `end`."""
        text = self.text[:start] + by + self.text[end:]
        line = line_of(self.text, start)
        return Mutant(operator, text, start, more or range(line, line + 1))

    # ---- operators

    def brackets_left_out(self) -> Iterator[Mutant]:
        """Each bracket is left out. What is due on which line: the opener's, or those up to what would have closed."""
        opened: list[Token] = []
        for token in self.tokens:
            if token.type in OPEN:
                opened.append(token)
            elif token.type in OPEN.values():
                first = opened.pop()
                low, high = line_of(self.text, first.start_pos), line_of(self.text, token.start_pos)
                for one in (first, token):
                    kind = "opening" if one is first else "closing"
                    yield self.replaced(
                        f"{kind} {one.value} left out", one.start_pos, one.end_pos, "", more=range(low, high + 1)
                    )

    def brackets_doubled(self) -> Iterator[Mutant]:
        """Each closing bracket is written twice."""
        for token in self.tokens:
            if token.type in OPEN.values():
                yield self.replaced(f"{token.value} doubled", token.end_pos, token.end_pos, token.value)

    def quotes_left_out(self) -> Iterator[Mutant]:
        """Each quote of each text is left out."""
        for token in self.tokens:
            if token.type == "STRING":
                yield self.replaced("opening quote left out", token.start_pos, token.start_pos + 1, "")
                yield self.replaced("closing quote left out", token.end_pos - 1, token.end_pos, "")

    def signs_left_out(self) -> Iterator[Mutant]:
        """Each `=`, `in`, `:`, `,` inside a line, `..`, operator and comparison is left out."""
        for token, following in zip(self.tokens, self.tokens[1:], strict=False):
            sign = token.type in ("EQUAL", "COLON", "RANGE", "COMPARE", "STAR", "SLASH", "DOT") or token.value in (
                "in", "and", "or",
            )
            comma = token.type == "COMMA" and line_of(self.text, token.start_pos) == line_of(
                self.text, following.start_pos
            )
            if sign or comma:
                yield self.replaced(f"{token.value} left out", token.start_pos, token.end_pos, " ")

    def signs_exchanged(self) -> Iterator[Mutant]:
        """`:` for `=`, `==` for `=`, `=` for `==`, `=` for `in` before a list, `-` for `..`, `;` for `,`."""
        for token in self.tokens:
            for by in {"=": (":", "==", ":="), "==": ("=", "==="), "..": ("-", "...", "to"), ">=": ("=>",)}.get(
                token.value, ()
            ):
                yield self.replaced(f"{by} for {token.value}", token.start_pos, token.end_pos, by)

    def names_misspelt(self) -> Iterator[Mutant]:
        """In each word of three letters or more one is left out, two change places, or one is doubled."""
        known = keywords()
        for index, token in enumerate(self.tokens):
            word = token.value
            if token.type != "NAME" or len(word) < 3:
                continue
            kind = "keyword" if word in known else "name"
            middle = 1 + index % (len(word) - 2)
            for slip, by in (
                ("without a letter", word[:middle] + word[middle + 1 :]),
                ("with two letters exchanged", word[:middle] + word[middle + 1] + word[middle] + word[middle + 2 :]),
                ("with a letter doubled", word[:middle] + word[middle] + word[middle:]),
            ):
                if by != word:
                    yield self.replaced(f"{kind} {slip}", token.start_pos, token.end_pos, by)

    def units_wrong(self) -> Iterator[Mutant]:
        """Each number with a unit gets another, or stands apart from it."""
        for token in self.tokens:
            if token.type != "QUANTITY":
                continue
            digits = token.value.rstrip("%abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
            unit = token.value[len(digits) :]
            yield self.replaced("unit misspelt", token.start_pos, token.end_pos, f"{token.value}x")
            yield self.replaced("unit apart", token.start_pos, token.end_pos, f"{digits} {unit}")

    def lines_joined(self) -> Iterator[Mutant]:
        """Two statements stand on one line."""
        for token, following in zip(self.tokens, self.tokens[1:], strict=False):
            if token.type == "_NL" and token.value == "\n" and following.type != "RBRACE":
                line = line_of(self.text, token.start_pos)
                yield self.replaced(
                    "two statements on a line", token.start_pos, following.start_pos, " ", more=range(line, line + 1)
                )

    def values_left_out(self) -> Iterator[Mutant]:
        """Nothing stands behind `=`, `in` or `..`."""
        for token, following in zip(self.tokens, self.tokens[1:], strict=False):
            single = following.type in ("NAME", "NUMBER", "QUANTITY", "STRING")
            if (token.type in ("EQUAL", "RANGE") or token.value == "in") and single:
                yield self.replaced(
                    f"nothing behind {token.value}", following.start_pos, following.end_pos, "",
                )


OPERATORS: tuple[Callable[[Mutator], Iterator[Mutant]], ...] = (
    Mutator.brackets_left_out,
    Mutator.brackets_doubled,
    Mutator.quotes_left_out,
    Mutator.signs_left_out,
    Mutator.signs_exchanged,
    Mutator.names_misspelt,
    Mutator.units_wrong,
    Mutator.lines_joined,
    Mutator.values_left_out,
)
