"""Replays recorded learning curves (curves.json, by record.py): which trainings would be stopped, and which wrongly.

The recorded trials are taken in a random order, as a search may have drawn them, each time in another. A trial that is
stopped leaves no curve and no result to those after it. It is wrongly stopped where it would be in the front of all
trials. Its size and latency count as known before its training, within the margins that a run gives them; a trial on
its own is timed once more in a run, which costs what `WORTH` in optlang/run/early_end.py weighs, and nothing here.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optlang.analysis.load import load
from optlang.interfaces import Measurement
from optlang.plan.model import Plan
from optlang.run.curves import Epoch
from optlang.run.past_curves import PastCurves
from optlang.run.stopping import StoppedTraining, Stopping
from optlang.search import early, objectives, pareto
from optlang.space.recipe import Applied

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Trial:
    """A recorded trial: `curves` by the path of the step, in the order of the steps."""

    number: int
    origin: str
    state: str
    steps: tuple[Applied, ...]
    measurements: tuple[Measurement, ...]
    curves: Mapping[str, tuple[Epoch, ...]]

    @property
    def epochs(self) -> int:
        return sum(step.epochs for step in self.steps)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The epochs as a run has them."""
        return [
            {
                "path": path, "cached": False, "target": None, "epoch": item.epoch, "epochs": item.epochs,
                "metric": item.metric, "value": item.value,
            }
            for path, curve in self.curves.items() for item in curve
        ]


@dataclass(frozen=True)
class Replay:
    """What became of the trials in one order: those that were stopped, with the epochs that they had had."""

    stopped: Mapping[int, int]
    epochs: int
    """Of all trials, whole."""
    wrong: int
    missed: int
    """Of the stopped ones, those that could not meet a requirement any more; others were beaten."""

    def saved(self, trials: Mapping[int, Trial]) -> float:
        """The share of all epochs that were not trained."""
        return sum(trials[number].epochs - done for number, done in self.stopped.items()) / self.epochs


def recorded() -> tuple[Plan, dict[int, Trial]]:
    """The study, and its trials by number."""
    content = json.loads((HERE / "curves.json").read_text())
    found = load(HERE / "digits.opt", {"epochs": str(content["epochs"])})
    assert found.plan is not None, found.diagnostics
    return found.plan, {item["trial"]: _trial(item, content["measured"]) for item in content["trials"]}


def _trial(item: Mapping[str, Any], names: Sequence[str]) -> Trial:
    steps = tuple(
        Applied(path, technique, {} if epochs is None else {"epochs": epochs})
        for path, technique, epochs in item["steps"]
    )
    curves: dict[str, list[Epoch]] = {step.path: [] for step in steps if step.epochs}
    for path, epochs, epoch, value, seconds in item["curves"]:
        curves.setdefault(path, []).append(Epoch(epoch, epochs, None, "accuracy", value, seconds))
    measured = tuple(Measurement(**dict(zip(names, row, strict=True))) for row in item["measured"])
    return Trial(
        item["trial"], item["origin"], item["state"], steps, measured,
        {path: tuple(curve) for path, curve in curves.items() if curve},
    )


def replay(plan: Plan, trials: Mapping[int, Trial], order: Sequence[int]) -> Replay:
    """The searched trials in this order."""
    baseline = objectives.by_metric(plan, next(t for t in trials.values() if t.origin == "baseline").measurements)

    def losses(trial: Trial) -> tuple[float, ...]:
        measured = objectives.by_metric(plan, trial.measurements)
        return pareto.losses(plan, objectives.objective_values(plan, measured, baseline))

    missed = 0
    whole = {number: losses(trial) for number, trial in trials.items() if trial.state == "complete"}
    past, ended, stopped = PastCurves(plan), {0: whole[0]}, dict[int, int]()
    for number in order:
        trial = trials[number]
        done = _stopped_after(plan, trial, past, baseline, {item: ended[item] for item in pareto.front(ended)})
        if done is not None:
            stopped[number], failing = done
            missed += failing
            continue
        past.add(trial.steps, trial.measurements, trial.rows)
        if trial.state == "complete":
            ended[number] = whole[number]
    front = set(pareto.front(whole))
    return Replay(stopped, sum(trials[number].epochs for number in order), len(front.intersection(stopped)), missed)


def _stopped_after(
    plan: Plan, trial: Trial, past: PastCurves, baseline: objectives.Measured, rivals: Mapping[int, tuple[float, ...]]
) -> tuple[int, bool] | None:
    """After how many epochs in all the trial is stopped, and whether for a requirement; None where it is not."""
    known = tuple(early.bounded(item) for item in trial.measurements if item.metric in early.cheap(plan))
    stopping = Stopping(plan, known, baseline, rivals, past.of(trial.steps), {})
    done = 0
    for path, curve in trial.curves.items():
        for number in range(1, len(curve) + 1):
            try:
                stopping.look(plan.targets[0].name, path, curve[:number])
            except StoppedTraining as stop:
                return done + curve[number - 1].epoch, bool(stop.verdict.violations)
        done += curve[-1].epoch
    return None


def report(orders: int = 200) -> str:
    """A table of what stopping does on the recorded trials."""
    plan, trials = recorded()
    searched = [number for number, trial in trials.items() if trial.origin == "sampler"]
    draw = random.Random(0)
    found = [replay(plan, trials, draw.sample(searched, len(searched))) for _ in range(orders)]
    stopped, wrong = sum(len(item.stopped) for item in found), sum(item.wrong for item in found)
    missed = sum(item.missed for item in found)
    saved = [item.saved(trials) for item in found]
    return "\n".join((
        f"{len(searched)} trials with {found[0].epochs} epochs in {orders} orders",
        f"stopped in a training    {stopped / orders:.1f} trials an order, {missed / orders:.1f} by a requirement",
        f"wrongly                  {100 * wrong / max(stopped, 1):.2f} % of those ({wrong} of {stopped})",
        f"epochs not trained       {100 * statistics.mean(saved):.1f} % (from {100 * min(saved):.1f} to "
        f"{100 * max(saved):.1f} %)",
    ))
