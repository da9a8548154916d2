"""How long a run of a study will take, in words, by what trials of the same model and data took in an earlier run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from optlang.plan.model import Plan
from optlang.plan.quantities import counted, in_seconds
from optlang.run.forecast import Estimate, Forecast, PastStep, PastTrial
from optlang.search.samplers.neighbors import uniform
from optlang.space.recipe import Recipe, resolve
from optlang.space.space import Exhausted, Space
from optlang.store.plans import read_plan
from optlang.store.projection import INTERRUPTED
from optlang.store.reader import Reader, connect

_RUNS = """
SELECT r.run, r.study, r.plan FROM runs r JOIN sessions s ON s.run = r.run
WHERE EXISTS (FROM trials t WHERE t.run = r.run AND t.origin <> 'baseline' AND t.seconds IS NOT NULL)
GROUP BY r.run, r.study, r.plan ORDER BY (r.study <> ?), max(s.started) DESC
"""
_TRIALS = """
SELECT trial, origin, runtime, seconds, EXISTS (FROM measurements m WHERE m.run = t.run AND m.trial = t.trial)
FROM trials t WHERE run = ? AND seconds IS NOT NULL AND reason IS DISTINCT FROM ? ORDER BY trial
"""
_STEPS = "SELECT trial, technique, settings, cached, seconds FROM steps WHERE run = ? ORDER BY trial, position"
# From the last trial of a session to its end the front is measured again, and scored.
_END = """
SELECT epoch(s.finished) - epoch(max(t.finished)) FROM sessions s JOIN trials t ON t.session = s.session
WHERE s.run = ? AND s.why IN ('complete', 'exhausted', 'timeout') GROUP BY s.session, s.started, s.finished
ORDER BY s.started DESC LIMIT 1
"""

_PAUSED = "SELECT 1 FROM pauses WHERE run = ? LIMIT 1"

_TRIES = 5
"""How many points are drawn, at most, for each that is wanted."""

UNKNOWN = (
    "how long: not known before some trials of this model and data have run, say `--trials 3`; "
    "`optlang plan --measure` tries each technique once, with two epochs"
)
"""What is said without such a run."""


@dataclass(frozen=True, slots=True)
class PastRun:
    """An earlier run, or what was tried just now (`run` None): `own` says whether it is of the same study, `end` are
    the seconds after its last trial."""

    run: str | None
    own: bool
    trials: Sequence[PastTrial]
    end: float | None
    paused: bool = False
    """Whether its search had trials that paused."""


def past_run(plan: Plan, db: Path) -> PastRun | None:
    """The newest run with the model and data of this plan that has trials: of this study if there is one."""
    if not db.exists():
        return None
    alike = _alike(plan)
    with connect([db]) as reader:
        for run, study, stored in reader.query(_RUNS, [plan.study]).rows:
            before = read_plan(stored)
            if before is not None and _alike(before) == alike:
                end = reader.query(_END, [run]).rows
                paused = bool(reader.query(_PAUSED, [run]).rows)
                return PastRun(run, study == plan.study, _trials(reader, run), end[0][0] if end else None, paused)
    return None


def said(
    plan: Plan, past: PastRun, ladder: Sequence[Recipe], most: int | None, drawn: Sequence[Recipe] = ()
) -> list[str]:
    """How long the baseline, the ladder, `most` searched trials (None: as many as there is time for) and the end take.

    It is that of a run which finds nothing in the cache. `drawn` are trials that the search could draw: while too few
    have run, the techniques in them say how long such trials take.
    """
    forecast = Forecast(plan, fresh=True)
    for trial in past.trials:
        # What another study's search drew says nothing of this one's, but for its steps.
        forecast.add(trial if past.own or trial.origin != "sampler" else _other(trial))
    baseline = sum(trial.seconds for trial in past.trials if trial.origin == "baseline")
    end = Estimate(past.end or 0.0, whole=past.end is not None)
    alone = forecast.ladder(ladder)
    first = Estimate(baseline) + alone
    parts = [f"the baseline {in_seconds(baseline)}"] if baseline else []
    if ladder:
        parts.append(f"{counted(len(ladder), 'trial')} of one technique alone {_about(alone)}")
    timeout = plan.search.timeout
    searched = None if most is None else _searched(forecast, most, drawn)
    if searched is None or (timeout is not None and timeout <= (first + searched + end).seconds):
        assert timeout is not None
        fitting = _fitting(_searched(forecast, 1, drawn), timeout - first.seconds - end.seconds)
        lines = [f"{in_seconds(timeout)} in all", *([] if fitting is None else [fitting])]
    else:
        if most:
            parts.append(f"{counted(most, 'searched trial')} {_about(searched)}")
        lines = [f"{_about(first + searched + end)} in all"]
    if past.end is not None:
        parts.append(f"measuring the best again {in_seconds(past.end)}")
    if plan.search.halving is not None and not past.paused:
        parts.append("less with `halving`, which those trials had not")
    return ["how long", *(f"  {line}" for line in (*lines, *parts, _basis(past)))]


def could_be_drawn(space: Space, count: int) -> list[Recipe]:
    """So many trials that the search could draw, at random, always the same for a study; fewer where most are
    forbidden."""
    plan, random = space.plan, Random(space.plan.search.seed)
    found: list[Recipe] = []
    for _ in range(_TRIES * count):
        try:
            point = uniform(space, random)
        except Exhausted:
            break
        if space.forbidden(point) is None:
            found.append(resolve(plan, point))
        if len(found) == count:
            break
    return found


def _basis(past: PastRun) -> str:
    trials = counted(len(past.trials), "trial")
    if past.run is None:
        return f"as {trials} took just now, two epochs for each training, with nothing in the cache"
    where = f"run {past.run}" if past.own else f"run {past.run}, of another study,"
    return f"as {trials} of {where} took, with nothing in the cache"


def _searched(forecast: Forecast, count: int, drawn: Sequence[Recipe]) -> Estimate:
    """So many searched trials: by those that have run, else by what the techniques in some that could be drawn take."""
    known = forecast.searched(count)
    return known if known.whole or not drawn else forecast.drawn(drawn, count)


def _fitting(one: Estimate, seconds: float) -> str | None:
    """How many searched trials there is time for, each as long as `one`; None while that is not known."""
    if not one.whole or one.seconds <= 0:
        return None
    return f"time for about {counted(max(0, int(seconds / one.seconds)), 'searched trial')}, each {_about(one)}"


def _about(estimate: Estimate) -> str:
    if not estimate.whole and not estimate.seconds:
        return "not known yet"
    return f"{'about' if estimate.whole else 'at least'} {in_seconds(estimate.seconds)}"


def _other(trial: PastTrial) -> PastTrial:
    return PastTrial("other", trial.runtime, trial.seconds, trial.steps, trial.measured)


def _alike(plan: Plan) -> Any:
    """What trials of two plans must have in common to take as long: the model, the data, how often is measured."""
    content = plan.comparable()
    return content["model"], content["data"], plan.measure


def _trials(reader: Reader, run: str) -> list[PastTrial]:
    steps: dict[int, list[PastStep]] = {}
    for trial, technique, settings, cached, seconds in reader.query(_STEPS, [run]).rows:
        if seconds is not None:
            decided = json.loads(settings) if isinstance(settings, str) else settings or {}
            steps.setdefault(trial, []).append(PastStep(technique, decided, cached, seconds))
    return [
        PastTrial(origin, runtime or "", seconds, tuple(steps.get(trial, ())), measured)
        for trial, origin, runtime, seconds, measured in reader.query(_TRIALS, [run, INTERRUPTED]).rows
    ]
