"""A study's tree → its plan: reads the members in the order in which they need one another, then runs the checks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from optlang.analysis.checks.study import CHECKS, Draft
from optlang.analysis.expressions import text_of
from optlang.analysis.knobs import Around, Knobs, Later
from optlang.analysis.lower.factories import Factories
from optlang.analysis.lower.inputs import Inputs
from optlang.analysis.lower.search_settings import measure_of, search_of
from optlang.analysis.lower.steps import Steps
from optlang.analysis.lower.targets import Targets
from optlang.analysis.modules.declarations import Facts, metric_of
from optlang.analysis.modules.names import Scope, duplicate, second
from optlang.analysis.symbols import Place
from optlang.analysis.values import Resolver
from optlang.diagnostics.model import Diagnostics, Span
from optlang.plan.model import BASELINE_RUNTIME, RECOVERY, FactoryUse, Location, Metric, Objective, Plan, Rule, Step
from optlang.plan.model import Target as PlanTarget
from optlang.space.combinations import Index
from optlang.space.compatibility import DeclaredFacts
from optlang.space.feasibility import everywhere
from optlang.syntax import tree

# What may stand between two words of a rule, and the texts that such a thing may be a part of.
_LAYOUT = re.compile(r'("(?:\\.|[^"\\\n])*")|(?:#[^\n]*|\s+)+')

M = TypeVar("M")
T = TypeVar("T")

WANTED = {
    "model": "model NAME = zoo.digits_cnn()",
    "data": "data NAME = zoo.digits()",
    "steps": "steps { maybe static }",
    "target": "target NAME { runtime = onnxruntime }",
}


@dataclass(slots=True, eq=False)
class StudyBuilder:
    """Builds one study. `broken` says that parts of the text could not be read: nothing is called missing then."""

    study: tree.Study
    edition: int
    scope: Scope
    facts: Facts
    diagnostics: Diagnostics
    texts: dict[str, str]
    folder: Path
    broken: bool
    locate: Callable[[Span], Location]
    overrides: Mapping[str, str]
    names: dict[str, Span] = field(default_factory=dict)

    def build(self) -> Plan | None:
        """The plan; None where an error stands in its way (what is wrong is among the diagnostics)."""
        resolver = Resolver(self.diagnostics, self.scope)
        knobs = Knobs(resolver, self.locate)
        self._claim_names(resolver)
        # Of two with one name the first counts.
        resolver.lets = {item.name.text: item for item in reversed(self._all(tree.Let))}
        inputs = Inputs(resolver, self.texts, self.overrides)
        declared_inputs = inputs.read(self._all(tree.Input))
        resolver.metrics = self._metrics()
        steps = Steps(knobs, self.facts, self.scope, self.folder)
        targets = Targets(knobs, self.facts, self.scope)
        own = {node.name.text: text_of(getattr(node.value, "path", node.value)) for node in self._all(tree.Make)}
        factories = Factories(knobs, self.facts, self.scope, self.folder, own)
        knobs.models = factories.setting

        made_targets = self._targets(targets, resolver.metrics)
        resolver.targets = tuple(node.name.text for node, _ in made_targets)
        model, data = (self._factory(factories, kind) for kind in ("model", "data"))
        baseline = self._section(steps, "baseline", Around(fixed="the baseline"))
        searched = self._section(steps, "steps", Around())
        # Now all knobs are known: what was put off can be read.
        built_targets = [target for target in (make() for _, make in made_targets) if target is not None]
        built_baseline, built_steps = baseline(), searched()
        built_knobs = knobs.finish(resolver.metrics, resolver.targets)
        forbids = self._rules(resolver, "forbid", Place("`forbid`", knobs=True))
        requires = self._rules(resolver, "require", Place("`require`", metrics=True))
        objectives = self._goals(resolver)
        search = search_of(knobs, self._sections("search"), self._one("search"))
        measure = measure_of(knobs, self._sections("measure"), self._one("measure"))

        whole = model is not None and data is not None and built_targets and search is not None and measure is not None
        index = Index(built_knobs)
        draft = Draft(
            study=self.study,
            knobs=knobs,
            steps=steps,
            targets=targets,
            index=index,
            built_steps=built_steps,
            built_targets=tuple(built_targets),
            built_baseline=built_baseline,
            forbids=forbids,
            requires=requires,
            objectives=objectives,
            search=search,
            inputs=inputs,
            broken=self.broken,
            complete=not self.diagnostics.failed,
        )
        if built_targets and draft.complete:
            facts = DeclaredFacts(steps.used, targets.used)
            draft.feasible = everywhere(built_steps, built_targets, index, facts)
        for check in CHECKS:
            check(draft)
        if not whole or self.diagnostics.failed:
            return None
        assert model is not None
        assert data is not None
        assert search is not None
        assert measure is not None
        return Plan(
            edition=self.edition,
            study=self.study.name.text,
            title=self.study.title.value if self.study.title else "",
            inputs=declared_inputs,
            metrics=tuple(resolver.metrics.values()),
            model=model,
            data=data,
            baseline=built_baseline,
            targets=tuple(built_targets),
            steps=built_steps,
            knobs=built_knobs,
            impossible=draft.feasible.impossible if draft.feasible is not None else (),
            forbids=tuple(rule for _, rule in forbids),
            requires=tuple(rule for _, rule in requires),
            objectives=tuple(objective for _, objective in objectives),
            search=search,
            measure=measure,
            techniques=tuple(sorted(self._with(steps.used, RECOVERY).values(), key=lambda item: item.name)),
            runtimes=tuple(sorted(self._with(targets.used, BASELINE_RUNTIME).values(), key=lambda item: item.name)),
        )

    def _with(self, used: Mapping[str, T], name: str) -> dict[str, T]:
        """The declarations that the study uses, and one of the library that every run needs whatever the study says."""
        module, _, short = name.partition(".")
        declared = self.scope.library[module].declared[short]
        made: Any = self.facts.runtime(declared) if module == "runtime" else self.facts.technique(declared)
        return {**used, name: made}

    # ---- members

    def _all(self, kind: type[M]) -> list[M]:
        return [item for item in self.study.members if isinstance(item, kind)]

    def _sections(self, kind: str) -> list[tree.Section]:
        return [item for item in self._all(tree.Section) if item.kind == kind]

    def _one(self, kind: str) -> Callable[[tree.Section], None]:
        def again(section: tree.Section) -> None:
            second(self.diagnostics, kind, section.keyword, self._sections(kind)[0].keyword)

        return again

    def _claim_names(self, resolver: Resolver) -> None:
        members: Iterable[Any] = self._all(tree.Input) + self._all(tree.Let)
        for item in sorted(members, key=lambda member: member.span.start):
            if item.name.text in self.names:
                duplicate(self.diagnostics, item.name.text, item.name.span, self.names[item.name.text])
                resolver.doubled += 1
            self.names.setdefault(item.name.text, item.name.span)

    def _metrics(self) -> dict[str, Metric]:
        found: dict[str, Metric] = {}
        for module in self.scope.library.values():
            for item in module.declared.values():
                if isinstance(item.node, tree.Metric):
                    metric = metric_of(item.node, self.diagnostics, own=False)
                    assert metric is not None
                    found[metric.name] = metric
        places: dict[str, Span] = {}
        own = [item.node for item in self.scope.own.declared.values() if isinstance(item.node, tree.Metric)]
        for node in (*own, *self._all(tree.Metric)):
            name = node.path.text
            if name in places:
                duplicate(self.diagnostics, name, node.path.span, places[name])
                continue
            places[name] = node.path.span
            metric = metric_of(node, self.diagnostics, own=True)
            if metric is None:
                self.scope.unknown.add(name)
            else:
                found[name] = metric
        return found

    def _targets(self, targets: Targets, metrics: Iterable[str]) -> list[tuple[tree.Target, Later[PlanTarget | None]]]:
        nodes = self._all(tree.Target)
        if not nodes:
            self._missing("target")
        first: dict[str, tree.Target] = {}
        for node in nodes:
            name = node.name
            if name.text in first:
                duplicate(self.diagnostics, name.text, name.span, first[name.text].name.span)
                targets.knobs.resolver.doubled += 1
                continue
            first[name.text] = node
            if len(nodes) > 1 and name.text in {"baseline", *(metric.split(".")[0] for metric in metrics)}:
                self.diagnostics.error(
                    "E202",
                    f"the target `{name.text}` has the name of a metric",
                    name.span,
                    f"`{name.text}.latency` would mean two things",
                    help="give it the name of what it stands for: `phone`, `laptop`",
                )
        return [(node, targets.read(node)) for node in first.values()]

    def _factory(self, factories: Factories, kind: str) -> FactoryUse | None:
        nodes = [item for item in self._all(tree.Make) if item.kind == kind]
        if not nodes:
            self._missing(kind)
            return None
        for other in nodes[1:]:
            second(self.diagnostics, kind, other.name.span, nodes[0].name.span)
        return factories.read(nodes[0])

    def _missing(self, kind: str) -> None:
        if not self.broken:
            self.diagnostics.error(
                "E107", f"the study has no {kind}", self.study.name.span, "in this study", help=f"add `{WANTED[kind]}`"
            )

    def _section(self, steps: Steps, kind: str, around: Around) -> Later[tuple[Step, ...]]:
        sections = self._sections(kind)
        for other in sections[1:]:
            self._one(kind)(other)
        if not sections and kind == "steps":
            self._missing("steps")
        return steps.block(sections[0].block.statements, around) if sections else tuple

    def _rules(self, resolver: Resolver, kind: str, place: Place) -> list[tuple[tree.Rule, Rule]]:
        found: list[tuple[tree.Rule, Rule]] = []
        for node in self._all(tree.Rule):
            if node.kind != kind:
                continue
            expression = resolver.condition(node.expression, place)
            if expression is not None:
                span = node.expression.span
                text = _LAYOUT.sub(lambda found: found[1] or " ", self.texts[span.file][span.start : span.end])
                because = node.because.value if node.because else None
                found.append((node, Rule(expression=expression, text=text, because=because)))
        return found

    def _goals(self, resolver: Resolver) -> list[tuple[tree.Path, Objective]]:
        found: list[tuple[tree.Path, Objective]] = []
        for node in self._all(tree.Goal):
            for path in node.metrics:
                typed = resolver.expression(path, Place("a goal", metrics=True))
                if typed is None:
                    self.scope.unknown.add("a goal")
                    continue
                if getattr(typed.expression, "kind", "") != "metric" or getattr(typed.expression, "baseline", False):
                    self.diagnostics.error(
                        "E206",
                        f"`{path.text}` is not a metric of the trial",
                        path.span,
                        "nothing to improve",
                        help="a goal names a metric: `minimize latency`",
                    )
                    self.scope.unknown.add("a goal")
                    continue
                found.append((path, Objective(metric=typed.expression, direction=node.direction)))  # type: ignore[arg-type]
        return found
