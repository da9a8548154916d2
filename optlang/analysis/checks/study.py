"""What must hold of a whole study: small independent checks, each of which adds what it finds to the diagnostics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

from optlang.analysis.checks import requirements
from optlang.analysis.checks.bounds import Space, decided
from optlang.analysis.conditions import worth
from optlang.analysis.knobs import Knobs
from optlang.analysis.lower.inputs import Inputs
from optlang.analysis.lower.search_settings import GP_OBJECTIVES, GRID_POINTS
from optlang.analysis.lower.steps import Steps
from optlang.analysis.lower.targets import Targets
from optlang.analysis.modules.names import duplicate
from optlang.diagnostics.model import Diagnostics, Label, Span
from optlang.plan.domains import contains, size
from optlang.plan.expressions import Const, Environment, Expression, KnobRef, MetricRef, holds, outcomes
from optlang.plan.model import (
    Models,
    Objective,
    Rule,
    Search,
    Setting,
    Step,
    Target,
    applies,
)
from optlang.plan.units import show
from optlang.space.combinations import LIMIT, Index, TooManyError, assignments, ever, most, named, options, ruled_out
from optlang.space.compatibility import label_of
from optlang.space.computed import MissingValue, MissingValueSearch, Use, uses
from optlang.space.feasibility import Feasibility
from optlang.syntax import tree


@dataclass(slots=True, eq=False)
class Draft:
    """A study that was read, with where its parts stand. `complete` says that reading it found no error."""

    study: tree.Study
    knobs: Knobs
    steps: Steps
    targets: Targets
    index: Index
    built_steps: tuple[Step, ...]
    built_targets: tuple[Target, ...]
    built_baseline: tuple[Step, ...]
    forbids: list[tuple[tree.Rule, Rule]]
    requires: list[tuple[tree.Rule, Rule]]
    objectives: list[tuple[tree.Path, Objective]]
    search: Search | None
    inputs: Inputs
    broken: bool
    complete: bool
    feasible: Feasibility | None = field(default=None)

    @property
    def diagnostics(self) -> Diagnostics:
        """Where problems go."""
        return self.knobs.diagnostics


def has_objective(draft: Draft) -> None:
    """E601: something must be improved."""
    if not draft.broken and not any(isinstance(item, tree.Goal) for item in draft.study.members):
        draft.diagnostics.error(
            "E601",
            "the study has no objective",
            draft.study.name.span,
            "in this study",
            help="say what is to become better: `minimize latency, size` or `maximize accuracy`",
        )


def goals_agree(draft: Draft) -> None:
    """E603 and E202: no metric in two directions, against its own, or twice."""
    first: dict[MetricRef, tuple[tree.Path, Objective]] = {}
    for path, objective in draft.objectives:
        metric = objective.metric
        better = draft.knobs.resolver.metrics[metric.metric].direction
        if metric in first and first[metric][1].direction != objective.direction:
            draft.diagnostics.error(
                "E603",
                f"`{path.text}` cannot be both minimized and maximized",
                path.span,
                f"{objective.direction} here",
                labels=(Label(first[metric][0].span, f"{first[metric][1].direction} here"),),
                help="take one of them away",
            )
        elif metric in first:
            duplicate(draft.diagnostics, path.text, path.span, first[metric][0].span, "take one of them away")
        elif better != objective.direction:
            draft.diagnostics.error(
                "E603",
                f"`{path.text}` is better when it is {'more' if better == 'maximize' else 'less'}",
                path.span,
                f"{objective.direction} here",
                help=f"write `{better} {path.text}`",
            )
        first.setdefault(metric, (path, objective))


def few_objectives(draft: Draft) -> None:
    """E605: a sampler takes six objectives at most."""
    if len(draft.objectives) > 6:
        draft.diagnostics.error(
            "E605",
            f"{len(draft.objectives)} objectives, and a sampler takes six at most",
            draft.objectives[6][0].span,
            "the seventh",
            help="turn some of them into requirements: `require size <= 4MB`",
        )


def few_for_processes(draft: Draft) -> None:
    """E605: the hypervolume that `gp` weighs is divided into boxes, whose number explodes with the objectives."""
    written = _written(draft, "sampler")
    if written is None or draft.search is None or draft.search.sampler.name != "gp":
        return
    if GP_OBJECTIVES < len(draft.objectives) <= 6:
        draft.diagnostics.error(
            "E605",
            f"`gp` takes {GP_OBJECTIVES} objectives at most",
            written.span,
            "for this many its draws cost more than trials",
            labels=(Label(draft.objectives[GP_OBJECTIVES][0].span, "one more than that"),),
            help="take `tpe` or `nsga3`, or turn objectives into requirements: `require size <= 4MB`",
        )


def grid_ends(draft: Draft) -> None:
    """E605: a grid has finite knobs only, and not more points than can ever be tried."""
    search = draft.search
    written = _written(draft, "sampler")
    if search is None or written is None or search.sampler.name != "grid" or draft.diagnostics.failed:
        return
    endless = next((knob for knob in draft.index.knobs if size(knob.domain) is None), None)
    if endless is not None:
        span = next(knob.span for knob in draft.knobs.resolver.knobs if knob.path == endless.path)
        draft.diagnostics.error(
            "E605",
            f"a grid has no end where a knob is continuous: `{endless.column}`",
            written.span,
            "all points are to be tried",
            labels=(Label(span, "it has no last value"),),
            help="list its values or give it a step: `in [10%, 25%, 50%]`, `in 10% .. 50% step 10%`",
        )
        return
    impossible = draft.feasible.impossible if draft.feasible is not None else ()
    points = most(draft.index, impossible, [rule.expression for _, rule in draft.forbids])
    counted = points if points is not None else prod(
        (size(knob.domain) or 1) + (knob.condition is not None) for knob in draft.index.knobs
    )
    if counted > GRID_POINTS:
        draft.diagnostics.error(
            "E605",
            f"a grid of {'up to ' if points is None else ''}{counted:,} points is never tried whole",
            written.span,
            f"{GRID_POINTS:,} points at most",
            help="take another sampler (`tpe`, or `qmc` to spread trials evenly), or wider steps and fewer knobs",
        )


def all_used(draft: Draft) -> None:
    """W208: every `let` and `input` of the study is used."""
    resolver = draft.knobs.resolver
    if draft.broken:
        return
    used = resolver.used | resolver.scope.used | resolver.scope.unknown
    for item in draft.study.members:
        if isinstance(item, tree.Let | tree.Input) and item.name.text not in used:
            word = "let" if isinstance(item, tree.Let) else "input"
            draft.diagnostics.warn(
                "W208",
                f"the {word} `{item.name.text}` is never used",
                item.name.span,
                "never used",
                help="take it away",
            )


def can_be_taken(draft: Draft) -> None:
    """E501, E502, E503, E504, E506, E508: every step and every runtime can be taken in some combination."""
    if draft.feasible is None or not draft.complete:
        return
    spans = {**draft.targets.spans, **draft.steps.spans}
    for conflict in draft.feasible.never:
        span = spans[conflict.path]
        other = spans.get(conflict.other) if conflict.other is not None else None
        draft.diagnostics.error(
            conflict.code,
            f"`{label_of(conflict.path)}` {(TURNED if conflict.turned else NEVER)[conflict.code]}",
            span,
            conflict.reason,
            labels=(Label(other, f"`{label_of(conflict.other or '')}`"),)
            if other is not None and other != span
            else (),
            help=WAY_OUT[conflict.code],
        )


NEVER = {
    "E501": "needs a GPU, and the target has none",
    "E502": "stands where it can never be",
    "E503": "is excluded by what always stands beside it",
    "E504": "is never available here",
    "E506": "comes after the model has its final form",
    "E508": "never gets a model that it can take",
}
TURNED = {
    **NEVER,
    "E506": "gives the model its final form before another step",
    "E508": "leaves a form that the step after it cannot take",
}
WAY_OUT = {
    "E501": "take it away, or measure on a target with a GPU (`device = cuda`)",
    "E502": "change the order of the two",
    "E503": "make them two branches of a choice: `NAME in { …; … }`",
    "E504": "choose among runtimes that can run it, or take it away",
    "E506": "the step that gives the model its final form comes last",
    "E508": "change the order of the two, or take one of them away",
}


def something_left(draft: Draft) -> None:
    """E604: forbids, conditions on branches and facts leave at least one point."""
    if draft.feasible is None or not draft.complete or draft.feasible.never:
        return
    partly = [knob for knob in draft.index.knobs if knob.only]
    if not draft.forbids and not partly:
        return
    impossible = draft.feasible.impossible
    wanted = {path for item in impossible for path in item.values} | {knob.path for knob in partly}
    usable: list[tuple[tree.Rule, Rule]] = []
    for node, rule in draft.forbids:
        knobs = draft.index.closed(named(rule.expression))
        if all(options(knob) is not None for knob in knobs):
            usable.append((node, rule))
            wanted |= named(rule.expression)
    try:
        for count, values in enumerate(assignments(draft.index.closed(wanted))):
            environment = Environment(knob=values.get)
            forbidden = any(holds(rule.expression, environment) for _, rule in usable)
            if count >= LIMIT or not (forbidden or ruled_out(values, impossible)):
                return
    except TooManyError:
        return
    sometimes = "its branches are not always there"
    choices = {knob.path for knob in partly}
    labels = [Label(node.expression.span, "forbidden too") for node, _ in usable]
    labels += [Label(item.span, sometimes) for item in draft.knobs.resolver.knobs if item.path in choices]
    draft.diagnostics.error(
        "E604",
        "nothing is left to try",
        labels[0].span,
        "with what is forbidden and what cannot go together, no point remains" if usable else sometimes,
        labels=tuple(labels[1:]),
        help="forbid less; `optlang plan` lists what cannot go together"
        if usable
        else "give the choice a branch that is always there: `none`",
    )


def conditions_hold_somewhere(draft: Draft) -> None:
    """W409: every `when` and every `forbid` is true of some point."""
    if draft.diagnostics.failed:
        return
    space = Space(knobs=draft.index.by_path)
    for condition in draft.knobs.conditions:
        if _never(condition.expression, draft.index, space):
            draft.diagnostics.warn(
                "W409",
                "this condition is never true",
                condition.node.span,
                "what it guards never happens",
                help="compare with a value that the knob can have, or take it away",
            )
    for node, rule in draft.forbids:
        if _never(rule.expression, draft.index, space):
            draft.diagnostics.warn(
                "W409",
                "this forbids nothing",
                node.expression.span,
                "never true",
                help="compare with a value that the knob can have, or take it away",
            )


def _never(expression: Expression, index: Index, space: Space) -> bool:
    """Whether no point makes a condition true; continuous knobs are asked for their bounds alone."""
    return decided(expression, space) is False or ever(expression, index) is False


def requirements_decide(draft: Draft) -> None:
    """E603, E607 and W608: a requirement can be met, can be missed, and goes with the others."""
    requirements.check(draft.knobs.resolver, draft.requires, draft.diagnostics)


def enough_points(draft: Draft) -> None:
    """W606: no more trials are asked for than the space has points."""
    written = _written(draft, "trials")
    if draft.search is None or written is None or draft.diagnostics.failed or draft.feasible is None:
        return
    points = most(draft.index, draft.feasible.impossible) if draft.feasible.exact else None
    if points is not None and 0 < points < draft.search.trials:
        some = f"{points} point{'s' if points != 1 else ''}"
        draft.diagnostics.warn(
            "W606",
            f"{draft.search.trials} trials, and the space has at most {some}",
            written.span,
            "more than there is to try",
            help=f"`trials = {points}` is enough for all of them",
        )


def _written(draft: Draft, name: str) -> tree.Fix | None:
    """Where the study says this of its search."""
    for member in draft.study.members:
        if isinstance(member, tree.Section) and member.kind == "search":
            for statement in member.block.statements:
                if isinstance(statement, tree.Fix) and statement.name.text == name:
                    return statement
    return None


def can_win(draft: Draft) -> None:
    """W509: float16 on a CPU is correct, and never a win.

    A technique makes it where its traits say so, or where a setting of it is, or may be, the word `float16`.
    """
    uses = [use for target in draft.built_targets for use in target.runtimes]
    if any(target.device != "cpu" for target in draft.built_targets):
        return
    for step in applies(draft.built_steps):
        # What a runtime makes of it itself is for that runtime's hardware, which may be another than this.
        if any(draft.targets.used[use.runtime].carries_out(step.technique) for use in uses):
            continue
        traits = draft.steps.used[step.technique].traits
        if "float16" in traits or any(_float16(setting, draft.index) for setting in step.settings.values()):
            draft.diagnostics.warn(
                "W509",
                f"`{label_of(step.path)}` wins no time here",
                draft.steps.spans[step.path],
                "float16 is slower than float32 on a CPU, and saves bytes only",
                help="use int8 there, or another target; bfloat16 wins only on processors that have it",
            )


def _float16(setting: Setting, index: Index) -> bool:
    """Whether the setting may come to float16."""
    if isinstance(setting, Models):
        return False
    for item in outcomes(worth(setting)):
        match item:
            case Const(value="float16"):
                return True
            case KnobRef(path=path) if path in index.by_path and contains(index.by_path[path].domain, "float16"):
                return True
    return False


def computed_settings_have_values(draft: Draft) -> None:
    """E410, W411: what is computed from knobs and rounds is, at the points that may run, a value of its parameter."""
    if draft.diagnostics.failed or draft.feasible is None:
        return
    params = {item.name: item.params for item in draft.steps.used.values()}
    params |= {item.name: item.params for item in draft.targets.used.values()}
    looking = MissingValueSearch(draft.index, draft.feasible.impossible, [rule.expression for _, rule in draft.forbids])
    told: set[tuple[Span, str]] = set()
    for use in (*uses(draft.built_baseline, (), params), *uses(draft.built_steps, draft.built_targets, params)):
        trouble = looking.trouble(use)
        if trouble is None:
            continue
        span = _place_of(draft, use)
        # A pipeline's inner settings stand where the study applies it: one report for each of them.
        if (span, use.name) in told:
            continue
        told.add((span, use.name))
        where = _shown(draft, trouble)
        report = draft.diagnostics.error if trouble.never else draft.diagnostics.warn
        report(
            "E410" if trouble.never else "W411",
            f"`{use.name}` {'never has an allowed value' if trouble.never else 'has no allowed value at some points'}",
            span,
            f"{f'with {where} ' if where else ''}it {trouble.reason}",
            help=NEVER_COMPUTED[trouble.reason.split()[0]]
            if trouble.never
            else "the search draws no such point: rule them out with `forbid`, or compute it in another way",
        )


NEVER_COMPUTED = {
    "divides": "divide by what is never 0",
    "has": "calculate with what is there wherever this is: an absent knob has no number",
    "is": "change the formula, or what it is computed from",
}


def _place_of(draft: Draft, use: Use) -> Span:
    """Where a computed setting stands: its value, or the step in the study that it is a part of."""
    path = f"{use.path}.{use.name}"
    if path in draft.knobs.values:
        return draft.knobs.values[path]
    spans = {**draft.targets.spans, **draft.steps.spans}
    while path and path not in spans:
        path = path.rpartition(".")[0]
    return spans.get(path, draft.study.name.span)


def _shown(draft: Draft, trouble: MissingValue) -> str:
    """The knobs and rounds that show it, in words."""
    knobs = draft.index.by_path
    parts = [
        f"`{knobs[path].column} = {show(value, knobs[path].dimension)}`"
        if value is not None
        else f"`{knobs[path].column}` absent"
        for path, value in trouble.knobs
    ]
    parts += [f"round {number} of {count} of `{label_of(path)}`" for path, number, count in trouble.rounds]
    return ", ".join(parts)


CHECKS: tuple[Callable[[Draft], None], ...] = (
    has_objective,
    goals_agree,
    few_objectives,
    few_for_processes,
    grid_ends,
    all_used,
    can_be_taken,
    something_left,
    conditions_hold_somewhere,
    requirements_decide,
    computed_settings_have_values,
    enough_points,
    can_win,
)
