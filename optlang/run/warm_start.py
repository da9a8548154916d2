"""What a search is given at its start: the trials of earlier runs in the database that are comparable with its own.

Comparable are figures next to the same baseline: the same model, data, baseline and metrics (the keys of the
baseline's steps and of what it was measured with), at the same target, and for goals or requirements that depend on
the machine on a processor and with libraries like these. The sampler learns of such trials. They are none of the run:
a point that is drawn again is carried out again, with the steps that are in the cache, so that all figures of a run
are its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from optlang.plan.model import Plan
from optlang.plan.quantities import counted
from optlang.run.job import WORKLOAD
from optlang.search import objectives
from optlang.search.objectives import Measured
from optlang.search.observation import Observation, value_of
from optlang.space.locate import locate
from optlang.space.recipe import Point, resolve
from optlang.space.space import Space
from optlang.store.journal import now
from optlang.store.plans import read_plan
from optlang.store.writer import RunRow, SessionRow, TrialRow, WarmRow, Writer

LIMIT = 500
"""So many trials are taken at most, the newest: samplers take longer with more."""

_MACHINE = ("processor", "cores")
_VERSIONS = ("torch", "onnxruntime", "openvino")

_BASELINE = "next to another baseline"
_OUTSIDE = "outside this space"
_ELSEWHERE = "on another machine or with other versions of the runtimes"
_ENDED = "failed, paused or ended early"
_ABSENT = "without a figure for every goal"
_OLDER = f"older than the newest {LIMIT}"
_AGAIN = "measured again later"


def observations(plan: Plan, store: Writer, run: str, say: Callable[[str], None]) -> list[Observation]:
    """What the search of this run is given, which is recorded with the run: later sessions are given the same.

    The run must have its baseline. `say` gets how many trials are taken, and why others are left out.
    """
    if not plan.search.warm_start:
        return []
    taken = store.warm_start(run)
    if taken is None:
        found = _Comparable(plan, store, run)
        taken = found.taken()
        store.record({"event": "warm start", "run": run, "taken": [asdict(item) for item in taken], "at": now()})
        say(_said(taken, found.left_out))
    whole = Space(plan)
    return [
        Observation(point, item.objectives, item.violations)
        for item in taken
        # Where the run was joined with another plan, a point of before may lie outside the space.
        if whole.contains(point := {path: value_of(value) for path, value in item.point.items()})
    ]


def _said(taken: list[WarmRow], left_out: Mapping[str, int]) -> str:
    runs = len({item.from_run for item in taken})
    rest = ", ".join(f"{count:,} {why}" for why, count in left_out.items())
    if taken:
        text = f"the search is given {counted(len(taken), 'trial')} of {counted(runs, 'earlier run')}"
        return f"{text}; left out: {rest}" if rest else text
    nothing = "no trial of an earlier run of this model and data can be taken"
    return f"{nothing}: {rest}" if rest else nothing


@dataclass(frozen=True, slots=True)
class _Earlier:
    """An earlier run with the same baseline: its own plan, and the baseline's figures as the new plan reads them."""

    run: str
    plan: Plan
    baseline: Measured


class _Comparable:
    """The trials of other runs that are comparable with those of `run`, and how many are not, by the reason."""

    def __init__(self, plan: Plan, store: Writer, run: str) -> None:
        self._plan, self._store, self._run = plan, store, run
        self._space = Space(plan)
        self._own = store.trials(run)[0]
        self._session = store.session(run, self._own.trial)
        self._timed = plan.timed
        self.left_out: Counter[str] = Counter()

    def taken(self) -> list[WarmRow]:
        """Those of the oldest run first; of several that do the same, the newest."""
        found: dict[str, WarmRow] = {}
        for earlier in self._earlier():
            for row in self._store.trials(earlier.run):
                if row.origin == "baseline" or row.interrupted or row.state == "running":
                    continue
                why = self._take(earlier, row, found)
                if why:
                    self.left_out[why] += 1
        newest = list(found.values())[-LIMIT:]
        if len(newest) < len(found):
            self.left_out[_OLDER] += len(found) - len(newest)
        return newest

    def _earlier(self) -> Iterator[_Earlier]:
        """The runs whose trials were compared with a baseline like this one's."""
        for run in self._store.runs():
            plan = read_plan(run.plan) if run.run != self._run else None
            if plan is None or not self._alike(plan):
                continue
            rows = self._store.trials(run.run)
            if rows and self._same_baseline(plan, run, rows[0]):
                yield _Earlier(run.run, plan, objectives.by_metric(self._plan, rows[0].measurements))
            else:
                self.left_out[_BASELINE] += sum(row.origin != "baseline" for row in rows)

    def _alike(self, plan: Plan) -> bool:
        """Whether a study is of this model and data; others are not spoken of."""
        own, other = self._plan.comparable(), plan.comparable()
        return all(own[part] == other[part] for part in ("model", "data"))

    def _same_baseline(self, plan: Plan, run: RunRow, row: TrialRow) -> bool:
        """Whether the earlier baseline was made of the same model and data by the same code, and scored alike."""
        own = self._own
        if (row.trial, row.state, row.runtime) != (own.trial, "complete", own.runtime):
            return False
        keys, others = ([step["key"] for step in item.steps] for item in (own, row))
        known = row.notes.get(WORKLOAD)
        if known is None:
            # Stored before that was noted: the steps' keys say the same, but for metrics of the study's own.
            return bool(keys) and keys == others and not any(metric.made_by for metric in (
                *self._plan.metrics, *plan.metrics
            ))
        return keys == others and known == own.notes.get(WORKLOAD)

    def _take(self, earlier: _Earlier, row: TrialRow, found: dict[str, WarmRow]) -> str | None:
        """Add a trial to what is found, or say why it is left out."""
        if row.state not in ("complete", "infeasible") or not row.measurements:
            return _ENDED
        if self._timed and not _like(self._store.session(earlier.run, row.trial), self._session):
            return _ELSEWHERE
        point = self._point(earlier.plan, row)
        if point is None:
            return _OUTSIDE
        measured = objectives.by_metric(self._plan, row.measurements)
        if objectives.absent(self._plan, measured, earlier.baseline) is not None:
            return _ABSENT
        effect = resolve(self._plan, point).effect
        if found.pop(effect, None) is not None:
            self.left_out[_AGAIN] += 1
        found[effect] = WarmRow(
            earlier.run, row.trial, point,
            tuple(objectives.objective_values(self._plan, measured, earlier.baseline)),
            tuple(objectives.constraints(self._plan, measured, earlier.baseline)),
        )
        return None

    def _point(self, plan: Plan, row: TrialRow) -> Point | None:
        """The point of this space that does what the trial did; None where there is none."""
        point = {path: value_of(value) for path, value in row.point.items()}
        if not row.in_space:
            return None
        recipe = resolve(plan, point)
        if self._space.contains(point) and resolve(self._plan, point).effect == recipe.effect:
            return point
        return locate(self._plan, self._space, recipe)


def _like(one: SessionRow | None, other: SessionRow | None) -> bool:
    """Whether two sessions ran on processors and with libraries like each other."""
    if one is None or other is None:
        return False
    return all(one.machine.get(name) == other.machine.get(name) for name in _MACHINE) and all(
        one.versions.get(name) == other.versions.get(name) for name in _VERSIONS
    ) and _devices(one) == _devices(other)


def _devices(session: SessionRow) -> dict[str, tuple[Any, ...]]:
    """What of the targets' other machines makes times comparable, by target."""
    kept: Mapping[str, Any] = cast("Mapping[str, Any]", session.machine.get("devices") or {})
    return {name: tuple(about.get(key) for key in ("processor", "python", "packages")) for name, about in kept.items()}
