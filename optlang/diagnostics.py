"""What is wrong with a file, as data: spans, diagnostics and the errors that carry them. Renderers live in render.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from optlang.forms import OptlangError

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A stretch of a source's text: half-open character offsets into the file named `file`."""

    file: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Label:
    """A span and what is to be said under its carets."""

    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class Fix:
    """A suggested edit: put `replacement` in the place of `span`."""

    span: Span
    replacement: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem: a code of the catalogue, a message, where it is, further labelled spans, help, and a fix if there is one."""

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


@dataclass(slots=True)
class Diagnostics:
    """Collects problems while a file is read; checks add to it and go on."""

    found: list[Diagnostic] = field(default_factory=list)

    def error(
        self, code: str, message: str, span: Span, label: str = "", *, help: str | None = None,  # noqa: A002
        labels: tuple[Label, ...] = (), fix: Fix | None = None,
    ) -> None:
        """Add an error at `span`."""
        self.found.append(Diagnostic(code, message, Label(span, label), "error", labels, help, fix))

    def warn(
        self, code: str, message: str, span: Span, label: str = "", *, help: str | None = None,  # noqa: A002
        labels: tuple[Label, ...] = (), fix: Fix | None = None,
    ) -> None:
        """Add a warning at `span`."""
        self.found.append(Diagnostic(code, message, Label(span, label), "warning", labels, help, fix))

    @property
    def failed(self) -> bool:
        """Whether any of them is an error."""
        return any(item.severity == "error" for item in self.found)

    def sorted(self) -> tuple[Diagnostic, ...]:
        """All of them once, in the order of the text."""
        return tuple(sorted(dict.fromkeys(self.found), key=lambda item: item.order))
