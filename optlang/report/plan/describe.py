"""A plan in words, as data and as plain text: what is searched, what is ruled out, what a trial consists of.

Counts no points (the space does) and measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from optlang.analysis.lower.search_settings import HALVING, MEASURE, RAY, SAMPLERS, SEARCH
from optlang.plan.domains import show_domain
from optlang.plan.expressions import Value
from optlang.plan.intervals import Interval
from optlang.plan.model import Halving, Param, Plan, Rule
from optlang.plan.quantities import counted, in_seconds
from optlang.plan.units import show
from optlang.report.plan.words import KnobLine, StepLine, Words
from optlang.search.choose import Counted, chosen, screened
from optlang.search.halving import rungs
from optlang.space.cost import TrialCost, trial_cost
from optlang.space.trainings import Training


@dataclass(frozen=True, slots=True)
class LadderCost:
    """The trials that a run begins with, one technique alone in each: how many, how many of them are points of the
    space, what they train together, and how many points of the space are tried before the search begins."""

    trials: int = 0
    points: int = 0
    trainings: Sequence[Training] = ()
    tried: int = 0


@dataclass(frozen=True, slots=True)
class Description:
    """All that `optlang plan` says of a study."""

    study: str
    title: str
    inputs: tuple[tuple[str, str, str], ...]
    knobs: tuple[KnobLine, ...]
    baseline: tuple[StepLine, ...]
    pipeline: tuple[StepLine, ...]
    targets: tuple[StepLine, ...]
    points: int
    exact: bool
    continuous: tuple[str, ...]
    impossible: tuple[tuple[str, tuple[str, ...]], ...]
    forbids: tuple[str, ...]
    requires: tuple[str, ...]
    goals: tuple[str, ...]
    trial: tuple[str, ...]
    run: tuple[str, ...]
    search: tuple[str, ...]
    measure: tuple[str, ...]


def describe(plan: Plan, size: Counted, ladder: LadderCost) -> Description:
    """The plan in words; `size` is what its space was counted to be, `ladder` what a run begins with."""
    words = Words(plan)
    return Description(
        study=plan.study,
        title=plan.title,
        inputs=tuple(
            (
                item.name,
                show(item.value, item.dimension),
                show_domain(item.domain, item.dimension) if item.domain else "",
            )
            for item in plan.inputs
        ),
        knobs=tuple(words.knob(knob) for knob in plan.knobs),
        baseline=tuple(words.steps(plan.baseline, 0)),
        pipeline=tuple(words.steps(plan.steps, 0)),
        targets=tuple(line for target in plan.targets for line in words.target(target)),
        points=size.points,
        exact=size.exact,
        continuous=tuple(size.continuous),
        impossible=words.impossible(),
        forbids=tuple(_rule(rule) for rule in plan.forbids),
        requires=tuple(_rule(rule) for rule in plan.requires),
        goals=tuple(f"{item.direction} {words.metric(item.metric)}" for item in plan.objectives),
        trial=_trial(plan),
        run=_run(plan, ladder, size),
        search=_search(plan, size),
        measure=_changed(MEASURE, plan.measure.model_dump()),
    )


def _rule(rule: Rule) -> str:
    text = " ".join(rule.text.split())
    return f"{text}, because {rule.because}" if rule.because else text


def _trial(plan: Plan) -> tuple[str, ...]:
    made = trial_cost(plan, plan.steps)
    lines = [f"{_span(made.steps, 'technique')}, {_span(made.epochs, 'epoch')} of training"]
    on_each = "" if len(plan.targets) == 1 else f"on each of {len(plan.targets)} targets "
    rounds = counted(plan.measure.rounds, "round")
    lines.append(f"{on_each}one build, one measurement of {rounds} next to the baseline")
    lines.append("results of steps are cached: a trial that starts with the same steps as an earlier one reuses them")
    if plan.baseline:
        first: TrialCost = trial_cost(plan, plan.baseline)
        lines.append(f"before the first trial, once: the baseline, {_span(first.epochs, 'epoch')} of training")
    return tuple(lines)


def _run(plan: Plan, ladder: LadderCost, size: Counted) -> tuple[str, ...]:
    alone = f"{counted(ladder.trials, 'trial')} of one technique alone (fewer where a runtime cannot run here)"
    asked, most, timeout = plan.search.most, searched(plan, size, ladder), plan.search.timeout
    trials = "searched trials" if most is None else counted(most, "searched trial")
    if most != asked:
        trials = f"at most {trials}, one a point" if most else "no point is left to search"
    lines = [f"the baseline, {alone} and {trials}" if ladder.trials else f"the baseline, then {trials}"]
    if timeout is not None:
        lines.append(f"it ends after {in_seconds(timeout)}, the front measured again and scored, and can go on")
    if ladder.trials:
        lines.append(f"of one technique alone: {_points_of(ladder)}, {_trained(ladder.trainings)}")
    if screened(plan, size) and most != 0:
        lines.append(
            f"most searched trials are chosen among {plan.search.screening} points, by the gain and the time "
            "that are expected"
        )
    if plan.search.halving is not None and most != 0:
        lines += _halved(plan, plan.search.halving, most)
    return tuple(lines)


def _halved(plan: Plan, halving: Halving, trials: int | None) -> list[str]:
    """Where trials pause, and about how many of them go on from there; nothing where none pauses."""
    longest = trial_cost(plan, plan.steps).epochs.high
    # A training without an end pauses as long as it goes on.
    most = halving.first * halving.reduce ** 3 if longest == inf else int(longest)
    levels = rungs(halving, most)
    if not levels or not plan.judged:
        return []
    named = [f"{level:,}" for level in levels]
    after = _listed([*named[:3], "…"] if longest == inf or len(named) > 4 else named)
    lines = [
        f"a searched trial pauses after {after} {'epoch' if levels == [1] else 'epochs'} of training; of those that "
        f"were there one in {halving.reduce} goes on"
    ]
    if trials is not None and longest != inf:
        counts = [max(1, trials // halving.reduce ** place) for place in range(len(levels) + 1)]
        spent = sum(
            count * (end - begin) for count, begin, end in zip(counts, [0, *levels], [*levels, most], strict=True)
        )
        lines.append(
            f"of {trials:,} trials of {counted(most, 'epoch')} about "
            f"{_listed([f'{count:,}' for count in counts[1:]])} {'goes' if counts[1:] == [1] else 'go'} on from there: "
            f"{counted(spent, 'epoch')} in all, instead of {trials * most:,}"
        )
    return lines


def _listed(items: Sequence[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 and items[-1] != "…" else ", ".join(items)


def searched(plan: Plan, size: Counted, ladder: LadderCost) -> int | None:
    """How many searched trials a run has: what the study asks for, or as many as there are points; None: no end."""
    left, asked = max(size.points - ladder.tried, 0), plan.search.most
    fewer = size.exact and not size.continuous and (asked is None or left < asked)
    return left if fewer else asked


def _points_of(ladder: LadderCost) -> str:
    if ladder.points == ladder.trials:
        return "all are points of the space" if ladder.trials > 1 else "it is a point of the space"
    return f"{ladder.points or 'none'} {'is a point' if ladder.points == 1 else 'are points'} of the space"


def _trained(trainings: Sequence[Training]) -> str:
    """What the ladder trains; where the times of earlier trainings are known, this is the line to say them in."""
    if not trainings:
        return "no training"
    epochs = sum(item.epochs for item in trainings)
    return f"at most {counted(len(trainings), 'training')} of {counted(epochs, 'epoch')} in all"


def _span(span: Interval, noun: str) -> str:
    if span.high == inf:
        return f"{span.low:,.0f} or more {noun}s"
    if span.low == span.high:
        return counted(span.low, noun)
    return f"{span.low:,.0f} to {counted(span.high, noun)}"


def _search(plan: Plan, size: Counted) -> tuple[str, ...]:
    sampler, auto = plan.search.sampler, chosen(plan, size).said
    settings = _changed(SAMPLERS[sampler.name], sampler.settings)
    named = sampler.name + (f" {{ {'; '.join(settings)} }}" if settings else "")
    changed = _changed(SEARCH, plan.search.model_dump(include={param.name for param in SEARCH}))
    if ":" in plan.search.device:
        changed = tuple(f'device = "{plan.search.device}"' if line.startswith("device =") else line for line in changed)
    if not plan.search.screening:
        changed = tuple(line.replace("screening = 0", "screening = off") for line in changed)
    if plan.search.halving is not None:
        settings = _changed(HALVING, plan.search.halving.model_dump())
        changed = (*changed, "halving" + (f" {{ {'; '.join(settings)} }}" if settings else ""))
    if plan.search.ray is not None:
        settings = _changed(RAY, plan.search.ray.model_dump())
        changed = (*changed, "workers = ray" + (f" {{ {'; '.join(settings)} }}" if settings else ""))
    return (f"sampler = {named}" if auto is None else f"sampler = auto: {auto}", *changed)


def _changed(params: Iterable[Param], values: Mapping[str, Value]) -> tuple[str, ...]:
    """The settings that are not the declared defaults, as a study writes them."""
    return tuple(
        f"{param.name} = {show(values[param.name], param.dimension)}" for param in params
        if values[param.name] != param.default
    )


# ---- as text


def text(description: Description) -> str:
    """The description as plain text, made for a terminal of 100 columns."""
    lines = [f"study {description.study}" + (f": {description.title}" if description.title else ""), ""]
    if description.inputs:
        lines += _section("inputs", _table([
            (f"{name} = {value}", domain) for name, value, domain in description.inputs
        ]))
    knobs = [
        (item.column, item.domain, f"when {item.condition}" if item.condition else "") for item in description.knobs
    ]
    lines += _section(f"knobs ({len(knobs)})", _table(knobs) or ["none: there is one point"])
    if description.baseline:
        lines += _section("baseline, once", [_indented(item) for item in description.baseline])
    lines += _section("pipeline", [_indented(item) for item in description.pipeline] or ["nothing"])
    lines += _section("target", [_indented(item) for item in description.targets])
    lines += _section("space", _points(description))
    ruled = [line for reason, cells in description.impossible[:REASONS] for line in _reason(reason, cells)]
    if ruled:
        more = len(description.impossible) - REASONS
        ruled += [f"and {more:,} more reasons; `optlang plan --json` lists all"] if more > 0 else []
        lines += _section("cannot go together", ruled)
    for title, items in (
        ("forbidden", description.forbids), ("required", description.requires), ("goals", description.goals),
        ("a trial", description.trial), ("a run", description.run), ("search", description.search),
        ("measure", description.measure),
    ):
        if items:
            lines += _section(title, items)
    return "\n".join([*lines, REST])


REST = "All other settings are the declared defaults: `optlang explain NAME` shows them.\n"
"""What stands for the settings that are not listed."""


REASONS = 50
"""How many reasons why something cannot go together are written out."""


def _points(description: Description) -> list[str]:
    count = f"{'' if description.exact else 'at most '}{counted(description.points, 'point')}"
    if not description.continuous:
        return [count]
    knobs = " and ".join(description.continuous)
    verb = "is" if len(description.continuous) == 1 else "are"
    return [f"{count} of the finite knobs; {knobs} {verb} continuous"]


def _reason(reason: str, cells: tuple[str, ...], limit: int = 6) -> list[str]:
    more = [f"  and {len(cells) - limit} more"] if len(cells) > limit else []
    return [f"{reason}:"] + [f"  {cell}" for cell in cells[:limit]] + more


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return [title, *(f"  {line}" for line in lines), ""]


def _indented(line: StepLine) -> str:
    return "  " * line.depth + line.text


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
