"""The symbol table as data: what the text gives a name, and every span that names it.

A name that means nothing is a reference without a definition. A definition is `broken` where something is wrong with
what it names: that is reported there, and what refers to it is not reported again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from optlang.diagnostics.model import Span
from optlang.plan.expressions import Value
from optlang.plan.model import Dimension, Domain, SetDomain

NO_VALUES = SetDomain(values=())
"""The domain of a knob that has none, or whose own could not be read."""

Role: TypeAlias = Literal["value", "choice", "maybe", "repeat", "order", "runtime"]

DefinitionKind: TypeAlias = Literal[
    "declaration", "import", "input", "let", "metric", "parameter", "setting", "step", "repeat", "target", "word"
]


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """A name at `span`; two definitions at one span are one name, read in two contexts.

    `whole` is the step without a label of its own, or the import, that defines the name. A name that is `fixed` is
    given by a declaration that others use, or is not the user's to change.
    """

    kind: DefinitionKind
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
        """What the name at an offset refers to, behind its import, and the span of that name."""
        found = [(span, item) for span, item in self.references if item is not None and _covers(span, file, offset)]
        return next((pair for pair in found if pair[1].kind != "import"), found[0] if found else None)

    def spans_of(self, definition: Definition) -> list[Span]:
        """Where a name is defined and referred to, in the order of the text."""
        named = (span for span, item in self.references if item is not None and item.span == definition.span)
        return sorted({definition.span, *named})


def _covers(span: Span, file: str, offset: int) -> bool:
    return span.start <= offset <= span.end and span.file == file


@dataclass(slots=True, eq=False)
class KnobSymbol:
    """A knob while the text is read; `index` is its position among the study's knobs."""

    path: str
    role: Role
    domain: Domain
    dimension: Dimension
    span: Span
    index: int
    help: str = ""
    inner: bool = False
    """Whether it stands in a pipeline's own steps."""
    default: Value = None
    """What is declared for it where nothing is set."""
    broken: bool = False
    """Whether something is wrong with its values, which is reported: others may have been meant."""


@dataclass(slots=True, eq=False)
class Symbols:
    """What one study, or one declaration, of the file gives names to.

    `labels` are the definitions of steps, branches, targets and searched settings by their paths. `spans` are where
    messages point for such a path: the inside of a pipeline is reported where the study applies it.
    """

    table: SymbolTable
    owner: str = ""
    file: str = ""
    names: dict[str, Definition] = field(default_factory=dict)
    """Inputs, lets and the parameters of a pipeline; the first of one name counts."""
    metrics: dict[str, Definition] = field(default_factory=dict)
    labels: dict[str, Definition] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    knobs: list[KnobSymbol] = field(default_factory=list)
    nameless: int = 0
    """How many broken definitions have a name that another has: an unknown name may be what one was to be called."""
    _ending: dict[str, list[KnobSymbol]] = field(default_factory=dict)
    _baseline: set[str] = field(default_factory=set)

    def label(self, path: str, definition: Definition, at: Span | None = None, *, own: bool = True) -> None:
        """Enter the definition of a path, reported `at`. The first counts; a baseline's (not `own`) yields."""
        if not (definition.fixed and definition.kind == "parameter"):
            self.table.define(definition)
        if path not in self.labels or (own and path in self._baseline):
            self.labels[path] = definition
            self.spans[path] = at or definition.span
            (self._baseline.discard if own else self._baseline.add)(path)

    def add(self, knob: KnobSymbol) -> None:
        """Enter a knob."""
        self.knobs.append(knob)
        self._ending.setdefault(knob.path.rpartition(".")[2], []).append(knob)

    def named(self, text: str, under: str = "") -> list[KnobSymbol]:
        """The knob of this path, or else all whose paths end so; of those `under` a pipeline's label, where given."""
        ending = f".{text}"
        found = [
            knob for knob in self._ending.get(text.rpartition(".")[2], ())
            if (knob.path == text or knob.path.endswith(ending)) and (not under or knob.path.startswith(f"{under}."))
        ]
        return [knob for knob in found if knob.path == text] or found


def suffixes(path: str) -> list[str]:
    """All endings of a path at its dots, the shortest first."""
    parts = path.split(".")
    return [".".join(parts[index:]) for index in range(len(parts) - 1, -1, -1)]
