"""Declarations → facts: what an .opt module says of its techniques, runtimes, models, data sets and metrics.

Imports nothing that `calls` names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from optlang.analysis.modules.names import SORTS, Declared, Member, Scope, listed, only, second, suggestion
from optlang.analysis.symbols import FIXED, Draft, Place
from optlang.analysis.values import Resolver
from optlang.diagnostics.model import Diagnostic, Diagnostics, Label, Span
from optlang.diagnostics.suggest import closest
from optlang.plan.domains import contains, show_domain, values_of
from optlang.plan.expressions import Expression, KnobRef, Value, references
from optlang.plan.model import (
    Dimension,
    Domain,
    FloatDomain,
    IntDomain,
    Metric,
    Param,
    Runtime,
    SetDomain,
    Technique,
)
from optlang.plan.units import SAID, TYPES
from optlang.syntax import tree

FORMS = ("module", "graph", "onnx", "artifact")
NEEDS = ("training", "calibration", "runtime", "baseline", "latency", "gpu", "browser")
WORDS = {"needs": NEEDS, "takes": FORMS, "gives": FORMS, "cost_depends_on": ("settings", "weights")}
"""The words that a clause may have; others name techniques or traits."""

_EXAMPLES: dict[Dimension, Value] = {
    "count": 1, "ratio": 0.5, "number": 1.0, "time": 1.0, "bytes": 1, "bool": True, "names": (), "name": "name",
    "string": "text",
}

NO_METRIC = ("name", "names", "string", "bool", "model", "models")

# What optlang measures by itself; every other metric is the task's.
MEASURED = frozenset(
    {
        "size",
        "size.compressed",
        "size.weights",
        "latency.p50",
        "latency.p90",
        "latency.p95",
        "latency.p99",
        "latency.mean",
        "throughput",
        "memory.peak",
        "load_time",
        "compile_time",
        "parameters",
        "macs",
        "sparsity",
        "quantized",
        "halved",
    }
)


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
class Facts:
    """Reads declarations, each once. `scope_of` gives the scope of the file that a declaration stands in."""

    diagnostics: Diagnostics
    scope_of: Callable[[Declared], Scope]
    check_calls: Callable[[Declared, tree.String], None] = lambda declared, value: None
    broken: set[str] = field(default_factory=set)
    """The pipelines in whose declarations something is wrong, which is said there."""
    _techniques: dict[str, Technique] = field(default_factory=dict)
    _runtimes: dict[str, Runtime] = field(default_factory=dict)
    _makers: dict[str, Maker] = field(default_factory=dict)
    _pipelines: dict[str, Pipeline | None] = field(default_factory=dict)
    _groups: dict[str, tuple[Param, ...]] = field(default_factory=dict)

    def technique(self, declared: Declared) -> Technique:
        """The facts of a technique."""
        name = declared.qualified
        if name not in self._techniques:
            node = _declaration(declared)
            known = ("needs", "takes", "gives", "traits", "after", "excludes", "cost_depends_on")
            clauses = self._clauses(declared, node, known)
            self._techniques[name] = Technique(
                name=name,
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
            )
        return self._techniques[name]

    def runtime(self, declared: Declared) -> Runtime:
        """The facts of a runtime."""
        name = declared.qualified
        if name not in self._runtimes:
            node = _declaration(declared)
            clauses = self._clauses(declared, node, ("needs", "takes", "traits", "excludes", "performs"))
            self._runtimes[name] = Runtime(
                name=name,
                help=node.help.value if node.help else "",
                calls=self._calls(declared, node),
                params=self.params(declared, node),
                needs=clauses["needs"],
                takes=clauses["takes"] or ("module",),
                traits=clauses["traits"],
                excludes=clauses["excludes"],
                performs=clauses["performs"],
            )
        return self._runtimes[name]

    def maker(self, declared: Declared) -> Maker:
        """The facts of a model or a data set."""
        name = declared.qualified
        if name not in self._makers:
            node = _declaration(declared)
            self._clauses(declared, node, ())
            self._makers[name] = Maker(name, self._calls(declared, node), self.params(declared, node))
        return self._makers[name]

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
        name = declared.qualified
        if name not in self._groups:
            node = _declaration(declared)
            self._clauses(declared, node, ())
            self._calls_nothing(declared, node, "take it away")
            self._groups[name] = self.params(declared, node)
        return self._groups[name]

    def pipeline(self, declared: Declared) -> Pipeline | None:
        """The parameters and steps of a pipeline; None where it has no steps."""
        name = declared.qualified
        if name not in self._pipelines:
            node = _declaration(declared)
            self._clauses(declared, node, ())
            self._calls_nothing(declared, node, "its steps are what it does")
            params = self.params(declared, node)
            sections = [fact for fact in node.facts if isinstance(fact, tree.Section)]
            for other in sections[1:]:
                second(self.diagnostics, "steps", other.keyword, sections[0].keyword)
            if not sections:
                self.diagnostics.error(
                    "E107",
                    f"the pipeline `{declared.name}` has no steps",
                    node.name.span,
                    "does nothing",
                    help="add `steps { … }`",
                )
            self._pipelines[name] = Pipeline(name, params, sections[0]) if sections else None
        return self._pipelines[name]

    def params(self, declared: Declared, node: tree.Declaration) -> tuple[Param, ...]:
        """The declared parameters, those of the groups that are used among them, in the order of the text."""
        resolver = Resolver(self.diagnostics, self.scope_of(declared))
        unclear = declared.incomplete
        read: list[tuple[Member, Param]] = []
        for member in declared.members:
            own = member.group is None
            param = declare(resolver, member.node) if own else self._of_group(resolver, member)
            if param is None:
                # Who names it is not told a second time.
                resolver.scope.unknown.add(member.node.name.text)
                declared.module.incomplete.add(declared.name)
            if param is not None:
                read.append((member, param))
                # A model has no domain, but whether it is given can be asked: `when teacher != none`.
                domain = SetDomain(values=()) if param.dimension in ("model", "models") else param.domain
                if domain is not None:
                    resolver.knobs.append(
                        Draft(param.name, "value", domain, param.dimension, member.at, len(resolver.knobs))
                    )
        place = Place("the condition of a parameter", knobs=True)
        conditions = {
            member.node.name.text: resolver.condition(member.node.when, place)
            for member, _ in read
            # A group's are read in the group; what an unknown group has may be named.
            if member.group is None and member.node.when is not None and not unclear
        }
        self._circles(conditions, {member.node.name.text: member.at for member, _ in read})
        return tuple(
            param.model_copy(update={"when": conditions[param.name]}) if param.name in conditions else param
            for _, param in read
        )

    def _of_group(self, resolver: Resolver, member: Member) -> Param | None:
        """A parameter of a group, with what the declaration says otherwise; None where something is wrong with it."""
        assert member.group is not None
        name = member.node.name.text
        param = next((item for item in self.group(member.group) if item.name == name), None)
        return param if param is None or member.change is None else _changed(resolver, param, member)

    def _circles(self, conditions: Mapping[str, Expression | None], spans: Mapping[str, Span]) -> None:
        depends = {name: _names(condition) for name, condition in conditions.items() if condition is not None}
        for name in depends:
            reached, frontier = set[str](), set(depends[name])
            while frontier:
                reached |= frontier
                frontier = {after for one in frontier for after in depends.get(one, ())} - reached
            if name in reached and name == min(reached & depends.keys(), key=lambda item: spans[item].start):
                self.diagnostics.error(
                    "E408",
                    f"`{name}` is there on a condition that leads back to it",
                    spans[name],
                    "conditions in a circle",
                    help="let one of the parameters be there always",
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
                return fact.value.value
        self.diagnostics.error(
            "E107",
            f"`{declared.name}` does not say what it calls",
            node.name.span,
            "nothing to run",
            help='add `calls "file.py:function"`',
        )
        return ""

    def _clauses(
        self, declared: Declared, node: tree.Declaration, known: tuple[str, ...]
    ) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = dict.fromkeys(
            ("needs", "takes", "gives", "traits", "after", "excludes", "performs", "cost_depends_on"), ()
        )
        scope = self.scope_of(declared)
        for fact in node.facts:
            if isinstance(fact, tree.Section) and node.kind != "pipeline":
                self.diagnostics.error(
                    "E205",
                    f"`{declared.name}` is no pipeline, and has no `{fact.kind}`",
                    fact.keyword,
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
                        "E201",
                        f"unknown word `{name}` after `{fact.keyword}`",
                        path.span,
                        help=suggestion(name, words, f"it is one of {listed(words)}"),
                        fix=only(path.span, name, words),
                    )
                    continue
                if fact.keyword == "performs" or (fact.keyword in ("after", "excludes") and node.kind == "technique"):
                    name = self._named(scope, path)
                    if not name:
                        continue
                found[fact.keyword] += (name,)
        return found

    def _named(self, scope: Scope, path: tree.Path) -> str:
        # A technique, or a module for all of its techniques.
        declared = scope.find(path)
        if declared is not None and declared.sort == "technique":
            return declared.qualified
        module = scope.module_of(path.text) if len(path.parts) == 1 else None
        if module is not None:
            return module.name
        if not scope.silent(path):
            options = [*scope.names("technique"), *scope.library, *scope.modules]
            self.diagnostics.error(
                "E201", f"unknown technique or module `{path.text}`", path.span, help=suggestion(path.text, options),
                fix=only(path.span, path.text, options),
            )
        return ""


def declare(resolver: Resolver, node: tree.Param | tree.Input) -> Param | None:
    """The type, domain, default and help of a `param` or an `input`."""
    dimension = TYPES.get(node.type.text)
    if dimension is None:
        meant = closest(node.type.text, TYPES)
        resolver.diagnostics.error(
            "E201",
            f"unknown type `{node.type.text}`",
            node.type.span,
            help=f"did you mean `{meant}`?" if meant else f"types are {listed(TYPES, 20)}",
            fix=only(node.type.span, node.type.text, TYPES),
        )
        return None
    help_text = node.help.value if node.help else ""
    bare = Param(name=node.name.text, dimension=dimension, domain=None, required=True, help=help_text)
    if dimension in ("model", "models") and isinstance(node, tree.Param):
        return _declared_model(resolver, node, bare)
    domain: Domain | None = SetDomain(values=(False, True)) if dimension == "bool" else None
    if node.domain is not None:
        domain = resolver.domain(node.domain, bare)
        if domain is None:
            return None
    return _defaulted(resolver, node, bare.model_copy(update={"domain": domain}))


def _changed(resolver: Resolver, param: Param, member: Member) -> Param | None:
    """The parameter of a group with what a declaration changes of it; its domain may only become narrower."""
    node, change = member.node, member.change
    assert change is not None
    bare = param.model_copy(update={"default": None, "required": True, "help": node.help.value if node.help else ""})
    if param.dimension in ("model", "models"):
        return _declared_model(resolver, node, bare, "say nothing of it here, or change its help")
    domain = param.domain if change.domain is None else resolver.domain(change.domain, param)
    if change.domain is not None and domain is None:
        return None
    bare = bare.model_copy(update={"domain": domain})
    if change.default is not None:
        return _defaulted(resolver, node, bare)
    if node.default is not None and domain is not None and not contains(domain, param.default):
        resolver.diagnostics.error(
            "E407", f"the default of `{param.name}` is outside its domain",
            node.domain.span if node.domain is not None else node.span,
            "does not have the default of the group", labels=(Label(node.default.span, "the default"),),
            help=f"give it a default that is allowed: `{param.name} in … = …`",
        )
    return bare.model_copy(update={"default": param.default, "required": param.required})


def _defaulted(resolver: Resolver, node: tree.Param | tree.Input, bare: Param) -> Param:
    """The parameter with the default that the text gives it; E407 where that is outside its domain."""
    domain = bare.domain
    if node.default is None:
        return bare
    open_param = bare.model_copy(update={"domain": domain if bare.dimension == "name" else None})
    before = len(resolver.diagnostics.found)
    default = resolver.constant(node.default, open_param, FIXED)
    if default is None:
        # A name outside its domain is a default outside its domain.
        resolver.diagnostics.found[before:] = [
            outside(bare.name, node, domain) if item.code == "E406" and domain is not None else item
            for item in resolver.diagnostics.found[before:]
        ]
        # Who uses it is not told that it is missing.
        return bare.model_copy(update={"default": example_of(bare), "required": False})
    if domain is not None and not contains(domain, default.value):
        resolver.diagnostics.found.append(outside(bare.name, node, domain))
    return bare.model_copy(update={"default": default.value, "required": False})


def _declared_model(resolver: Resolver, node: tree.Param, bare: Param, advice: str | None = None) -> Param | None:
    # Which model is never declared: none at all is the only default.
    wrong = node.domain or node.default
    if wrong is None or (node.domain is None and isinstance(wrong, tree.Path) and wrong.text == "none"):
        return bare.model_copy(update={"required": node.default is None})
    resolver.diagnostics.error(
        "E302",
        f"`{bare.name}` is {SAID[bare.dimension]}, which a study names",
        wrong.span,
        "declared nowhere",
        help=advice or f"write `param {bare.name}: {node.type.text} = none`, or no default where it must be given",
    )
    return None


def outside(name: str, node: tree.Param | tree.Input, domain: Domain) -> Diagnostic:
    """E407: the default of `name` is not in its own domain."""
    assert node.default is not None
    assert node.domain is not None
    shown = show_domain(domain, TYPES[node.type.text])
    return Diagnostic(
        "E407",
        f"the default of `{name}` is outside its domain",
        Label(node.default.span, f"not in {shown}"),
        labels=(Label(node.domain.span, "what is allowed"),),
        help="choose a default that is allowed, or allow more",
    )


def metric_of(node: tree.Metric, diagnostics: Diagnostics, *, own: bool) -> Metric | None:
    """The facts of a metric; the user's own are the task's."""
    dimension = TYPES.get(node.type.text)
    if dimension is None or dimension in NO_METRIC:
        types = [name for name in TYPES if name not in NO_METRIC]
        diagnostics.error(
            "E201",
            f"a metric cannot be of type `{node.type.text}`",
            node.type.span,
            help=suggestion(node.type.text, types, f"it is one of {listed(types)}"),
            fix=only(node.type.span, node.type.text, types),
        )
        return None
    name = node.path.text
    return Metric(
        name=name,
        dimension=dimension,
        direction=node.direction,
        task=own or name not in MEASURED,
        help=node.help.value if node.help else "",
    )


def example_of(param: Param) -> Value:
    """A value that a parameter may have: its default where it has one."""
    if not param.required:
        return param.default
    if isinstance(param.domain, FloatDomain | IntDomain):
        # No round is a count that a step cannot be read with.
        return param.domain.low if param.domain.low > 0 else param.domain.high
    values = values_of(param.domain) if param.domain is not None else None
    return values[0] if values else _EXAMPLES.get(param.dimension)


def _declaration(declared: Declared) -> tree.Declaration:
    assert isinstance(declared.node, tree.Declaration), declared
    return declared.node


def _names(when: Expression | None) -> set[str]:
    return {item.path for item in references(when) if isinstance(item, KnobRef)} if when is not None else set()
