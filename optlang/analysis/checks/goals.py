"""E6: objectives, what samplers can do with them, and whether there is anything to search."""

from __future__ import annotations

from math import prod

from optlang.analysis.lower.search_settings import GP_OBJECTIVES, GRID_POINTS, halving_in
from optlang.analysis.lower.study import ReadStudy
from optlang.analysis.modules.names import duplicate
from optlang.diagnostics.model import Label
from optlang.plan.domains import size
from optlang.plan.expressions import Environment, MetricRef, holds
from optlang.plan.model import Objective, Plan, Rule
from optlang.space.combinations import LIMIT, TooManyError, assignments, most, named, options, ruled_out
from optlang.space.cost import trial_cost
from optlang.syntax import tree


def has_objective(study: ReadStudy) -> None:
    """E601: something must be improved."""
    if not study.partial and not any(isinstance(item, tree.Goal) for item in study.node.members):
        study.diagnostics.error(
            "E601", "the study has no objective", study.node.name.span, "in this study",
            help="say what is to become better: `minimize latency, size` or `maximize accuracy`",
        )


def goals_agree(study: ReadStudy) -> None:
    """E603 and E202: no metric in two directions, against its own, or twice."""
    first: dict[MetricRef, tuple[tree.Path, Objective]] = {}
    for path, objective in study.objectives:
        metric = objective.metric
        better = study.metrics[metric.metric].direction
        if metric in first and first[metric][1].direction != objective.direction:
            study.diagnostics.error(
                "E603", f"`{path.text}` cannot be both minimized and maximized", path.span,
                f"{objective.direction} here",
                labels=(Label(first[metric][0].span, f"{first[metric][1].direction} here"),),
                help="take one of them away",
            )
        elif metric in first:
            duplicate(study.diagnostics, path.text, path.span, first[metric][0].span, "take one of them away")
        elif better != objective.direction:
            study.diagnostics.error(
                "E603", f"`{path.text}` is better when it is {'more' if better == 'maximize' else 'less'}", path.span,
                f"{objective.direction} here", help=f"write `{better} {path.text}`",
            )
        first.setdefault(metric, (path, objective))


def few_objectives(study: ReadStudy) -> None:
    """E605: a sampler takes six objectives at most."""
    if len(study.objectives) > 6:
        study.diagnostics.error(
            "E605", f"{len(study.objectives)} objectives, and a sampler takes six at most", study.objectives[6][0].span,
            "the seventh", help="turn some of them into requirements: `require size <= 4MB`",
        )


def few_for_processes(study: ReadStudy) -> None:
    """E605: the hypervolume that `gp` weighs is divided into boxes, whose number explodes with the objectives."""
    written = _written(study, "sampler")
    if written is None or study.search is None or study.search.sampler.name != "gp":
        return
    if GP_OBJECTIVES < len(study.objectives) <= 6:
        study.diagnostics.error(
            "E605", f"`gp` takes {GP_OBJECTIVES} objectives at most", written.span,
            "for this many its draws cost more than trials",
            labels=(Label(study.objectives[GP_OBJECTIVES][0].span, "one more than that"),),
            help="take `tpe` or `nsga3`, or turn objectives into requirements: `require size <= 4MB`",
        )


def grid_ends(study: ReadStudy) -> None:
    """E605: a grid has finite knobs only, and not more points than can ever be tried."""
    search = study.search
    written = _written(study, "sampler")
    if search is None or written is None or search.sampler.name != "grid" or study.diagnostics.failed:
        return
    endless = next((knob for knob in study.index.knobs if size(knob.domain) is None), None)
    if endless is not None:
        span = next(knob.span for knob in study.knobs.symbols.knobs if knob.path == endless.path)
        study.diagnostics.error(
            "E605", f"a grid has no end where a knob is continuous: `{endless.column}`", written.span,
            "all points are to be tried", labels=(Label(span, "it has no last value"),),
            help="list its values or give it a step: `in [10%, 25%, 50%]`, `in 10% .. 50% step 10%`",
        )
        return
    impossible = study.feasible.impossible if study.feasible is not None else ()
    points = most(study.index, impossible, [rule.expression for _, rule in study.forbids])
    counted = points if points is not None else prod(
        (size(knob.domain) or 1) + (knob.condition is not None) for knob in study.index.knobs
    )
    if counted > GRID_POINTS:
        study.diagnostics.error(
            "E605", f"a grid of {'up to ' if points is None else ''}{counted:,} points is never tried whole",
            written.span, f"{GRID_POINTS:,} points at most",
            help="take another sampler (`tpe`, or `qmc` to spread trials evenly), or wider steps and fewer knobs",
        )


def something_left(study: ReadStudy) -> None:
    """E604: forbids, conditions on branches and facts leave at least one point."""
    if study.feasible is None or study.feasible.never:
        return
    partly = [knob for knob in study.index.knobs if knob.only]
    if not study.forbids and not partly:
        return
    impossible = study.feasible.impossible
    wanted = {path for item in impossible for path in item.values} | {knob.path for knob in partly}
    usable: list[tuple[tree.Rule, Rule]] = []
    for node, rule in study.forbids:
        knobs = study.index.closed(named(rule.expression))
        if all(options(knob) is not None for knob in knobs):
            usable.append((node, rule))
            wanted |= named(rule.expression)
    try:
        for count, values in enumerate(assignments(study.index.closed(wanted))):
            environment = Environment(knob=values.get)
            forbidden = any(holds(rule.expression, environment) for _, rule in usable)
            if count >= LIMIT or not (forbidden or ruled_out(values, impossible)):
                return
    except TooManyError:
        return
    sometimes = "its branches are not always there"
    choices = {knob.path for knob in partly}
    labels = [Label(node.expression.span, "forbidden too") for node, _ in usable]
    labels += [Label(item.span, sometimes) for item in study.knobs.symbols.knobs if item.path in choices]
    study.diagnostics.error(
        "E604", "nothing is left to try", labels[0].span,
        "with what is forbidden and what cannot go together, no point remains" if usable else sometimes,
        labels=tuple(labels[1:]),
        help="forbid less; `optlang plan` lists what cannot go together"
        if usable
        else "give the choice a branch that is always there: `none`",
    )


def trials_pause(study: ReadStudy, plan: Plan) -> None:
    """W609: successive halving has trainings that are longer than its first pause, and a metric to compare them by."""
    sections = [item for item in study.node.members if isinstance(item, tree.Section) and item.kind == "search"]
    halving = plan.search.halving
    written = halving_in(sections[0]) if sections else None
    if halving is None or written is None:
        return
    most = trial_cost(plan, plan.steps).epochs.high
    if not plan.judged:
        said, advice = (
            "no goal and no requirement says how good answers are",
            "add one, say `maximize accuracy` (`maximize agreement` where the data have no labels), or take `halving` "
            "away",
        )
    elif most == 0:
        said, advice = "no step trains", "add a training, say `finetune { epochs = 9 }`, or take `halving` away"
    elif most <= halving.first:
        epochs = f"{most:.0f} epoch{'s' if most != 1 else ''}"
        said, advice = (
            f"a trial trains {epochs} at most, and pauses first after {halving.first}",
            "train for more epochs, or take `halving` away" if most == 1 else "give it a smaller `first`",
        )
    else:
        return
    study.diagnostics.warn("W609", "no trial ever pauses", written.span, said, help=advice)


def enough_points(study: ReadStudy) -> None:
    """W606: no more trials are asked for than the space has points."""
    written = _written(study, "trials")
    if study.search is None or written is None or study.diagnostics.failed or study.feasible is None:
        return
    points = most(study.index, study.feasible.impossible) if study.feasible.exact else None
    trials = study.search.trials
    if points is not None and trials is not None and 0 < points < trials:
        some = f"{points} point{'s' if points != 1 else ''}"
        study.diagnostics.warn(
            "W606", f"{trials} trials, and the space has at most {some}", written.span,
            "more than there is to try", help=f"`trials = {points}` is enough for all of them",
        )


def _written(study: ReadStudy, name: str) -> tree.Fix | None:
    """Where the study says this of its search."""
    for member in study.node.members:
        if isinstance(member, tree.Section) and member.kind == "search":
            for statement in member.block.statements:
                if isinstance(statement, tree.Fix) and statement.name.text == name:
                    return statement
    return None
