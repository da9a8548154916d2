"""Ends a trial in its training where the best that it can still become decides it. Travels with the trial's job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optlang.interfaces import JSON, Measurement
from optlang.plan.metrics import UNITS
from optlang.plan.model import Plan
from optlang.run.curves import Epoch
from optlang.search import early, objectives
from optlang.search.early import Verdict
from optlang.search.objectives import Measured
from optlang.search.promise import Curve, best

SAVED = "early.saved_seconds"
"""The note of a trial that ended early: the seconds that this is estimated to have saved."""

EPOCH = "early.epoch"
"""The note of a trial that ended in its training: after which epoch."""

MEASURED = "early."
"""What the notes of its measured figures begin with, before the metric and, of several, the target."""

Past = Mapping[tuple[str, str], tuple[Curve, ...]]
"""Complete curves of comparable trainings, by target and metric."""


class StoppedTraining(BaseException):
    """The trial is decided. It is no `Exception`: a technique of the user's own must not take it for a failure."""

    def __init__(self, verdict: Verdict, notes: Mapping[str, JSON]) -> None:
        super().__init__(verdict.reason)
        self.verdict, self.notes = verdict, notes


@dataclass(frozen=True, slots=True)
class Stopping:
    """What decides a trial in its trainings.

    `known` are measurements as `early.bounded` gives them, of what the trainings leave as it is; `rivals` the losses of
    the front; `past` curves by the path of the step, `later` the seconds of the trainings behind it.
    """

    plan: Plan
    known: tuple[Measurement, ...]
    baseline: Measured
    rivals: Mapping[int, tuple[float, ...]]
    past: Mapping[str, Past]
    later: Mapping[str, float]

    def look(self, target: str, path: str, curve: Sequence[Epoch]) -> None:
        """Look at the curve of a step on a target, so far; raises StoppedTraining where the trial is decided."""
        last = curve[-1]
        past = self.past.get(path)
        if past is None or last.epochs is None:
            return
        now = {item.metric: item.value for item in curve if item.epoch == last.epoch}
        forecasts = []
        for name, value in now.items():
            if name is not None and value is not None:
                curves = past.get((target, name))
                reached = self._reached(name, value, last, curves) if curves else None
                if reached is not None:
                    forecasts.append((name, value, reached))
        verdict = self._verdict(target, path, last, forecasts)
        if verdict is None:
            return
        left = (last.epochs - last.epoch) * last.seconds / last.epoch + self.later.get(path, 0.0)
        notes: dict[str, JSON] = {EPOCH: last.epoch, "early.epochs": last.epochs, "early.step": path}
        for name, value, reached in forecasts:
            notes |= {f"{MEASURED}{name}": value, f"{MEASURED}{name}.best": reached}
        raise StoppedTraining(verdict, notes | {SAVED: round(left, 3)})

    def _reached(self, name: str, value: float, last: Epoch, past: Sequence[Curve]) -> float | None:
        assert last.epochs is not None
        metric = self.plan.metric(name)
        more = metric.direction == "maximize"
        limit = 1.0 if metric.dimension == "ratio" and more else None
        # What is to be small and was never negative (a loss, an error) is taken to be none that can be.
        if not more and min(value, *(item.final for item in past), *(v for item in past for _, v in item.values)) >= 0:
            limit = 0.0
        return best(value, last.epoch, last.epochs, past, more=more, limit=limit)

    def _verdict(
        self, target: str, path: str, last: Epoch, forecasts: Sequence[tuple[str, float, float]]
    ) -> Verdict | None:
        if not forecasts:
            return None
        items = [self._forecast(target, name, reached) for name, _, reached in forecasts]
        known = objectives.by_metric(self.plan, [*self.known, *items])
        said = [early.reached(self.plan, name, value, reached) for name, value, reached in forecasts]
        so_far = f"after epoch {last.epoch} of {last.epochs} of {path}: {', '.join(said)} by this run's curves"
        return early.unpromising(self.plan, known, self.baseline, self.rivals, so_far)

    def _forecast(self, target: str, name: str, reached: float) -> Measurement:
        """What the metric can become: `reached` at best, and anything worse."""
        metric = self.plan.metric(name)
        worst = 0.0 if metric.dimension == "ratio" else float("-inf")
        low, high = (worst, reached) if metric.direction == "maximize" else (reached, float("inf"))
        return Measurement(name, reached, UNITS.get(metric.dimension, ""), 1, low, high, target)
