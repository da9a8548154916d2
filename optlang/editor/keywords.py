"""The words of the language by what they do in a line, taken from its grammar and its units."""

from __future__ import annotations

from optlang.plan.units import TYPES, UNITS
from optlang.syntax.parse import keywords
from optlang.syntax.tokens import RESERVED

CONSTANTS = ("false", "none", "true")
LOGIC = ("and", "in", "not", "or")
FLOW = tuple(sorted(RESERVED - {*CONSTANTS, *LOGIC}))
"""Words of steps and domains that mean the same wherever they stand."""

INSIDE = ("as", "because", "import", "maximize", "minimize", "order", "python")
"""Words that have their meaning in the middle of a line; at the beginning of one some of them have it too."""

FIRST = tuple(sorted(keywords() - RESERVED - {"as", "order", "python"}))
"""Words that begin a line, and are names elsewhere."""

TYPE_NAMES = tuple(sorted(TYPES))
UNIT_NAMES = tuple(sorted(UNITS, key=lambda unit: (-len(unit), unit)))

NUMBER = r"[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![eE][+-]?[0-9])"
UNIT = "(?:" + "|".join(UNIT_NAMES) + ")(?![A-Za-z0-9_%])"
NAME = r"[A-Za-z_][A-Za-z0-9_]*\b"
OPERATOR = r"==|!=|<=|>=|\.\.|[<>=+\-*/]"
BEFORE_A_NAME = r"(?=\s+(?!in\b|when\b|and\b|or\b)[\"A-Za-z_(\[0-9{-]|\s*\{)"
"""What follows a word at the beginning of a line where it is no name that gets a value."""


def reserved(words: tuple[str, ...]) -> str:
    """A pattern for one of some reserved words, except where it names an argument or follows the dot of a path."""
    return rf"(?<![.])(?:{any_of(words)})(?!\s*=(?!=))"


def any_of(words: tuple[str, ...]) -> str:
    """A pattern for one of some words, whole."""
    return rf"\b(?:{'|'.join(words)})\b"
