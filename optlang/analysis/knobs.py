"""The knobs of a study while it is read: their paths, their conditions, and in the end their columns.

A study is read in two passes. The first lists the knobs in the order of the text; the second runs when all knobs are
known and reads what was postponed (`Later`): conditions and settings may name any unique suffix of a knob's path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeAlias, TypeVar

from optlang.analysis.definitions import NO_VALUES, Definition, KnobSymbol, Role, Symbols, suffixes
from optlang.analysis.domains import Domains
from optlang.analysis.expressions import Expressions
from optlang.analysis.symbols import Allowed, Given, Namespace
from optlang.analysis.values import Values
from optlang.diagnostics.model import Diagnostics, Span
from optlang.plan.expressions import (
    Const,
    Expression,
    KnobRef,
    Reference,
    RoundRef,
    conjunction,
    names_rounds,
    references,
    replaced,
)
from optlang.plan.metrics import ALIASES
from optlang.plan.model import Dimension, Domain, Knob, Location, Param, Setting, Step
from optlang.syntax import tree

T = TypeVar("T")
Later: TypeAlias = Callable[[], T]

COLUMNS = frozenset({"study", "run", "trial", "state", "reason", "origin", "seconds"})
"""The columns of the views `results` and `front` that are there in every study."""

NEVER = Const(value=False)
"""The condition that no point meets."""


class Once(Generic[T]):
    """A value that is computed when it is first asked for."""

    def __init__(self, make: Later[T]) -> None:
        self._make = make
        self._made: list[T] = []

    def __call__(self) -> T:
        if not self._made:
            self._made.append(self._make())
        return self._made[0]


Guard: TypeAlias = "Later[Expression | None]"
ModelReader: TypeAlias = "Callable[[tree.Fix, Param, Around, tuple[Guard, ...]], Later[Setting | None]]"
Made: TypeAlias = "Later[Step | None]"


def always(expression: Expression) -> Guard:
    """A condition that is known already."""
    return lambda: expression


@dataclass(frozen=True, slots=True)
class Around:
    """What stands around a step: its path, the conditions it is under, the repeats, and whether knobs are allowed."""

    path: str = ""
    guards: tuple[Guard, ...] = ()
    rounds: tuple[str, ...] = ()
    fixed: str | None = None
    """Why nothing may be searched here ("the baseline"), or None."""

    def below(self, label: str, *guards: Guard, repeat: str | None = None) -> Around:
        """What stands around a step inside the one with this label."""
        rounds = (*self.rounds, repeat) if repeat is not None else self.rounds
        return replace(self, path=self.at(label), guards=(*self.guards, *guards), rounds=rounds)

    def under(self, *guards: Guard) -> Around:
        """The same, under further conditions."""
        return replace(self, guards=(*self.guards, *guards))

    def at(self, label: str) -> str:
        """The path of a label here."""
        return f"{self.path}.{label}" if self.path else label


@dataclass(slots=True, eq=False)
class Condition:
    """A `when` of the text with its expression."""

    node: tree.Expression
    expression: Expression
    guards: tuple[Guard, ...]


@dataclass(slots=True, eq=False)
class Knobs:
    """Collects knobs and conditions."""

    values: Values
    locate: Callable[[Span], Location]
    models: ModelReader | None = None
    """Reads settings that are models; None where no declared parameter is one."""
    applied: Span | None = None
    """Where the study applies the pipeline whose steps are read, or None."""
    guards: dict[str, tuple[Guard, ...]] = field(default_factory=dict)
    only: dict[str, Mapping[str, Guard]] = field(default_factory=dict)
    conditions: list[Condition] = field(default_factory=list)
    set_at: dict[str, Span] = field(default_factory=dict)
    """Where the study itself says what a setting is, by the setting's path."""
    unread: dict[object, Callable[[], None]] = field(default_factory=dict)
    """What enters the references of a text that is not read, or not yet."""

    @property
    def expressions(self) -> Expressions:
        """Reads expressions."""
        return self.values.expressions

    @property
    def names(self) -> Namespace:
        """What can be named."""
        return self.values.names

    @property
    def symbols(self) -> Symbols:
        """What the text gives names to."""
        return self.names.symbols

    @property
    def diagnostics(self) -> Diagnostics:
        """Collects the problems."""
        return self.names.diagnostics

    def domain(self, node: tree.Domain, param: Param, sign: Span | None = None) -> Domain | None:
        """A domain for `param`; None where it is wrong. `sign` is where `in` stands."""
        return Domains(self.values).read(node, param, sign)

    def label(self, path: str, definition: Definition, around: Around) -> None:
        """Enter what the text calls something with this path."""
        self.symbols.label(path, definition, self.applied, own=around.fixed is None)

    def add(
        self, path: str, role: Role, domain: Domain | None, param: Dimension | Param, span: Span, around: Around,
        *guards: Guard, only: Mapping[str, Guard] | None = None,
    ) -> KnobSymbol | None:
        """Enter a knob; None where there is none: with E206 where all is fixed, silently where it has no domain.

        `param` is what it is a value of. `only` are the conditions of its branches. Without a domain it is `broken`.
        """
        if around.fixed is not None:
            if domain is not None:
                self.searched(self.applied or span, around.fixed)
            return None
        declared = param if isinstance(param, Param) else Param(name=path, dimension=param, domain=None)
        knob = KnobSymbol(
            path, role, domain or NO_VALUES, declared.dimension, span, len(self.symbols.knobs), declared.help,
            inner=self.applied is not None, broken=domain is None, default=declared.default,
        )
        self.symbols.add(knob)
        self.guards[path] = (*around.guards, *guards)
        self.only[path] = only or {}
        return knob if domain is not None else None

    def searched(self, span: Span, where: str) -> None:
        """E206: something searched where all is fixed."""
        self.diagnostics.error(
            "E206", f"{where} has no knobs", span, "a knob",
            help="fix it with `=`; what is searched stands in `steps` and in a target",
        )

    def when(
        self, node: tree.Expression | None, around: Around, siblings: dict[str, Given] | None = None
    ) -> Guard | None:
        """The condition `when node`, read when all knobs are known; it may name only those that are known now.

        `siblings` are other settings of the same step, which it may name too.
        """
        if node is None:
            return None
        allowed = Allowed("`when`", knobs=True, rounds=around.rounds, before=len(self.symbols.knobs))
        key = self.postpone(node, allowed)

        def read() -> Expression | None:
            self.unread.pop(key, None)
            expressions = self.expressions if siblings is None else self.expressions.with_siblings(siblings)
            expression = expressions.condition(node, allowed)
            if around.fixed is not None and expression is not None and _names_knobs(expression):
                self.searched(node.span, around.fixed)
                return None
            if expression == Const(value=True):
                # Inputs alone decide it: then it says nothing of the points.
                return None
            if expression is not None and expression != NEVER:
                self.conditions.append(Condition(node, expression, around.guards))
            return expression

        return Once(read)

    def branch(self, nodes: Sequence[tree.Expression], around: Around) -> Guard | None:
        """The conditions of one branch of a choice; they cannot ask for the round, since a choice is made for all."""
        guards = [guard for node in nodes if (guard := self.when(node, around)) is not None]
        if not guards:
            return None

        def read() -> Expression | None:
            found = [guard() for guard in guards]
            if NEVER in found:
                return NEVER
            joined = conjunction(*found)
            if joined is None:
                return None
            return replaced(joined, lambda ref: self._of_all_rounds(ref, nodes[0].span))

        return Once(read)

    def _of_all_rounds(self, ref: Reference, span: Span) -> Expression:
        if not isinstance(ref, RoundRef):
            return ref
        if ref.which == "rounds" and any(knob.path == ref.path for knob in self.symbols.knobs):
            return KnobRef(path=ref.path)
        self.diagnostics.error(
            "E206", "a branch is taken in all rounds or in none", span,
            "another in each round" if ref.which == "round" else "the same number always",
            help="put the condition behind a step: `BRANCH = { STEP when CONDITION }`",
        )
        return ref

    def finish(self, metrics: Iterable[str], targets: Sequence[str]) -> tuple[Knob, ...]:
        """All knobs with their conditions and columns."""
        conditions = {knob.path: self.condition(knob.path) for knob in self.symbols.knobs}
        # What a pipeline does not do with the settings that it is given is no part of the study.
        found = [
            knob for knob in self.symbols.knobs
            if not (knob.domain == NO_VALUES or (knob.inner and conditions[knob.path] == NEVER))
        ]
        columns = self._columns(found, reserved(metrics, targets))
        return tuple(
            Knob(
                path=knob.path,
                column=columns[knob.path],
                role=knob.role,
                domain=knob.domain,
                dimension=knob.dimension,
                default=knob.default,
                condition=conditions[knob.path],
                only={
                    label: condition
                    for label, guard in self.only[knob.path].items()
                    if (condition := guard()) is not None
                },
                help=knob.help,
                location=self.locate(knob.span),
            )
            for knob in found
        )

    def postpone(self, node: tree.Node, allowed: Allowed) -> object:
        """Enter the references of `node` when all knobs are known, unless it is read, and its key removed, before."""
        key = object()
        self.unread[key] = lambda: self.names.quietly(node, allowed)
        return key

    def read_rest(self) -> None:
        """Enter the references of all that was not read, since what it belongs to is wrong."""
        for enter in self.unread.values():
            enter()

    def condition(self, path: str) -> Expression | None:
        """All conditions around a knob. One that depends on the round holds in some round: the knob is there."""
        found: list[Expression] = []
        for guard in self.guards[path]:
            expression = guard()
            if expression == NEVER:
                return expression
            if expression is not None and expression not in found and not names_rounds(expression):
                found.append(expression)
        return conjunction(*found)

    def _columns(self, found: list[KnobSymbol], taken: frozenset[str]) -> dict[str, str]:
        # A suffix serves where no other knob's path ends so, or where it is this knob's whole path.
        counts: dict[str, int] = {}
        for knob in found:
            for suffix in suffixes(knob.path):
                counts[_column(suffix)] = counts.get(_column(suffix), 0) + 1
        columns: dict[str, str] = {}
        used: set[str] = set()
        for knob in sorted(found, key=lambda item: item.path.count(".")):
            options = [
                suffix
                for suffix in suffixes(knob.path)
                if (counts[_column(suffix)] == 1 or suffix == knob.path)
                and _column(suffix) not in taken
                and _column(suffix) not in used
            ]
            if not options:
                self.diagnostics.error(
                    "E202", f"the knob `{knob.path}` would take the name of another column", knob.span,
                    "its column in the results",
                    help="give it, or the step that it belongs to, another label: `NAME = …`",
                )
            columns[knob.path] = options[0] if options else knob.path
            used.add(_column(columns[knob.path]))
        return columns


def _names_knobs(expression: Expression) -> bool:
    return any(isinstance(ref, KnobRef) for ref in references(expression))


def _column(name: str) -> str:
    return name.replace(".", "_").lower()


def reserved(metrics: Iterable[str], targets: Sequence[str]) -> frozenset[str]:
    """The columns that knobs cannot have: the fixed ones, the metrics', and the metrics' against the baseline.

    Where there are several targets, each of them has the metrics too.
    """
    names = {_column(name) for name in metrics} | {*ALIASES}
    if len(targets) > 1:
        names |= {f"{_column(target)}_{name}" for target in targets for name in names}
    return frozenset(COLUMNS | names | {f"{name}_x" for name in names} | {f"{name}_lost" for name in names})
