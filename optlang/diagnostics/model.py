"""What is wrong with a file, as data: spans, diagnostics and the errors that carry them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from optlang.interfaces import OptlangError

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A stretch of a source's text: half-open character offsets into the file named `file`."""

    file: str
    start: int
    end: int


class Lines:
    """Where the lines of a text begin: turns character offsets into lines and columns, both from 1."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [0]
        at = text.find("\n")
        while at >= 0:
            self._starts.append(at + 1)
            at = text.find("\n", at + 1)

    def __len__(self) -> int:
        return len(self._starts)

    def at(self, offset: int) -> tuple[int, int]:
        """The line and the column of the character at `offset`; the text's end has one too."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def start(self, line: int) -> int:
        """The offset of the first character of a line."""
        return self._starts[line - 1]

    def line(self, number: int) -> str:
        """A line's text, without its end."""
        start = self._starts[number - 1]
        end = self._starts[number] - 1 if number < len(self._starts) else len(self._text)
        return self._text[start:end].removesuffix("\r")


@dataclass(frozen=True, slots=True)
class Label:
    """A span and the text under its carets."""

    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class Fix:
    """A suggested edit: replace `span` by `replacement`."""

    span: Span
    replacement: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem: a code of the catalogue, a message, where it is, further labelled spans, help, and perhaps a fix."""

    code: str
    message: str
    primary: Label
    severity: Severity = "error"
    labels: tuple[Label, ...] = ()
    help: str | None = None
    fix: Fix | None = None

    @property
    def order(self) -> tuple[str, int, int, str]:
        """Sorts the problems of one run in the order of the text."""
        return (self.primary.span.file, self.primary.span.start, self.primary.span.end, self.code)


class StudyError(OptlangError):
    """A study has problems: `diagnostics` lists them and `texts` holds the text of each file they speak of."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...], texts: dict[str, str]) -> None:
        count = sum(item.severity == "error" for item in diagnostics)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in the study")
        self.diagnostics = diagnostics
        self.texts = texts


MOST = 100
"""How many mistakes of a run are reported; more would not be read."""

MOST_PARTS = 100_000
"""How many parts a file may have once its names are expanded: ten lines can stand for 2**60 of them."""


class TooMuchError(Exception):
    """Nothing more is to be read; `problem` is the problem that says why."""

    def __init__(self, message: str, span: Span, label: str = "", help: str | None = None) -> None:
        super().__init__(message)
        self.problem = Diagnostic("E105", message, Label(span, label), help=help)


@dataclass(slots=True)
class Budget:
    """Counts the parts that names were unfolded to, over all files of one run."""

    spent: int = 0

    def spend(self, span: Span, parts: int = 1) -> None:
        """Count parts that stand for what is at `span`; raises TooMuchError beyond MOST_PARTS."""
        self.spent += parts
        if self.spent > MOST_PARTS:
            raise TooMuchError(
                "this has more parts than can be searched once its names are written out", span,
                f"more than {MOST_PARTS:,} parts up to here", "apply fewer pipelines and names inside one another",
            )


@dataclass(slots=True)
class Diagnostics:
    """Collects problems while a file is read; checks add to it and go on.

    Where `most` is set, an error beyond so many raises TooMuchError, and further warnings are only counted.
    """

    found: list[Diagnostic] = field(default_factory=list)
    most: int | None = None
    budget: Budget = field(default_factory=Budget)
    dropped: dict[tuple[str, Span], None] = field(default_factory=dict)
    """The codes and spans of the warnings that were not kept."""
    rules: list[Callable[[Diagnostic], Diagnostic | None]] = field(default_factory=list)
    """What a problem passes before it is added: a rule returns it, without its fix perhaps, or None for an echo."""
    _shown: list[tuple[Span, Label]] = field(default_factory=list)

    def error(
        self, code: str, message: str, span: Span, label: str = "", *, help: str | None = None,
        labels: tuple[Label, ...] = (), fix: Fix | None = None,
    ) -> None:
        """Add an error at `span`."""
        if self.most is not None and len(self.found) >= self.most:
            raise TooMuchError(f"more than {self.most} mistakes", span, "nothing is reported from here on")
        self._add(Diagnostic(code, message, Label(span, label), "error", labels, help, fix))

    def warn(
        self, code: str, message: str, span: Span, label: str = "", *, help: str | None = None,
        labels: tuple[Label, ...] = (), fix: Fix | None = None,
    ) -> None:
        """Add a warning at `span`."""
        if self.most is not None and len(self.found) >= self.most:
            self.dropped[code, span] = None
            return
        self._add(Diagnostic(code, message, Label(span, label), "warning", labels, help, fix))

    def _add(self, item: Diagnostic) -> None:
        span = item.primary.span
        others = tuple(
            label for whole, label in self._shown
            if whole.file == span.file and whole.start <= span.start < whole.end and label not in item.labels
        )
        kept: Diagnostic | None = replace(item, labels=(*item.labels, *others)) if others else item
        for rule in self.rules:
            kept = rule(kept) if kept is not None else None
        if kept is not None:
            self.found.append(kept)

    @contextmanager
    def showing(self, label: Label, whole: Span) -> Iterator[None]:
        """While this is open, what is wrong inside `whole` is reported with `label` too."""
        self._shown.append((whole, label))
        try:
            yield
        finally:
            self._shown.pop()

    @property
    def failed(self) -> bool:
        """Whether any of them is an error."""
        return any(item.severity == "error" for item in self.found)

    def sorted(self) -> tuple[Diagnostic, ...]:
        """All of them once, in the order of the text."""
        return tuple(sorted(dict.fromkeys(self.found), key=lambda item: item.order))
