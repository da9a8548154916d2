"""A study's front as data: its members in words and figures, how the trials ended, and what came nearest."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optlang.plan.metrics import MEDIAN, validated
from optlang.plan.model import Plan
from optlang.report.member import Figure, TrialSummary
from optlang.report.recommended import recommended
from optlang.report.selection import Chosen, choose
from optlang.report.trial_text import dependence, left_whole, recipe, uncounted
from optlang.store.projection import INTERRUPTED
from optlang.store.reader import Reader


@dataclass(frozen=True, slots=True)
class Missed:
    """A requirement that a trial did not meet: its text, how far off it was (a share of the bound, to compare trials
    by), and its description for users: value, limit and difference in the metric's unit."""

    text: str
    by: float
    said: str


@dataclass(frozen=True, slots=True)
class Near:
    """A trial that met not all requirements."""

    member: TrialSummary
    missed: tuple[Missed, ...]


@dataclass(frozen=True, slots=True)
class Front:
    """A study's newest run: its front, or what came nearest where nothing met the requirements.

    `metrics` are those to show, in order, `named` those that goals and requirements name. `states` is how many of the
    searched trials ended how; the others are `alone` (on the ladder, `alone_failed` of them failed) and `uncounted`
    (searched, and interrupted or still running). `best` is the member that trades best: the largest gain for at most a
    point of quality (1 % of what is no ratio), None where there is none. `ties` are, by member, the trials within noise
    of it in every goal, which it stands for. `why` says in a sentence why `best` is.
    """

    study: str
    run: str
    title: str
    metrics: tuple[str, ...]
    named: tuple[str, ...]
    requires: tuple[str, ...]
    members: tuple[TrialSummary, ...]
    nearest: tuple[Near, ...]
    states: Mapping[str, int]
    alone: int
    alone_failed: int
    uncounted: Mapping[str, int]
    best: int | None
    ties: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    why: str = ""


def load_front(reader: Reader, study: str | None = None, *, nearest: int = 5) -> Front:
    """The front of a study (its name, its file's path, or the one that ran last)."""
    chosen = choose(reader, study)
    plan = reader.plan(chosen.run)
    rows = reader.query("SELECT trial, tie_of FROM front WHERE run = ? ORDER BY trial", [chosen.run]).rows
    members = [trial for trial, tie_of in rows if tie_of is None]
    near = reader.query(
        "SELECT trial, violations, trial IN (SELECT trial FROM measurements WHERE run = ?) FROM trials "
        "WHERE run = ? AND state = 'infeasible' AND in_space AND trial <> 0", [chosen.run, chosen.run],
    ).rows
    missed = {trial: _missed(violations) for trial, violations, _ in near}
    # One that ended before its training comes last: it has no figures, and nothing to export.
    early = {trial for trial, _, measured in near if not measured}
    order = sorted(
        missed, key=lambda trial: (trial in early, sum(max(item.by, 0) for item in missed[trial]), trial)
    )[:nearest]
    shown = [trial for trial in members if trial != 0]
    wanted = members if shown else members + order
    found = {member.trial: member for member in load_members(reader, chosen, plan, wanted)}
    members.sort(key=lambda trial: _rank(plan, found[trial]))
    counts = _counts(reader, chosen)
    drawn = {state: count for (ladder, state), count in counts.items() if not ladder}
    alone = {state: count for (ladder, state), count in counts.items() if ladder and state not in _UNCOUNTED}
    best, why = recommended(plan, _judged(plan), [found[trial] for trial in shown])
    return Front(
        chosen.study, chosen.run, chosen.title, _metrics(plan, found.values()), tuple(named_metrics(plan)),
        tuple(rule.text for rule in plan.requires), tuple(found[trial] for trial in members),
        () if shown else tuple(Near(found[trial], missed[trial]) for trial in order),
        {state: count for state, count in drawn.items() if state not in _UNCOUNTED}, sum(alone.values()),
        alone.get("failed", 0), {state: count for state, count in drawn.items() if state in _UNCOUNTED},
        best,
        {member: those for member in members if (those := tuple(trial for trial, other in rows if other == member))},
        why,
    )


_UNCOUNTED = (INTERRUPTED, "running")


def _counts(reader: Reader, chosen: Chosen) -> dict[tuple[bool, str], int]:
    """How many trials are of the ladder (True) or searched, and ended how; an interrupted one is no failed one."""
    rows = reader.query(
        "SELECT origin = 'ladder', if(state = 'failed' AND reason = ?, ?, state) AS how, count(*) FROM trials "
        "WHERE run = ? AND origin <> 'baseline' GROUP BY ALL ORDER BY ALL",
        [INTERRUPTED, INTERRUPTED, chosen.run],
    ).rows
    return {(ladder, state): count for ladder, state, count in rows}


def load_members(reader: Reader, chosen: Chosen, plan: Plan, trials: Sequence[int]) -> list[TrialSummary]:
    """Trials of a study's newest run, in words and figures, in the order asked for."""
    rows = reader.query("SELECT * FROM results WHERE run = ?", [chosen.run]).dicts()
    results = {row["trial"]: row for row in rows if row["trial"] in set(trials)}
    kept = {
        row["trial"]: row
        for row in reader.query("SELECT trial, runtime, point, notes FROM trials WHERE run = ?", [chosen.run]).dicts()
    }
    steps: dict[int, list[dict[str, Any]]] = {}
    for row in reader.query(
        "SELECT trial, path, technique, settings FROM steps WHERE run = ? ORDER BY trial, position", [chosen.run]
    ).dicts():
        steps.setdefault(row["trial"], []).append(row | {"settings": json.loads(row["settings"] or "{}")})
    figures: dict[int, list[dict[str, Any]]] = {}
    for row in reader.query(
        "SELECT trial, target, metric, "
        "arg_max({'value': value, 'unit': unit, 'low': low, 'high': high, 'ratio': ratio, 'ratio_low': ratio_low, "
        "'ratio_high': ratio_high, 'baseline': baseline}, pass) AS got FROM measurements WHERE run = ? "
        "GROUP BY trial, target, metric ORDER BY trial, metric",
        [chosen.run],
    ).dicts():
        figures.setdefault(row["trial"], []).append(row["got"] | {"metric": row["metric"], "target": row["target"]})
    return [
        TrialSummary(
            trial,
            results[trial]["origin"],
            recipe(
                plan, trial, json.loads(kept[trial]["point"] or "{}"), kept[trial]["runtime"], steps.get(trial, ())
            ),
            {item.metric: item for item in _figures(plan, results[trial], figures.get(trial, ()))},
            dependence(notes := json.loads(kept[trial]["notes"] or "{}")),
            uncounted(notes),
            left_whole(notes),
        )
        for trial in trials
    ]


def _figures(plan: Plan, row: Mapping[str, Any], measured: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """A figure a metric, the worst of several targets where there are several; then each target has its own."""
    found = []
    metrics = {metric.name: metric for metric in plan.metrics}
    for target, metric in [(where, name) for where in (None, *_several(plan)) for name in _names(measured, where)]:
        name = metric if target is None else f"{target}.{metric}"
        column = name.replace(".", "_")
        value = _number(row.get(column))
        if value is None:
            continue
        # The view took the worst of several targets: the interval is that one's.
        there = [item for item in measured if item["metric"] == metric and target in (None, item["target"])]
        item = compared = min(there, key=lambda item: abs((item["value"] or 0) - value))
        times, lost = _number(row.get(f"{column}_x")), _number(row.get(f"{column}_lost"))
        if lost is not None:
            times, lost = metrics[validated(metric)].against(value, value + lost, item["ratio"])
        elif times is not None:
            # The worst ratio may be another target's than the worst value: it has that one's interval.
            side_by_side = [other for other in there if other["ratio"] is not None]
            compared = min(side_by_side, key=lambda other: (other["ratio"], other is not item), default=item)
        low, high = (compared["ratio_low"], compared["ratio_high"]) if compared["ratio"] is not None else (None, None)
        figure = Figure(name, value, item["unit"] or "", item["low"], item["high"], times, None, None, lost)
        if compared is item:
            figure = replace(figure, baseline=item["baseline"])
        if times is not None:
            figure = replace(figure, times_low=low, times_high=high)
        elif lost is not None and low is not None and high is not None:
            # The ratio says how many times better: here trial ÷ baseline.
            figure = replace(figure, lost_low=(value + lost) * (1 - high), lost_high=(value + lost) * (1 - low))
        found.append(figure)
    return found


def _names(measured: Sequence[Mapping[str, Any]], target: str | None) -> list[str]:
    return list(dict.fromkeys(item["metric"] for item in measured if target in (None, item["target"])))


def _several(plan: Plan) -> list[str]:
    """The names of a study's targets; none where it has one, which figures do not name."""
    return [target.name for target in plan.targets] if len(plan.targets) > 1 else []


def _judged(plan: Plan) -> list[str]:
    """The metrics that say how good the answers are, and those of each target."""
    names = plan.judging
    return [*names, *(f"{target.name}.{name}" for target in plan.targets for name in names)]


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _rank(plan: Plan, member: TrialSummary) -> tuple[bool, float, int]:
    """The baseline first, then by the first objective, best first."""
    objective = next(iter(plan.objectives), None)
    figure = member.figures.get(objective.metric.name) if objective is not None else None
    if objective is None or figure is None:
        return (member.trial != 0, math.inf, member.trial)
    if figure.times is not None and objective.metric.metric.startswith("latency."):
        return (member.trial != 0, -figure.times, member.trial)
    return (member.trial != 0, figure.value if objective.direction == "minimize" else -figure.value, member.trial)


def _missed(violations: str | None) -> tuple[Missed, ...]:
    return tuple(
        # What an earlier version stored has no sentence.
        Missed(item["text"], float(item["by"] or 0), item.get("said") or f"{item['text']} is missed")
        for item in json.loads(violations or "[]")
    )


def named_metrics(plan: Plan) -> list[str]:
    """The metrics that the study's goals and requirements name, each with its target where it names one."""
    return list(dict.fromkeys(ref.name for ref in plan.metric_refs()))


def columns(plan: Plan, there: Collection[str]) -> tuple[str, ...]:
    """Which of the metrics that are there to show: size, latency, what the task is judged by, then whatever else the
    study asks for in a goal or a requirement."""
    task = _judged(plan)
    wanted = named_metrics(plan)
    quality = [name for name in (*(name for name in wanted if name in task), *task) if name in there][:1]
    if "accuracy" in there:
        quality = ["accuracy"]
    several = _several(plan)
    # The worst ratio of several targets may be another's than the worst time: each has a column, which agree.
    wanted = [
        name for metric in wanted
        for name in ([f"{target}.{metric}" for target in several] if metric.startswith("latency.") else [metric])
    ] if several else wanted
    latency = [name for name in wanted if "latency" in name.split(".")] if several else []
    times = latency or [MEDIAN, *(name for name in wanted if name.startswith("latency."))]
    shown = ["size", *times, *quality, *wanted]
    return tuple(name for name in dict.fromkeys(shown) if name in there)


def _metrics(plan: Plan, members: Iterable[TrialSummary]) -> tuple[str, ...]:
    """The columns of a table of members: those of `columns`, and the p95 next to a latency of the only target."""
    there = {name for member in members for name in member.figures}
    names = list(columns(plan, there))
    if MEDIAN in names and "latency.p95" in there and "latency.p95" not in names:
        names.insert(names.index(MEDIAN) + 1, "latency.p95")
    return tuple(names)
