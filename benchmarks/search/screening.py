"""Compares ways to search on spaces of which everything is known (spaces.py): what each has found after some seconds.

The figure is the hypervolume of what was found, as a share of that of the whole table's front: of the box between the
baseline (its latency, its size, five points of its accuracy lost) and nothing. Two more columns say when a search has
what the plain loop has after 40 trials, as a share of the plain loop's seconds, and when it has 99 % of the front, as a
share of the seconds that all points take. Medians over the seeds.

`optlang` is TPE as optlang draws it, with and without screening. `plain loop` is plain Optuna (multi-objective TPE with
its defaults), which does all steps of every trial; with a cache it is given what optlang has, and points that it draws
again take no time. For `mo-asha` see others.py.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import others
from spaces import HERE, TABULATED, Play, Table, made_up, tabulated

from optlang.plan.model import Sampler as Named
from optlang.plan.quantities import in_seconds
from optlang.run.draws import costs_of
from optlang.run.forecast import Forecast
from optlang.search.observation import Observation
from optlang.search.sampler import Sampler
from optlang.search.screening import Screening
from optlang.space.recipe import resolve
from optlang.space.space import Exhausted

PLAIN, TRIALS, NEARLY = "plain loop", 40, 0.99


def searched(table: Table, seed: int, limit: float, *, sampler: str, batch: int) -> tuple[Play, float]:
    """A search by a sampler of optlang for so many seconds of the table, and the seconds that one draw took."""
    search = table.plan.search.model_copy(update={"sampler": Named.model_validate({"name": sampler}), "seed": seed})
    plan = table.plan.model_copy(update={"search": search})
    known: set[str] = set()
    draws, forecast, play = Sampler(plan, table.space, known), Forecast(plan), Play(table)

    screening = Screening(plan, draws, costs_of(plan, forecast), batch)
    spent = 0.0
    for number in range(sys.maxsize):
        begin = time.process_time()
        try:
            asked = screening.ask(number)
        except Exhausted:
            break
        finally:
            spent += time.process_time() - begin
        known.add(resolve(plan, asked.point).effect)
        losses, past = play.carry_out(asked.point)
        forecast.add(past)
        told = Observation(asked.point, (losses[0], losses[1], -losses[2]), [losses[2] - 1], asked.state)
        draws.tell(told)
        screening.tell(told)
        if play.clock > limit:
            break
    return play, spent / len(play.found)


METHODS: dict[str, Callable[[Table, int, float], tuple[Play, float]]] = {
    "optlang": partial(searched, sampler="tpe", batch=16),
    "optlang, screening off": partial(searched, sampler="tpe", batch=0),
    PLAIN: partial(others.optuna_loop, cached=False, least=TRIALS),
    f"{PLAIN} with a cache": partial(others.optuna_loop, cached=True),
    "mo-asha": others.mo_asha,
    "nsga2": partial(searched, sampler="nsga2", batch=0),
    "random": partial(searched, sampler="random", batch=0),
}


def report(seeds: int = 10) -> str:
    """A table for each space: the formulas, and the studies that have been carried out whole."""
    tables = [made_up(), *(tabulated(name) for name in TABULATED if (HERE / f"{name}.json").exists())]
    found = ["\n".join(compared(table, seeds)) for table in tables]
    return "\n\n".join([*found, *([] if others.syne_tune() else [others.INSTALL])])


def compared(table: Table, seeds: int) -> Iterator[str]:
    """The lines of a table: what each search has found at each look, when it has what is aimed at, its trials, and
    what a draw took."""
    looks = [share * table.seconds for share in table.shares]
    yield f"{table.name}: {table.space.size().points} points, {in_seconds(table.seconds)} in all\n"
    yield f"| search | {' | '.join(map(in_seconds, looks))} | plain loop's | {NEARLY:.0%} | trials | a draw |"
    yield f"|---|{'---|' * (len(looks) + 4)}"
    aims: list[tuple[float, float]] = []
    lines: dict[str, str] = {}
    for method in [PLAIN, *(name for name in METHODS if name != PLAIN)]:
        if method == "mo-asha" and others.syne_tune() is None:
            continue
        plays = [METHODS[method](table, seed, looks[-1]) for seed in range(seeds)]
        if method == PLAIN:
            aims = [(play.volume(TRIALS), play.found[TRIALS - 1][0]) for play, _ in plays]
        cells = [f"{statistics.median(play.volume_at(look) for play, _ in plays):.3f}" for look in looks]
        shares = (
            [play.reached(volume) / seconds for (play, _), (volume, seconds) in zip(plays, aims, strict=True)],
            [play.reached(NEARLY) / table.seconds for play, _ in plays],
        )
        trials = statistics.median(sum(at <= looks[-1] for at, _ in play.found) for play, _ in plays)
        drawn = 1000 * statistics.median(seconds for _, seconds in plays)
        lines[method] = (
            f"| {method} | {' | '.join([*cells, *map(share_of, shares)])} | {trials:.0f} | {drawn:.0f} ms |"
        )
    yield from (lines[method] for method in METHODS if method in lines)


def share_of(values: list[float]) -> str:
    """The median; where it was never so far, that it takes longer."""
    median = statistics.median(values)
    return f"{median:.2f}" if math.isfinite(median) else "–"
