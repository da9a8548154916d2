"""The complete learning curves of a run, by what makes trainings comparable."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from optlang.interfaces import Measurement
from optlang.plan.model import Plan
from optlang.run.stopping import Past
from optlang.search.promise import ENOUGH, Curve
from optlang.space.recipe import Applied

Kind = tuple[str, str, int]
"""The place in the study, in whichever round; the technique; how many trainings come after it."""

MOST = 100
"""How many of the newest curves are compared with: more would take time and tell nothing."""

_ROUND = re.compile(r"\[\d+\]")


class PastCurves:
    """Collects the curves of trials that were measured.

    Trainings are comparable where they are the same step of the study with as many trainings behind them: what comes
    after a training is part of what it gains in the end.
    """

    def __init__(self, plan: Plan) -> None:
        self._judged = frozenset(plan.judged)
        self._several = [target.name for target in plan.targets]
        self._found: dict[Kind, dict[tuple[str, str], list[Curve]]] = {}

    def add(
        self, steps: Sequence[Applied], measurements: Iterable[Measurement], epochs: Iterable[Mapping[str, Any]]
    ) -> None:
        """Take in a trial: what was measured of it, and the epochs of its steps with path and `cached` (None: the step
        was broken off)."""
        finals = {(item.target, item.metric): item.value for item in measurements if item.metric in self._judged}
        kinds = dict(_kinds(steps))
        curves: dict[tuple[str, str | None, str], list[Mapping[str, Any]]] = {}
        for epoch in epochs:
            if epoch["cached"] is not None and epoch["metric"] in self._judged and epoch["epochs"]:
                curves.setdefault((epoch["path"], epoch.get("target"), epoch["metric"]), []).append(epoch)
        own = {(path, target) for path, target, _ in curves}
        for (path, only, metric), listed in curves.items():
            values = tuple((int(item["epoch"]), float(item["value"])) for item in listed)
            # A technique that trains in rounds reports the epochs of each: where it stood is not known by the epoch.
            if path not in kinds or any(one >= other for (one, _), (other, _) in pairwise(values)):
                continue
            for target in self._several if only is None else [only]:
                final = finals.get((target, metric))
                # Of a step whose results differ each target has its own curve.
                if final is not None and (only is not None or (path, target) not in own):
                    found = self._found.setdefault(kinds[path], {})
                    found.setdefault((target, metric), []).append(Curve(int(listed[0]["epochs"]), values, final))

    def of(self, steps: Sequence[Applied]) -> dict[str, Past]:
        """By the path of each training among `steps`, the curves of those that are comparable, where there are enough.

        What comes behind a training makes its end less certain: each further training takes as many curves again.
        """
        found: dict[str, Past] = {}
        for path, kind in _kinds(steps):
            _, _, behind = kind
            several = {
                key: tuple(curves[-MOST:]) for key, curves in self._found.get(kind, {}).items()
                if len(curves) >= ENOUGH * (1 + behind)
            }
            if several:
                found[path] = several
        return found


def _kinds(steps: Sequence[Applied]) -> Iterator[tuple[str, Kind]]:
    trained = [step for step in steps if step.epochs > 0]
    for number, step in enumerate(trained, 1):
        yield step.path, (_ROUND.sub("", step.path), step.technique, len(trained) - number)
