"""What trials of a study take, measured before it runs: each technique once with few epochs, each runtime once."""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from optlang.measure import signals
from optlang.plan.model import Plan
from optlang.run.engine import Engine, LocalEngine
from optlang.run.events import Watcher
from optlang.run.forecast import PastTrial
from optlang.run.how_long import PastRun, past_run
from optlang.run.scheduler import Scheduler
from optlang.run.scratch import Scratch
from optlang.run.study import session, usable
from optlang.search.ablation import AblationTrial, ablation_trials
from optlang.space.recipe import Applied
from optlang.space.space import Space
from optlang.store.reader import connect
from optlang.store.writer import Writer

EPOCHS = 2
"""With two epochs the second says what an epoch takes, and the first what comes on top of it once."""

FRONT = 6
"""How many trials are taken to be in the front at the end, about which nothing is known yet."""

# An epoch that was scored by several metrics stands once for each.
_CURVES = "SELECT DISTINCT trial, path, seconds FROM curves WHERE run = ? ORDER BY trial, path, seconds"


@signals.raised()
def calibrate(
    plan: Plan, text: str, file: Path, home: Path, watcher: Watcher, engine: Engine | None = None
) -> PastRun:
    """Carry out the baseline and a few trials of one technique alone, and return what those of `plan` would take.

    What the steps make stays in the cache of `home`, where the run finds the baseline's; nothing else stays. Raises
    OptlangError where nothing can be run, InterruptedRun.
    """
    plan = plan.model_copy(update={"search": plan.search.model_copy(update={"timeout": None})})
    run_id = uuid.uuid4().hex[:12]
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="optlang-calibrate-") as aside:
        db = Path(aside) / "calibrate.duckdb"
        try:
            trials, end = _carried_out(plan, text, file, db, home, run_id, watcher, engine)
            past = past_run(plan, db)
            assert past is not None, "the baseline and the trials were recorded"
            with connect([db]) as reader:
                curves = _curves(reader.query(_CURVES, [run_id]).rows)
        finally:
            shutil.rmtree(home / "artifacts" / run_id, ignore_errors=True)
    wanted: Mapping[int, AblationTrial] = dict(enumerate(trials, start=1))
    return PastRun(None, True, [
        _stretched(trial, wanted[number], curves.get(number, {})) if number in wanted else trial
        for number, trial in enumerate(past.trials)
    ], end)


def _carried_out(
    plan: Plan, text: str, file: Path, db: Path, home: Path, run_id: str, watcher: Watcher, engine: Engine | None
) -> tuple[list[AblationTrial], float]:
    """The trials as the study has them, and how long the end of a run will take."""
    folder = file.resolve().parent
    with Writer(db) as store, Scratch(home) as scratch, closing(
        engine or LocalEngine(folder, scratch.folder)
    ) as engine:
        found = usable(plan, folder, engine)
        unavailable = found.unavailable
        trials = list(covering(ablation_trials(plan, Space(plan, unavailable), unavailable)))
        scheduler = Scheduler(
            plan, folder, home, scratch, store, engine, watcher, run_id, unavailable, time.monotonic()
        )
        with session(scheduler, store, engine, run_id, plan, text, file, found.devices):
            scheduler.try_alone([_short(trial) for trial in trials])
        return trials, scheduler.end_with(FRONT)


def covering(trials: Iterable[AblationTrial]) -> Iterator[AblationTrial]:
    """Of the ladder's trials those that use a technique, or a runtime, for the first time."""
    techniques: set[str] = set()
    labels: set[str] = set()
    for trial in trials:
        used = {step.technique for step in trial.recipe.steps}
        if used - techniques or trial.recipe.label not in labels:
            techniques |= used
            labels.add(trial.recipe.label)
            yield trial


def _short(trial: AblationTrial) -> AblationTrial:
    """The trial with few epochs, which is no point of the study's space."""
    steps = tuple(
        replace(step, settings={**step.settings, "epochs": min(EPOCHS, step.epochs)}) if step.epochs else step
        for step in trial.recipe.steps
    )
    return replace(trial, recipe=replace(trial.recipe, steps=steps), point=None)


def _curves(rows: Iterable[Sequence[object]]) -> dict[int, dict[str, list[float]]]:
    """The seconds at which each epoch ended, by trial and path."""
    found: dict[int, dict[str, list[float]]] = {}
    for trial, path, seconds in rows:
        assert isinstance(trial, int)
        assert isinstance(seconds, float)
        found.setdefault(trial, {}).setdefault(str(path), []).append(seconds)
    return found


def _stretched(trial: PastTrial, wanted: AblationTrial, curves: Mapping[str, Sequence[float]]) -> PastTrial:
    """The trial as it would have been with all of its epochs."""
    steps = []
    more = 0.0
    for step, whole in zip(trial.steps, wanted.recipe.steps, strict=False):
        extra = 0.0 if step.cached else _more(whole, step.epochs, step.seconds, curves.get(whole.path, ()))
        steps.append(replace(step, settings=whole.settings, seconds=step.seconds + extra))
        more += extra
    return replace(trial, seconds=trial.seconds + more, steps=tuple(steps))


def _more(whole: Applied, tried: int, seconds: float, ends: Sequence[float]) -> float:
    """The seconds that a step takes longer with all of its epochs than with those that were tried."""
    if not tried:
        return 0.0
    if len(ends) < EPOCHS:
        return seconds * (whole.epochs / tried - 1)
    # A technique in rounds reports the epochs of each.
    return (ends[1] - ends[0]) * len(ends) * (whole.epochs / tried - 1)
