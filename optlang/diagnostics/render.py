"""Diagnostics to text: full with frames and carets, one line each, JSON, or the annotations of a code host."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from optlang.diagnostics.model import Diagnostic, Label, Lines, Span

Format = Literal["full", "concise", "json", "github"]

_TAB = 4
_WIDEST = 160
_RESET = "\x1b[0m"
_STYLES = {
    "error": "\x1b[1;31m", "warning": "\x1b[1;33m", "frame": "\x1b[1;34m", "strong": "\x1b[1m", "help": "\x1b[1;36m",
}


def render(
    diagnostics: Sequence[Diagnostic], texts: Mapping[str, str], style: Format = "full", *, color: bool = False
) -> str:
    """The diagnostics as text, each line ended; `texts` holds the text of each file, without byte order marks.

    Lines and columns count from 1, columns in characters; an end column is the one behind the last character.
    Only `full` takes `color`. A file that `texts` does not hold is named without its text, at line 1.
    """
    writers = {"full": _Full(texts, color).write, "concise": _concise, "json": _json, "github": _github}
    return writers[style](diagnostics, _Positions(texts))


class _Positions:
    """Offsets to lines and columns in several files."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._lines: dict[str, Lines] = {}

    def lines(self, file: str) -> Lines:
        if file not in self._lines:
            self._lines[file] = Lines(self._texts.get(file, ""))
        return self._lines[file]

    def at(self, span: Span) -> tuple[int, int]:
        return self._place(span.file, span.start)

    def end(self, span: Span) -> tuple[int, int]:
        return self._place(span.file, span.end)

    def _place(self, file: str, offset: int) -> tuple[int, int]:
        # Where the text is not available, only its beginning can be shown.
        return self.lines(file).at(min(offset, len(self._texts.get(file, ""))))


# ---- one line each


def _concise(diagnostics: Iterable[Diagnostic], positions: _Positions) -> str:
    rows = []
    for item in diagnostics:
        line, column = positions.at(item.primary.span)
        message = _printable(f"{item.severity}[{item.code}] {item.message}")
        rows.append(f"{_printable(item.primary.span.file)}:{line}:{column}: {message}\n")
    return "".join(rows)


def _json(diagnostics: Iterable[Diagnostic], positions: _Positions) -> str:
    rows = []
    for item in diagnostics:
        (line, column), (end_line, end_column) = positions.at(item.primary.span), positions.end(item.primary.span)
        rows.append({
            "code": item.code, "severity": item.severity, "message": item.message, "file": item.primary.span.file,
            "line": line, "column": column, "end_line": end_line, "end_column": end_column, "help": item.help,
            "fix": _fix(item, positions),
        })
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def _fix(item: Diagnostic, positions: _Positions) -> dict[str, object] | None:
    """What `optlang check --fix` would write instead of a part of the text."""
    if item.fix is None:
        return None
    (line, column), (end_line, end_column) = positions.at(item.fix.span), positions.end(item.fix.span)
    return {
        "line": line, "column": column, "end_line": end_line, "end_column": end_column, "text": item.fix.replacement
    }


def _github(diagnostics: Iterable[Diagnostic], positions: _Positions) -> str:
    """Workflow commands: https://docs.github.com/actions/reference/workflow-commands-for-github-actions."""
    rows = []
    for item in diagnostics:
        (line, column), (end_line, end_column) = positions.at(item.primary.span), positions.end(item.primary.span)
        file = _escaped(item.primary.span.file, ":,")
        advice = f"\nhelp: {item.help}" if item.help else ""
        # Columns may only be given where both ends lie on one line.
        columns = f",col={column},endColumn={max(column, end_column - 1)}" if line == end_line else ""
        rows.append(
            f"::{item.severity} file={file},line={line},endLine={end_line}{columns},title={item.code}"
            f"::{_escaped(item.message + advice)}\n"
        )
    return "".join(rows)


def _escaped(text: str, also: str = "") -> str:
    for character in "%\r\n" + also:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


# ---- with frames


class _Full:
    """The form with the source's lines, carets under what is meant, and help."""

    def __init__(self, texts: Mapping[str, str], color: bool) -> None:
        self._texts = texts
        self._color = color

    def write(self, diagnostics: Iterable[Diagnostic], positions: _Positions) -> str:
        return "\n".join(self._one(item, positions) for item in diagnostics)

    def _one(self, item: Diagnostic, positions: _Positions) -> str:
        labels = (item.primary, *item.labels)
        width = max(len(str(positions.at(label.span)[0])) for label in labels)
        bar = self._paint(f"{' ' * width} |", "frame")
        head = self._paint(f"{item.severity}[{item.code}]", item.severity)
        rows = [head + self._paint(f": {_printable(item.message)}", "strong")]
        files = list(dict.fromkeys(label.span.file for label in labels))
        for index, file in enumerate(files):
            here = [label for label in labels if label.span.file == file]
            line, column = positions.at(here[0].span)
            arrow = self._paint(f"{' ' * width}{'-->' if index == 0 else ':::'}", "frame")
            rows.append(f"{arrow} {_printable(file)}:{line}:{column}")
            if self._texts.get(file):
                rows.append(bar)
                rows += self._frame(here, item, positions, width)
        # A fix that no help mentions is shown instead of it.
        advice = item.help or (f"write `{item.fix.replacement.strip()}`" if item.fix is not None else None)
        if advice:
            rows.append(bar)
            first, *more = _printable(advice, keep="\n").split("\n")
            rows.append(f"{self._paint(' ' * width + ' =', 'frame')} {self._paint('help', 'help')}: {first}")
            rows += [f"{' ' * width}         {line}" for line in more]
        return "\n".join(rows) + "\n"

    def _frame(self, labels: Sequence[Label], item: Diagnostic, positions: _Positions, width: int) -> list[str]:
        """The lines that labels speak of, in the order of the text, each label's carets under its line."""
        rows: list[str] = []
        lines = positions.lines(labels[0].span.file)
        marked = sorted({positions.at(label.span)[0] for label in labels})
        bar = self._paint(f"{' ' * width} |", "frame")
        for index, number in enumerate(marked):
            if index and number == marked[index - 1] + 2:
                rows.append(self._line(number - 1, lines.line(number - 1), 0, width)[0])
            elif index and number > marked[index - 1] + 1:
                rows.append(self._paint(f"{' ' * (width - 1)}...", "frame"))
            here = [label for label in labels if positions.at(label.span)[0] == number]
            here.sort(key=lambda label: (label is not item.primary, label.span))
            row, cut = self._line(number, lines.line(number), here[0].span.start - lines.start(number), width)
            rows.append(row)
            for label in here:
                sign, style = ("^", item.severity) if label is item.primary else ("-", "frame")
                carets = _carets(lines.line(number), label.span, lines.start(number), cut, sign)
                rows.append(f"{bar} {self._paint(f'{carets} {_printable(label.text)}'.rstrip(), style)}")
        return rows

    def _line(self, number: int, text: str, focus: int, width: int) -> tuple[str, int]:
        """A line of the source with its number, and how many characters at its beginning are left out."""
        cut = max(0, min(focus - _WIDEST // 3, len(text) - _WIDEST))
        shown = text[cut : cut + _WIDEST]
        if cut:
            shown = "…" + shown[1:]
        if cut + _WIDEST < len(text):
            shown += "…"
        return f"{self._paint(f'{number:>{width}} |', 'frame')} {_expanded(shown)}".rstrip(), cut

    def _paint(self, text: str, style: str) -> str:
        return f"{_STYLES[style]}{text}{_RESET}" if self._color else text


def _carets(line: str, span: Span, start: int, cut: int, sign: str) -> str:
    """Spaces up to where `span` begins on its first line, then a sign for each column that it covers there."""
    first = min(span.start - start, len(line))
    last = min(span.end - start, len(line), cut + _WIDEST)
    before, within = _columns(line[cut:first]), _columns(line[cut:max(last, first)])
    return " " * before + sign * max(within - before, 1)


def _columns(text: str) -> int:
    """How many columns of a terminal `text` takes from the beginning of a line."""
    columns = 0
    for character in text:
        columns += _TAB - columns % _TAB if character == "\t" else _wide(character)
    return columns


def _wide(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _expanded(text: str) -> str:
    """The text with tabs as spaces, and nothing in it that a terminal would obey."""
    out: list[str] = []
    columns = 0
    for character in text:
        if character == "\t":
            out.append(" " * (_TAB - columns % _TAB))
            columns += _TAB - columns % _TAB
        else:
            out.append(character if character.isprintable() or _wide(character) == 0 else "\N{REPLACEMENT CHARACTER}")
            columns += _wide(character)
    return "".join(out)


def _printable(text: str, keep: str = "") -> str:
    return "".join(c if c.isprintable() or c in keep else f"\\u{ord(c):04x}" for c in text)
