"""A study that was read and checked → its plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from optlang.analysis.declarations import Declarations
from optlang.analysis.lower.study import ReadStudy
from optlang.analysis.modules.names import Declared
from optlang.plan.model import BASELINE_RUNTIME, RECOVERY, Plan, Runtime, Technique

T = TypeVar("T", Technique, Runtime)


def plan_of(study: ReadStudy, edition: int, declarations: Declarations) -> Plan | None:
    """The plan; None where an error stands in its way, or a part is missing."""
    if study.model is None or study.data is None or study.search is None or study.measure is None:
        return None
    if not study.targets or study.diagnostics.failed:
        return None
    library = study.knobs.names.scope.library

    def declared(name: str) -> Declared:
        module, _, short = name.partition(".")
        return library[module].declared[short]

    recovery, runtime = declarations.technique(declared(RECOVERY)), declarations.runtime(declared(BASELINE_RUNTIME))
    return Plan(
        edition=edition,
        study=study.node.name.text,
        title=study.node.title.value if study.node.title else "",
        inputs=study.inputs,
        metrics=tuple(study.metrics.values()),
        model=study.model,
        data=study.data,
        baseline=study.baseline,
        targets=study.targets,
        steps=study.steps,
        knobs=study.index.knobs,
        impossible=study.feasible.impossible if study.feasible is not None else (),
        forbids=tuple(rule for _, rule in study.forbids),
        requires=tuple(rule for _, rule in study.requires),
        objectives=tuple(objective for _, objective in study.objectives),
        search=study.search,
        measure=study.measure,
        techniques=_with(study.facts.techniques, recovery),
        runtimes=_with(study.facts.runtimes, runtime),
    )


def _with(used: Mapping[str, T], needed: T) -> tuple[T, ...]:
    """The declarations that the study uses, and one that every run needs whatever the study says, by their names."""
    found: Iterable[T] = {**used, needed.name: needed}.values()
    return tuple(sorted(found, key=lambda item: item.name))
