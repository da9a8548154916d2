"""The symbol table as data: what the text gives a name, and every span that names it.

A name that means nothing is a reference without a definition. A definition is `broken` where something is wrong with
what it names: that is reported there, and what refers to it is not reported again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from optlang.diagnostics.model import Span

Kind: TypeAlias = Literal[
    "declaration", "import", "input", "let", "metric", "parameter", "setting", "step", "repeat", "target", "word"
]


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """A name at `span`; two definitions at one span are one name, read in two contexts.

    `whole` is the step without a label of its own, or the import, that defines the name. A name that is `fixed` is
    given by a declaration that others use, or is not the user's to change.
    """

    kind: Kind
    name: str
    span: Span
    whole: Span | None = None
    fixed: bool = False
    broken: bool = False


@dataclass(slots=True, eq=False)
class SymbolTable:
    """The definitions and references of a file and of all that it reads, in the order in which they are read."""

    definitions: list[Definition] = field(default_factory=list)
    references: list[tuple[Span, Definition | None]] = field(default_factory=list)

    def define(self, definition: Definition) -> Definition:
        """Enter a definition."""
        self.definitions.append(definition)
        return definition

    def refer(self, span: Span, definition: Definition | None) -> None:
        """Enter a reference; None where the name means nothing."""
        self.references.append((span, definition))

    def referred(self) -> frozenset[Span]:
        """The spans of all definitions that something refers to."""
        return frozenset(definition.span for _, definition in self.references if definition is not None)

    def defined_at(self, file: str, offset: int) -> Definition | None:
        """What is defined at an offset of a file."""
        return next((item for item in self.definitions if _covers(item.span, file, offset)), None)

    def named_at(self, file: str, offset: int) -> tuple[Span, Definition] | None:
        """What the name at an offset of a file refers to, and the span of that name."""
        found = ((span, item) for span, item in self.references if item is not None and _covers(span, file, offset))
        return next(found, None)

    def spans_of(self, definition: Definition, file: str) -> list[Span]:
        """Where a file defines and refers to a name, in the order of the text."""
        named = (span for span, item in self.references if item is not None and item.span == definition.span)
        return sorted({span for span in (definition.span, *named) if span.file == file})


def _covers(span: Span, file: str, offset: int) -> bool:
    return span.start <= offset <= span.end and span.file == file
