"""E4: conditions that never hold, and settings that are computed to what their parameters do not allow."""

from __future__ import annotations

from optlang.analysis.checks.bounds import Ranges, decided
from optlang.analysis.lower.study import ReadStudy
from optlang.diagnostics.model import Span
from optlang.plan.expressions import Expression
from optlang.plan.units import show
from optlang.space.combinations import Index, ever
from optlang.space.compatibility import label_of
from optlang.space.computed import MissingValue, MissingValueSearch, Use, uses


def conditions_hold_somewhere(study: ReadStudy) -> None:
    """W409: every `when` and every `forbid` is true of some point."""
    if study.diagnostics.failed:
        return
    space = Ranges(knobs=study.index.by_path)
    for condition in study.knobs.conditions:
        if _never(condition.expression, study.index, space):
            study.diagnostics.warn(
                "W409", "this condition is never true", condition.node.span, "what it guards never happens",
                help="compare with a value that the knob can have, or take it away",
            )
    for node, rule in study.forbids:
        if _never(rule.expression, study.index, space):
            study.diagnostics.warn(
                "W409", "this forbids nothing", node.expression.span, "never true",
                help="compare with a value that the knob can have, or take it away",
            )


def _never(expression: Expression, index: Index, space: Ranges) -> bool:
    """Whether no point makes a condition true; continuous knobs are asked for their bounds alone."""
    return decided(expression, space) is False or ever(expression, index) is False


_NEVER_COMPUTED = {
    "divides": "divide by what is never 0",
    "has": "calculate with what is there wherever this is: an absent knob has no number",
    "is": "change the formula, or what it is computed from",
}


def computed_settings_have_values(study: ReadStudy) -> None:
    """E410, W411: what is computed from knobs and rounds is, at the points that may run, a value of its parameter."""
    if study.diagnostics.failed or study.feasible is None:
        return
    params = {item.name: item.params for item in study.facts.techniques.values()}
    params |= {item.name: item.params for item in study.facts.runtimes.values()}
    looking = MissingValueSearch(study.index, study.feasible.impossible, [rule.expression for _, rule in study.forbids])
    reported: set[tuple[Span, str]] = set()
    for use in (*uses(study.baseline, (), params), *uses(study.steps, study.targets, params)):
        trouble = looking.trouble(use)
        if trouble is None:
            continue
        span = _span_of(study, use)
        # A pipeline's inner settings stand where the study applies it: one report for each of them.
        if (span, use.name) in reported:
            continue
        reported.add((span, use.name))
        where = _shown(study, trouble)
        report = study.diagnostics.error if trouble.never else study.diagnostics.warn
        report(
            "E410" if trouble.never else "W411",
            f"`{use.name}` {'never has an allowed value' if trouble.never else 'has no allowed value at some points'}",
            span, f"{f'with {where} ' if where else ''}it {trouble.reason}",
            help=_NEVER_COMPUTED[trouble.reason.split()[0]]
            if trouble.never
            else "the search draws no such point: rule them out with `forbid`, or compute it differently",
        )


def _span_of(study: ReadStudy, use: Use) -> Span:
    """Where a computed setting stands: its value, or the step in the study that it is a part of."""
    path = f"{use.path}.{use.name}"
    if path in study.knobs.set_at:
        return study.knobs.set_at[path]
    while path and path not in study.spans:
        path = path.rpartition(".")[0]
    return study.spans.get(path, study.node.name.span)


def _shown(study: ReadStudy, trouble: MissingValue) -> str:
    """The knobs and rounds that show it, in words."""
    knobs = study.index.by_path
    parts = [
        f"`{knobs[path].column} = {show(value, knobs[path].dimension)}`"
        if value is not None
        else f"`{knobs[path].column}` absent"
        for path, value in trouble.knobs
    ]
    parts += [f"round {number} of {count} of `{label_of(path)}`" for path, number, count in trouble.rounds]
    return ", ".join(parts)
