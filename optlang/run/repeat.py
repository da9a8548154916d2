"""Carries out one trial of a stored run again from nothing, next to a baseline made again, in a database of its own."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from optlang.interfaces import JSON, OptlangError, OutsideError
from optlang.measure import signals
from optlang.plan.model import Plan
from optlang.run import machine
from optlang.run.engine import Engine, LocalEngine
from optlang.run.events import Watcher
from optlang.run.scheduler import Scheduler, runtime_label
from optlang.run.scratch import Scratch
from optlang.run.study import session, usable
from optlang.search.ablation import ablation_trials, baseline_recipe
from optlang.search.observation import value_of
from optlang.space.recipe import Point, Recipe, resolve
from optlang.space.space import Space
from optlang.store.writer import Writer


@dataclass(frozen=True, slots=True)
class Wanted:
    """A trial as it is stored. `point` are its knobs, None for a trial outside the space of its study; `tested` says
    that it has figures on the data's test part, `baseline` names the runtime that the baseline ran on."""

    number: int
    origin: str
    alone: str | None
    runtime: str
    baseline: str
    point: Mapping[str, JSON] | None
    tested: bool


@signals.raised()
def repeat(
    plan: Plan, text: str, file: Path, wanted: Wanted, db: Path, watcher: Watcher, engine: Engine | None = None
) -> str:
    """Make the baseline and the trial of `plan` again, and measure them side by side; returns the run's id in `db`.

    `db` is a database that does not exist yet. Its folder gets the cache and the artifacts, so nothing that another
    run has made is found. The trial neither ends early nor pauses, whatever the study says. Raises OptlangError where
    the trial is not one of the plan's or its baseline fails, OutsideError where a runtime of it is missing,
    InterruptedRun.
    """
    whole = {"stop_early": False, "halving": None, "timeout": None}
    plan = plan.model_copy(update={"search": plan.search.model_copy(update=whole)})
    folder, home, run_id = file.resolve().parent, machine.home_of(db), uuid.uuid4().hex[:12]
    home.mkdir(parents=True)
    with Writer(db) as store, Scratch(home) as scratch, closing(
        engine or LocalEngine(folder, scratch.folder)
    ) as engine:
        found = usable(plan, folder, engine)
        unavailable = found.unavailable
        recipe, point = recipe_of(plan, wanted, unavailable)
        scheduler = Scheduler(
            plan, folder, home, scratch, store, engine, watcher, run_id, unavailable, time.monotonic()
        )
        with session(scheduler, store, engine, run_id, plan, text, file, found.devices):
            scheduler.repeat(wanted.number, recipe, wanted.origin, point, wanted.alone, tested=wanted.tested)
    return run_id


def recipe_of(plan: Plan, wanted: Wanted, unavailable: Mapping[str, str]) -> tuple[Recipe, Point | None]:
    """What the trial did, and its point in the space of `plan`; None for a technique alone that is no point of it.

    `unavailable` maps the paths of the runtimes that this machine lacks to the reason. Raises OutsideError where the
    trial needs one of them, OptlangError where `plan` has no such trial.
    """
    baseline = baseline_recipe(plan, unavailable)
    if baseline.label != wanted.baseline:
        raise OutsideError(
            f"the baseline ran on {wanted.baseline}, and would run on {baseline.label} here: {_listed(unavailable)}",
            help="repeat it on a machine that has the runtime, or install it",
        )
    if wanted.number == 0:
        return baseline, None
    if wanted.point is None:
        return _alone(plan, wanted, unavailable), None
    point: Point = {path: value_of(value) for path, value in wanted.point.items()}
    if not Space(plan).contains(point):
        raise OptlangError(
            f"trial {wanted.number} is no point of the newest plan of its run, which went on with a changed study "
            "(--continue, --join)",
            help="repeat a trial that the changed study still has",
        )
    recipe = resolve(plan, point)
    labels = {place.label for place in recipe.places}
    missing = {path: reason for path, reason in unavailable.items() if runtime_label(plan, path) in labels}
    if missing:
        raise OutsideError(
            f"trial {wanted.number} runs on {recipe.label}, which this machine lacks: {_listed(missing)}",
            help="repeat it on a machine that has the runtime, or install it",
        )
    return recipe, point


def _alone(plan: Plan, wanted: Wanted, unavailable: Mapping[str, str]) -> Recipe:
    """A trial of the ladder that is no point of the space: the one of its technique on its runtime."""
    for trial in ablation_trials(plan, Space(plan, unavailable), unavailable):
        if trial.alone == wanted.alone and trial.recipe.label == wanted.runtime:
            return trial.recipe
    without = f" without {_listed(unavailable)}" if unavailable else ""
    raise OutsideError(
        f"trial {wanted.number}, {wanted.alone} alone on {wanted.runtime}, is none of the plan's here{without}",
        help="repeat it on a machine that has the same runtimes",
    )


def _listed(unavailable: Mapping[str, str]) -> str:
    return "; ".join(unavailable.values())
