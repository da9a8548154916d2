"""A study's tree → what it says: its members are read in the order in which they need one another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from optlang.analysis.declarations import Declarations
from optlang.analysis.definitions import Definition, DefinitionKind
from optlang.analysis.expressions import Expressions
from optlang.analysis.knobs import Around, Knobs, Later
from optlang.analysis.lower.calls import CallReader
from optlang.analysis.lower.factories import Factories
from optlang.analysis.lower.inputs import Inputs
from optlang.analysis.lower.search_settings import measure_of, search_of
from optlang.analysis.lower.steps import Steps
from optlang.analysis.lower.targets import Targets
from optlang.analysis.metrics import metrics_of
from optlang.analysis.modules.names import duplicate, second
from optlang.analysis.symbols import Allowed, Namespace
from optlang.analysis.typed import text_of
from optlang.analysis.values import Values
from optlang.diagnostics.model import Diagnostics, Span
from optlang.plan.expressions import MetricRef, references
from optlang.plan.model import FactoryUse, Input, Location, Measure, Metric, Objective, Rule, Search, Step
from optlang.plan.model import Target as PlanTarget
from optlang.space.combinations import Index
from optlang.space.compatibility import SPARSITY, DeclaredFacts
from optlang.space.feasibility import Feasibility, everywhere
from optlang.syntax import tree

# What may stand between two words of a rule, and the texts that such a thing may be a part of.
_LAYOUT = re.compile(r'("(?:\\.|[^"\\\n])*")|(?:#[^\n]*|\s+)+')

M = TypeVar("M")

WANTED = {
    "model": "model NAME = zoo.digits_cnn()",
    "data": "data NAME = zoo.digits()",
    "steps": "steps { maybe static }",
    "target": "target NAME { runtime = onnxruntime }",
}


@dataclass(slots=True, eq=False)
class ReadStudy:
    """A study that was read, with where its parts stand.

    What could not be read is None, or missing from a tuple: that is among the diagnostics. `partial` says that parts of
    the text are not in the tree: nothing is then called missing. `feasible` is None unless all was read.
    """

    node: tree.Study
    knobs: Knobs
    facts: DeclaredFacts
    index: Index
    inputs: tuple[Input, ...]
    model: FactoryUse | None
    data: FactoryUse | None
    baseline: tuple[Step, ...]
    targets: tuple[PlanTarget, ...]
    steps: tuple[Step, ...]
    forbids: list[tuple[tree.Rule, Rule]]
    requires: list[tuple[tree.Rule, Rule]]
    objectives: list[tuple[tree.Path, Objective]]
    search: Search | None
    measure: Measure | None
    partial: bool
    feasible: Feasibility | None = None

    @property
    def diagnostics(self) -> Diagnostics:
        """Collects the problems."""
        return self.knobs.diagnostics

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics that can be named."""
        return self.knobs.names.metrics

    @property
    def spans(self) -> Mapping[str, Span]:
        """Where messages point, by the paths of steps, branches and runtimes."""
        return self.knobs.symbols.spans


def _asks_for(
    metric: str, requires: Iterable[tuple[tree.Rule, Rule]], goals: Iterable[tuple[tree.Path, Objective]]
) -> bool:
    """Whether a goal or a requirement is on this metric."""
    named = (ref for _, rule in requires for ref in references(rule.expression))
    return any(goal.metric.metric == metric for _, goal in goals) or any(
        isinstance(ref, MetricRef) and ref.metric == metric for ref in named
    )


@dataclass(slots=True, eq=False)
class StudyReader:
    """Reads one study: its members in the order in which they need one another."""

    study: tree.Study
    names: Namespace
    declarations: Declarations
    texts: dict[str, str]
    folder: Path
    partial: bool
    locate: Callable[[Span], Location]
    overrides: Mapping[str, str]

    @property
    def diagnostics(self) -> Diagnostics:
        """Collects the problems."""
        return self.names.diagnostics

    def read(self) -> ReadStudy:
        """The study, as far as it can be read."""
        names = self.names
        values = Values(Expressions(names))
        knobs = Knobs(values, self.locate)
        self._claim_names()
        # Of two with one name the first counts.
        names.lets = {item.name.text: item for item in reversed(self._all(tree.Let))}
        inputs = Inputs(values, self.texts, self.overrides).read(self._all(tree.Input))
        steps = Steps(knobs, self.declarations, self.folder)
        targets = Targets(knobs, self.declarations)
        own = {node.name.text: text_of(getattr(node.value, "path", node.value)) for node in self._all(tree.Make)}
        factories = Factories(CallReader(knobs, self.declarations, self.folder), own)
        knobs.models = factories.setting
        nodes = self._all(tree.Metric)
        names.metrics = metrics_of(names.scope, nodes, names.symbols, self.diagnostics, factories.metric)

        made_targets = self._targets(targets)
        names.targets = tuple(node.name.text for node, _ in made_targets)
        model, data = (self._factory(factories, kind) for kind in ("model", "data"))
        baseline = self._section(steps, "baseline", Around(fixed="the baseline"))
        searched = self._section(steps, "steps", Around())
        # Now all knobs are known: what was postponed can be read.
        built_targets = tuple(target for target in (make() for _, make in made_targets) if target is not None)
        built_baseline, built_steps = baseline(), searched()
        index = Index(knobs.finish(names.metrics, names.targets))
        forbids = self._rules(values, "forbid", Allowed("`forbid`", knobs=True))
        requires = self._rules(values, "require", Allowed("`require`", metrics=True))
        objectives = self._goals(values)
        study = ReadStudy(
            node=self.study,
            knobs=knobs,
            facts=DeclaredFacts(steps.used, targets.used, _asks_for(SPARSITY, requires, objectives)),
            index=index,
            inputs=inputs,
            model=model,
            data=data,
            baseline=built_baseline,
            targets=built_targets,
            steps=built_steps,
            forbids=forbids,
            requires=requires,
            objectives=objectives,
            search=search_of(knobs, self._sections("search"), self._one("search")),
            measure=measure_of(knobs, self._sections("measure"), self._one("measure")),
            partial=self.partial,
        )
        knobs.read_rest()
        if built_targets and not self.diagnostics.failed:
            study.feasible = everywhere(built_steps, built_targets, study.index, study.facts)
        return study

    # ---- members

    def _all(self, kind: type[M]) -> list[M]:
        return [item for item in self.study.members if isinstance(item, kind)]

    def _sections(self, kind: str) -> list[tree.Section]:
        return [item for item in self._all(tree.Section) if item.kind == kind]

    def _one(self, kind: str) -> Callable[[tree.Section], None]:
        def again(section: tree.Section) -> None:
            second(self.diagnostics, kind, section.keyword, self._sections(kind)[0].keyword)

        return again

    def _claim_names(self) -> None:
        symbols = self.names.symbols
        for item in self.study.members:
            if not isinstance(item, tree.Input | tree.Let):
                continue
            name = item.name
            kind: DefinitionKind = "input" if isinstance(item, tree.Input) else "let"
            definition = symbols.table.define(Definition(kind, name.text, name.span))
            first = symbols.names.setdefault(name.text, definition)
            if first is not definition:
                duplicate(self.diagnostics, name.text, name.span, first.span)
                symbols.nameless += 1

    def _targets(self, targets: Targets) -> list[tuple[tree.Target, Later[PlanTarget | None]]]:
        nodes = self._all(tree.Target)
        if not nodes:
            self._missing("target")
        first: dict[str, tree.Target] = {}
        for node in nodes:
            name = node.name
            if name.text in first:
                duplicate(self.diagnostics, name.text, name.span, first[name.text].name.span)
                self.names.symbols.nameless += 1
                continue
            first[name.text] = node
            if len(nodes) > 1 and name.text in {"baseline", *(metric.split(".")[0] for metric in self.names.metrics)}:
                self.diagnostics.error(
                    "E202", f"the target `{name.text}` has the name of a metric", name.span,
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
        if not self.partial:
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

    def _rules(self, values: Values, kind: str, allowed: Allowed) -> list[tuple[tree.Rule, Rule]]:
        found: list[tuple[tree.Rule, Rule]] = []
        for node in self._all(tree.Rule):
            if node.kind != kind:
                continue
            expression = values.expressions.condition(node.expression, allowed)
            if expression is not None:
                span = node.expression.span
                text = _LAYOUT.sub(lambda found: found[1] or " ", self.texts[span.file][span.start : span.end])
                because = node.because.value if node.because else None
                found.append((node, Rule(expression=expression, text=text, because=because)))
        return found

    def _goals(self, values: Values) -> list[tuple[tree.Path, Objective]]:
        found: list[tuple[tree.Path, Objective]] = []
        for node in self._all(tree.Goal):
            for path in node.metrics:
                typed = values.expressions.expression(path, Allowed("a goal", metrics=True))
                if typed is None:
                    continue
                if getattr(typed.expression, "kind", "") != "metric" or getattr(typed.expression, "baseline", False):
                    self.diagnostics.error(
                        "E206", f"`{path.text}` is not a metric of the trial", path.span, "nothing to improve",
                        help="a goal names a metric: `minimize latency`",
                    )
                    continue
                found.append((path, Objective(metric=typed.expression, direction=node.direction)))  # type: ignore[arg-type]
        return found
