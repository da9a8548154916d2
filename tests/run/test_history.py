"""What a run knows of its trials, also when it goes on in another process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from optlang.interfaces import Measurement
from optlang.plan.model import Plan
from optlang.run.history import History
from optlang.run.job import Result
from optlang.search.ablation import ablation_trials, baseline_recipe
from optlang.space.space import Space

Make = Callable[..., Plan]


def test_a_ladder_trial_outside_the_space_stands_in_no_points_way(plan_of: Make) -> None:
    plan = plan_of("steps { maybe channels { ratio = 30% }; maybe static }", target="target here { runtime = eager }")
    space = Space(plan)
    history = History(plan, space, (), Path("nowhere"))
    measured = Result(measurements=(Measurement("accuracy", 1.0, "", 1, 1.0, 1.0, "here"),))
    history.add(0, baseline_recipe(plan), "baseline", None, None, measured, {})
    rungs = list(ablation_trials(plan, space, {}))
    for number, rung in enumerate(rungs, 1):
        history.add(number, rung.recipe, "ladder", rung.point, rung.alone, measured, {})
    assert {rung.alone for rung in rungs if rung.point is None} == {"prune.channels"}
    # A later session reads only points, and must draw what this one draws.
    effects = {rung.recipe.effect for rung in rungs if rung.point is not None}
    assert history.known == {baseline_recipe(plan).effect} | effects
    assert all(history.has(rung) for rung in rungs)
