"""A study that was read and checked → its plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from optlang.analysis.declarations import Declarations
from optlang.analysis.lower.study import ReadStudy
from optlang.plan.model import BASELINE_RUNTIME, Plan, Runtime, Technique

T = TypeVar("T", Technique, Runtime)


def plan_of(study: ReadStudy, edition: int, declarations: Declarations) -> Plan | None:
    """The plan; None where there is an error, or a part is missing."""
    if study.model is None or study.data is None or study.search is None or study.measure is None:
        return None
    if not study.targets or study.diagnostics.failed:
        return None
    module, _, short = BASELINE_RUNTIME.partition(".")
    runtime = declarations.runtime(study.knobs.names.scope.library[module].declared[short])
    techniques = study.facts.techniques
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
        techniques=_sorted({**declarations.recoveries(techniques.values()), **techniques}),
        runtimes=_sorted({**study.facts.runtimes, runtime.name: runtime}),
    )


def _sorted(declared: Mapping[str, T]) -> tuple[T, ...]:
    return tuple(declared[name] for name in sorted(declared))
