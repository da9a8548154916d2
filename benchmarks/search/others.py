"""Other searches on the spaces of spaces.py: plain Optuna loops, and MO-ASHA of Syne Tune where that is installed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

from spaces import Play, Table, keyed

from optlang.plan.domains import contains, every_value, size
from optlang.plan.model import Domain, Knob
from optlang.space.recipe import Point, resolve

EPOCHS = "rounds.recover.epochs"
"""The knob that MO-ASHA turns into rungs."""

INSTALL = (
    "MO-ASHA is left out: `pip install --target FOLDER --no-deps syne-tune==0.16.0 dill statsmodels patsy`, and "
    "PYTHONPATH=FOLDER"
)


def optuna_loop(table: Table, seed: int, limit: float, *, cached: bool, least: int = 0) -> tuple[Play, float]:
    """Optuna's TPE with its defaults, which asks for the knobs that are there; at least so many trials.

    Without a cache each trial does all of its steps, as a loop of a few lines does.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize"] * 3, sampler=optuna.samplers.TPESampler(seed=seed))
    play, spent = Play(table, cached), 0.0
    points = table.space.size().points or 0
    # With a cache points that were tried take no time: a search that draws nothing else any more has an end too.
    while (play.clock <= limit or len(play.found) < least) and len(play.found) < 10 * points:
        begin = time.process_time()
        trial = study.ask()
        point = table.space.draw(partial(suggested, trial))
        spent += time.process_time() - begin
        losses, _ = play.carry_out(point)
        trial.set_constraint("0", losses[2] - 1)
        study.tell(trial, losses)
    return play, spent / len(play.found)


def suggested(trial: Any, knob: Knob, domain: Domain) -> Any:
    """A knob as Optuna draws it; all are finite here."""
    values = list(every_value(domain))
    return values[trial.suggest_categorical(f"{knob.path}#{size(domain)}", list(range(len(values))))]


def syne_tune() -> Any:
    """Its module of MO-ASHA; None where it is not installed."""
    try:
        # What it says of extras that are not there is no matter here.
        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        from syne_tune.optimizer.schedulers.multiobjective import moasha
    except ImportError:
        return None
    return moasha


def mo_asha(table: Table, seed: int, limit: float) -> tuple[Play, float]:
    """MO-ASHA (Schmucker et al., 2021), stopping, on one worker.

    Its rungs are the numbers of epochs that the study searches: a trial is measured after the fewest, and goes on from
    there to more. It has the cache of steps too; trials without a training are measured once.
    """
    import numpy as np
    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import choice

    levels = [int(value) for value in every_value(next(k.domain for k in table.plan.knobs if k.path == EPOCHS))]
    others = [knob for knob in table.plan.knobs if knob.path != EPOCHS and size(knob.domain) != 1]
    # Its domains draw from NumPy's own numbers.
    np.random.seed(seed)
    scheduler = syne_tune().MOASHA(
        {knob.path: choice(list(range(size(knob.domain) or 1))) for knob in others}, ["a", "b", "c"],
        time_attr="epochs", max_t=levels[-1], grace_period=levels[0], reduction_factor=levels[1] / levels[0],
        random_seed=seed,
    )
    play, spent, number = Play(table), 0.0, 0
    points = table.space.size().points or 0
    while play.clock <= limit and len(play.found) < 10 * points:
        begin = time.process_time()
        config = scheduler.suggest().config
        spent += time.process_time() - begin
        trial = Trial(trial_id=number, config=config, creation_time=None)
        scheduler.on_trial_add(trial)
        number += 1
        for before, level in pairwise([0, *levels]):
            point = at(table, config, level)
            losses, _ = play.carry_out(point, trained(table, config, before))
            told = {"epochs": level if EPOCHS in point else levels[-1], **dict(zip("abc", losses, strict=True))}
            begin = time.process_time()
            decision = scheduler.on_trial_result(trial, told)
            spent += time.process_time() - begin
            if decision == "STOP" or EPOCHS not in point:
                break
    return play, spent / len(play.found)


def at(table: Table, config: Mapping[str, int], epochs: int) -> Point:
    """The point of a configuration, trained for so many epochs; what a point rules out gives way to what it has."""
    def value(knob: Knob, domain: Domain) -> Any:
        wanted = epochs if knob.path == EPOCHS else list(every_value(knob.domain))[config.get(knob.path, 0)]
        return wanted if contains(domain, wanted) else next(every_value(domain))

    return table.space.draw(value)


def trained(table: Table, config: Mapping[str, int], epochs: int) -> float:
    """The seconds of the recovery that a configuration has had after so many epochs."""
    if not epochs:
        return 0.0
    recipe = resolve(table.plan, at(table, config, epochs))
    return sum(
        table.step(key, step.technique, step.epochs) for key, step in keyed(table.plan, recipe)
        if step.technique == "training.finetune"
    )
