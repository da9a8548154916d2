"""Declarations → facts: what an .opt module says of its techniques, runtimes, models, data sets and pipelines.

Imports nothing that `calls` names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from optlang.analysis.definitions import NO_VALUES, KnobSymbol, Symbols
from optlang.analysis.expressions import Expressions
from optlang.analysis.modules.names import (
    SORTS,
    Declared,
    DeclaredParam,
    Scope,
    definitions_of,
    listed,
    only,
    second,
    suggestion,
)
from optlang.analysis.parameters import changed, declare
from optlang.analysis.symbols import Allowed, Namespace
from optlang.analysis.values import Values
from optlang.diagnostics.model import Diagnostics, Span
from optlang.interfaces import FORMS, NEEDS
from optlang.plan.expressions import Expression, KnobRef, references
from optlang.plan.model import Dimension, Param, Runtime, Technique
from optlang.plan.units import TYPES
from optlang.syntax import tree

WORDS: Mapping[str, Collection[str]] = {
    "needs": NEEDS, "takes": FORMS, "gives": FORMS, "cost_depends_on": ("settings", "weights"),
}
"""The words that a clause may have; others name techniques, traits or parameters."""

STRENGTH = ("stronger_with", "milder_with")
"""The clauses that name parameters: with larger values of these a technique changes a model more, or less."""

_NUMBERS: Collection[Dimension] = ("count", "ratio", "number", "time", "bytes")


@dataclass(frozen=True, slots=True)
class Maker:
    """The declared facts of a model or a data set."""

    name: str
    calls: str
    params: tuple[Param, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The declared parameters of a pipeline, and its steps as they stand in the text."""

    name: str
    params: tuple[Param, ...]
    steps: tree.Section


@dataclass(slots=True, eq=False)
class Declarations:
    """Reads declarations, each once. `scope_of` returns the scope of the file that a declaration stands in."""

    diagnostics: Diagnostics
    scope_of: Callable[[Declared], Scope]
    check_calls: Callable[[Declared, tree.String], None] = lambda declared, value: None
    symbols: list[Symbols] = field(default_factory=list)
    """What the user's own declarations give names to."""
    _techniques: dict[Declared, Technique] = field(default_factory=dict)
    _recoveries: dict[str, Declared] = field(default_factory=dict)
    """By the name of the technique that is recovered."""
    _runtimes: dict[Declared, Runtime] = field(default_factory=dict)
    _makers: dict[Declared, Maker] = field(default_factory=dict)
    _pipelines: dict[Declared, Pipeline | None] = field(default_factory=dict)
    _groups: dict[Declared, tuple[Param, ...]] = field(default_factory=dict)

    def technique(self, declared: Declared) -> Technique:
        """The facts of a technique."""
        if declared not in self._techniques:
            node = _declaration(declared)
            known = (
                "needs", "takes", "gives", "traits", "after", "excludes", "cost_depends_on", "recovered_by",
                "stronger_with", "milder_with",
            )
            clauses = self._clauses(declared, node, known)
            self._techniques[declared] = Technique(
                name=declared.qualified,
                help=node.help.value if node.help else "",
                calls=self._calls(declared, node),
                params=self.params(declared, node),
                needs=clauses["needs"],
                takes=clauses["takes"] or ("module",),
                gives=clauses["gives"] or ("module",),
                traits=clauses["traits"],
                after=clauses["after"],
                excludes=clauses["excludes"],
                cost_depends_on="weights" if clauses["cost_depends_on"] == ("weights",) else "settings",
                recovered_by=next(iter(clauses["recovered_by"]), None),
                stronger_with=clauses["stronger_with"],
                milder_with=clauses["milder_with"],
            )
        return self._techniques[declared]

    def recoveries(self, techniques: Iterable[Technique]) -> dict[str, Technique]:
        """Those that recover what one of the techniques lost where it stands alone, by their names."""
        named = [self._recoveries[item.name] for item in techniques if item.name in self._recoveries]
        return {declared.qualified: self.technique(declared) for declared in named}

    def runtime(self, declared: Declared) -> Runtime:
        """The facts of a runtime."""
        if declared not in self._runtimes:
            node = _declaration(declared)
            clauses = self._clauses(declared, node, ("needs", "takes", "traits", "excludes", "performs"))
            self._runtimes[declared] = Runtime(
                name=declared.qualified,
                help=node.help.value if node.help else "",
                calls=self._calls(declared, node),
                params=self.params(declared, node),
                needs=clauses["needs"],
                takes=clauses["takes"] or ("module",),
                traits=clauses["traits"],
                excludes=clauses["excludes"],
                performs=clauses["performs"],
            )
        return self._runtimes[declared]

    def maker(self, declared: Declared) -> Maker:
        """The facts of a model or a data set."""
        if declared not in self._makers:
            node = _declaration(declared)
            self._clauses(declared, node, ())
            name, calls = declared.qualified, self._calls(declared, node)
            self._makers[declared] = Maker(name, calls, self.params(declared, node))
        return self._makers[declared]

    def read(self, declared: Declared) -> None:
        """Read a declaration for what may be wrong in it."""
        if declared.sort == "technique":
            self.technique(declared)
        elif declared.sort == "runtime":
            self.runtime(declared)
        elif declared.sort in ("model", "data"):
            self.maker(declared)
        elif declared.sort == "params":
            self.group(declared)

    def group(self, declared: Declared) -> tuple[Param, ...]:
        """The parameters of a group."""
        if declared not in self._groups:
            node = _declaration(declared)
            self._clauses(declared, node, ())
            self._calls_nothing(declared, node, "take it away")
            self._groups[declared] = self.params(declared, node)
        return self._groups[declared]

    def pipeline(self, declared: Declared) -> Pipeline | None:
        """The parameters and steps of a pipeline; None where it has no steps, or was given up."""
        if declared not in self._pipelines:
            node = _declaration(declared)
            self._clauses(declared, node, ())
            self._calls_nothing(declared, node, "its steps are what it does")
            params = self.params(declared, node)
            sections = [fact for fact in node.facts if isinstance(fact, tree.Section)]
            for other in sections[1:]:
                second(self.diagnostics, "steps", other.keyword, sections[0].keyword)
            if not sections:
                self.diagnostics.error(
                    "E107", f"the pipeline `{declared.name}` has no steps", node.name.span, "does nothing",
                    help="add `steps { … }`",
                )
            self._pipelines[declared] = Pipeline(declared.qualified, params, sections[0]) if sections else None
        return self._pipelines[declared]

    def give_up(self, pipeline: Declared) -> None:
        """Take a pipeline for wrong: it is reported in its declaration, and not where it is applied."""
        self._pipelines[pipeline] = None

    def params(self, declared: Declared, node: tree.Declaration) -> tuple[Param, ...]:
        """The declared parameters, those of the groups that are used among them, in the order of the text."""
        scope = self.scope_of(declared)
        symbols = Symbols(scope.table, declared.name, declared.module.file)
        values = Values(Expressions(Namespace(self.diagnostics, scope, symbols)))
        if declared.module.own and declared.sort != "pipeline":
            self.symbols.append(symbols)
        unclear = declared.incomplete
        read: list[tuple[DeclaredParam, Param]] = []
        for member in declared.members:
            own = member.group is None
            param = declare(values, member.node) if own else self._of_group(values, member)
            definition = member.definition(declared)
            symbols.label(definition.name, definition)
            if param is None:
                scope.break_name(member.node.name)
                declared.module.incomplete.add(declared.name)
                continue
            read.append((member, param))
            # A model has no domain, but a condition may ask whether there is one: `when teacher != none`.
            domain = NO_VALUES if param.dimension in ("model", "models") else param.domain
            if domain is not None:
                index = len(symbols.knobs)
                symbols.add(KnobSymbol(param.name, "value", domain, param.dimension, member.at, index, param.help))
        allowed = Allowed("the condition of a parameter", knobs=True, knobs_called="parameters")
        conditions = {
            member.node.name.text: values.expressions.condition(member.node.when, allowed)
            for member, _ in read
            # A group's are read in the group; what an unknown group has may be named.
            if member.group is None and member.node.when is not None and not unclear
        }
        self._circles(conditions, {member.node.name.text: member.at for member, _ in read})
        return tuple(
            param.model_copy(update={"when": conditions[param.name]}) if param.name in conditions else param
            for _, param in read
        )

    def _of_group(self, values: Values, member: DeclaredParam) -> Param | None:
        """A parameter of a group, with what the declaration says otherwise; None where something is wrong with it."""
        assert member.group is not None
        name = member.node.name.text
        param = next((item for item in self.group(member.group) if item.name == name), None)
        return param if param is None or member.change is None else changed(values, param, member)

    def _circles(self, conditions: Mapping[str, Expression | None], spans: Mapping[str, Span]) -> None:
        depends = {name: _names(condition) for name, condition in conditions.items() if condition is not None}
        for name in depends:
            reached, frontier = set[str](), set(depends[name])
            while frontier:
                reached |= frontier
                frontier = {after for one in frontier for after in depends.get(one, ())} - reached
            if name in reached and name == min(reached & depends.keys(), key=lambda item: spans[item].start):
                self.diagnostics.error(
                    "E408", f"`{name}` is there on a condition that leads back to it", spans[name],
                    "conditions in a circle", help="let one of the parameters be there always",
                )

    def _calls_nothing(self, declared: Declared, node: tree.Declaration, advice: str) -> None:
        for fact in node.facts:
            if isinstance(fact, tree.Calls):
                self.diagnostics.error(
                    "E205", f"`calls` says nothing about {SORTS[declared.sort]}", fact.span, help=advice
                )

    def _calls(self, declared: Declared, node: tree.Declaration) -> str:
        for fact in node.facts:
            if isinstance(fact, tree.Calls):
                if declared.module.own:
                    self.check_calls(declared, fact.value)
                return declared.module.python(fact.value.value)
        self.diagnostics.error(
            "E107", f"`{declared.name}` does not say what it calls", node.name.span, "nothing to run",
            help='add `calls "file.py:function"`',
        )
        return ""

    def _clauses(
        self, declared: Declared, node: tree.Declaration, known: tuple[str, ...]
    ) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = defaultdict(tuple)
        scope = self.scope_of(declared)
        for fact in node.facts:
            if isinstance(fact, tree.Section) and node.kind != "pipeline":
                self.diagnostics.error(
                    "E205", f"`{declared.name}` is no pipeline, and has no `{fact.kind}`", fact.keyword,
                    help="take it away",
                )
            if not isinstance(fact, tree.Clause):
                continue
            if fact.keyword not in known:
                self.diagnostics.error(
                    "E205", f"`{fact.keyword}` says nothing about {SORTS[declared.sort]}", fact.span,
                    help="take it away",
                )
                continue
            words = WORDS.get(fact.keyword)
            for path in fact.paths:
                name = path.text
                if words is not None and name not in words:
                    self.diagnostics.error(
                        "E201", f"unknown word `{name}` after `{fact.keyword}`", path.span,
                        help=suggestion(name, words, f"it is one of {listed(words)}"), fix=only(path.span, name, words),
                    )
                    continue
                if fact.keyword in STRENGTH:
                    if not self._is_strength(declared, scope, fact.keyword, path, found):
                        continue
                elif fact.keyword == "recovered_by":
                    name = self._recovery(declared, scope, path, found[fact.keyword])
                    if not name:
                        continue
                elif fact.keyword == "performs" or (fact.keyword in ("after", "excludes") and node.kind == "technique"):
                    name = self._named(scope, path)
                    if not name:
                        continue
                found[fact.keyword] += (name,)
        return found

    def _is_strength(
        self, declared: Declared, scope: Scope, keyword: str, path: tree.Path, found: Mapping[str, tuple[str, ...]]
    ) -> bool:
        """Whether it is a number among the parameters, which is not said to be stronger or milder before."""
        members = {member.node.name.text: member.node for member in declared.members}
        node = members.get(path.text)
        if node is None:
            if not declared.incomplete:
                self.diagnostics.error(
                    "E205", f"`{declared.name}` has no parameter `{path.text}`", path.span,
                    help=suggestion(path.text, members, f"it has {listed(members)}" if members else "it has none"),
                    fix=only(path.span, path.text, members),
                )
            return False
        scope.table.refer(path.span, definitions_of(declared)[path.text])
        problem = ""
        if TYPES.get(node.type.text) not in _NUMBERS:
            problem = f"takes numbers; `{path.text}` is a {node.type.text}"
        elif any(path.text in found[word] for word in STRENGTH):
            problem = f"names `{path.text}`, which is named before"
        if problem:
            self.diagnostics.error("E205", f"`{keyword}` {problem}", path.span, help="take it away")
        return not problem

    def _recovery(self, declared: Declared, scope: Scope, path: tree.Path, before: tuple[str, ...]) -> str:
        """The name of the technique after `recovered_by`, which must work with its defaults alone; "" if it cannot."""
        found = scope.find(path)
        if found is None or found.sort != "technique":
            if not scope.absorbs(path):
                options = scope.names("technique")
                self.diagnostics.error(
                    "E201", f"unknown technique `{path.text}`", path.span,
                    help=suggestion(path.text, options, "name one technique: `recovered_by training.finetune`"),
                    fix=only(path.span, path.text, options),
                )
            return ""
        given = {member.node.name.text for member in found.members if member.node.default is None}
        problem = ""
        if before:
            problem = "takes one technique"
        elif found.qualified == declared.qualified:
            problem = "takes another technique"
        elif given:
            problem = f"takes a technique whose parameters all have defaults; `{min(given)}` of `{path.text}` has none"
        if problem:
            self.diagnostics.error(
                "E205", f"`recovered_by` {problem}", path.span,
                help="name one training that works with its defaults: `recovered_by training.finetune`",
            )
            return ""
        self._recoveries[declared.qualified] = found
        return found.qualified

    def _named(self, scope: Scope, path: tree.Path) -> str:
        # A technique, or a module for all of its techniques.
        declared = scope.find(path)
        if declared is not None and declared.sort == "technique":
            return declared.qualified
        module = scope.module_of(path.text) if len(path.parts) == 1 else None
        if module is not None:
            if path.text in scope.imports:
                scope.table.refer(path.span, scope.imports[path.text])
            return module.name
        if not scope.absorbs(path):
            options = [*scope.names("technique"), *scope.library, *scope.modules]
            self.diagnostics.error(
                "E201", f"unknown technique or module `{path.text}`", path.span, help=suggestion(path.text, options),
                fix=only(path.span, path.text, options),
            )
        return ""


def _declaration(declared: Declared) -> tree.Declaration:
    assert isinstance(declared.node, tree.Declaration), declared
    return declared.node


def _names(when: Expression | None) -> set[str]:
    return {item.path for item in references(when) if isinstance(item, KnobRef)} if when is not None else set()
