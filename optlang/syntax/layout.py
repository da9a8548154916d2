"""Documents that say where a line may be broken, and the printer that breaks them to a width.

After "A prettier printer" (Wadler 2003) in the form that Prettier gave it: a group is printed on one line where it
fits, else each of its own lines is broken; a fill breaks only where the next of its parts does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

WIDTH = 120
MARK = "\0"
"""Stands in printed lines before a comment that ends them; see `Trail`."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line end where its group is broken, else `flat`; with `broken` before the line end."""

    flat: str = " "
    broken: str = ""


@dataclass(frozen=True, slots=True)
class Hard:
    """A line end in any case; `blank` leaves an empty line."""

    blank: bool = False


@dataclass(frozen=True, slots=True)
class Trail:
    """A comment at the end of a line: counts for no width, and must be followed by a line end."""

    text: str


@dataclass(frozen=True, slots=True)
class Prose:
    """Words that end a line and may be as long as they are: no line is broken for them."""

    text: str


@dataclass(slots=True)
class Pad:
    """Spaces that align what follows with its neighbours; printed where the group that owns them is broken."""

    width: int = 0
    active: bool = False


@dataclass(frozen=True, slots=True)
class Indent:
    """Lines that begin in `doc` are indented by two more."""

    doc: Doc


@dataclass(frozen=True, slots=True)
class Group:
    """Printed on one line if it fits and is not `broken` from the start."""

    doc: Doc
    broken: bool = False
    pads: tuple[Pad, ...] = ()


@dataclass(frozen=True, slots=True)
class Fill:
    """Parts with a space between, or a line end indented by `extra` where the next part does not fit.

    `deep` says for each part whether lines that begin in it are indented by `extra` too, when it begins a line.
    """

    parts: tuple[Doc, ...]
    extra: int
    deep: tuple[bool, ...] = field(default=())


Doc: TypeAlias = "str | Line | Hard | Trail | Prose | Pad | Indent | Group | Fill | Sequence[Doc]"
_Task: TypeAlias = "tuple[int, bool, Doc]"


def flat(doc: Doc) -> str | None:
    """The document on one line, without prose; None where it cannot stand on one."""
    found: list[str] = []
    return "".join(found) if _flatten(doc, found) else None


def _flatten(doc: Doc, out: list[str]) -> bool:
    match doc:
        case str():
            out.append(doc)
        case Line():
            out.append(doc.flat)
        case Hard() | Trail():
            return False
        case Pad() | Prose():
            pass
        case Indent():
            return _flatten(doc.doc, out)
        case Group():
            return not doc.broken and _flatten(doc.doc, out)
        case Fill():
            for index, part in enumerate(doc.parts):
                if index:
                    out.append(" ")
                if not _flatten(part, out):
                    return False
        case _:
            return all(_flatten(part, out) for part in doc)
    return True


def lines_of(doc: Doc) -> list[str]:
    """The document's lines without their ends; comments at the end of a line stand behind `MARK`."""
    printer = _Printer()
    printer.run(doc)
    return "".join(printer.out).split("\n")


class _Printer:
    def __init__(self) -> None:
        self.out: list[str] = []
        self._column = 0

    def run(self, doc: Doc) -> None:
        """Print: tasks are (indentation, whether the group around is broken, document), the next one last."""
        tasks: list[_Task] = [(0, True, doc)]
        while tasks:
            indent, broken, item = tasks.pop()
            match item:
                case str():
                    self._write(item)
                case Trail():
                    self.out.append(MARK + item.text)
                case Prose():
                    self._write(item.text)
                case Pad():
                    self._write(" " * item.width if item.active else "")
                case Hard():
                    self._end_line(indent, item.blank)
                case Line() if broken:
                    self._write(item.broken)
                    self._end_line(indent, False)
                case Line():
                    self._write(item.flat)
                case Indent():
                    tasks.append((indent + 2, broken, item.doc))
                case Group():
                    breaks = item.broken or not self._fits(item.doc, tasks)
                    for pad in item.pads:
                        pad.active = breaks
                    tasks.append((indent, breaks, item.doc))
                case Fill():
                    self._fill(item, indent, tasks)
                case _:
                    tasks.extend((indent, broken, part) for part in reversed(item))

    def _fill(self, fill: Fill, indent: int, tasks: list[_Task]) -> None:
        """Print the first part; the others become a fill of their own, which begins with the space before them."""
        first, *others = fill.parts
        if others:
            deep = fill.deep or (True,) * len(fill.parts)
            tasks.append((indent, True, _Rest(tuple(others), fill.extra, deep[1:])))
        if isinstance(fill, _Rest):
            following = tasks if not others else []
            if self._fits((" ", first), following):
                self._write(" ")
            else:
                self._end_line(indent + fill.extra, False)
                indent += fill.extra if fill.deep[0] else 0
        tasks.append((indent, True, Group(first)))

    def _fits(self, doc: Doc, following: Sequence[_Task]) -> bool:
        """Whether what stands on the line, `doc` without breaks, and what follows up to a line end, fits the width."""
        left = WIDTH - self._column
        stack: list[tuple[bool, Doc]] = [(False, doc)]
        rest = len(following)
        while left >= 0:
            if not stack:
                if not rest:
                    return True
                rest -= 1
                stack.append((following[rest][1], following[rest][2]))
            broken, item = stack.pop()
            match item:
                case str():
                    left -= len(item)
                case Line() if broken:
                    return left >= len(item.broken)
                case Line():
                    left -= len(item.flat)
                case Hard() | Trail() | Prose():
                    return True
                case Pad():
                    left -= item.width if item.active else 0
                case Indent():
                    stack.append((broken, item.doc))
                case Group():
                    stack.append((broken or item.broken, item.doc))
                case _Rest() if broken:
                    return True
                case Fill():
                    for part in reversed(item.parts[1:]):
                        stack += [(False, part), (False, " ")]
                    stack.append((False, item.parts[0]))
                case _:
                    stack.extend((broken, part) for part in reversed(item))
        return False

    def _write(self, text: str) -> None:
        self.out.append(text)
        self._column += len(text)

    def _end_line(self, indent: int, blank: bool) -> None:
        while self.out and not self.out[-1].strip(" ") and MARK not in self.out[-1]:
            self.out.pop()
        if self.out:
            self.out[-1] = self.out[-1].rstrip(" ")
        self.out.append("\n\n" if blank else "\n")
        self.out.append(" " * indent)
        self._column = indent


@dataclass(frozen=True, slots=True)
class _Rest(Fill):
    """What is left of a fill whose first parts are printed."""
